/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Envelopes that differ from the one before in numbers alone: they are written and read as if there had been none before. */
#include "envelope_frames.h"
#include "envelope_walk.h"

static palm_envelope plain(palm_record *r, uint64_t body_size)
{
    r->body_size = body_size;
    return (palm_envelope){.kind = PALM_DATA, .hop = 3, .handle = 4, .sender = 5, .seq = 6, .records = r, .n_records = 1,
                           .body_size = body_size};
}

static void check_as_if_first(const palm_envelope *e)
{
    palm_writer *fresh;
    const uint8_t *head;
    size_t size;
    palm_envelope out;
    frame f = frame_of(e);
    CHECK_OK(palm_writer_new(&fresh));
    CHECK_OK(palm_writer_head(fresh, e, &head, &size));
    CHECK(size == f.size - e->body_size && !memcmp(head, f.bytes, size));
    CHECK_OK(frame_read(f, e, &out));
    CHECK(same_envelope(e, &out));
    palm_writer_free(fresh);
    free(f.bytes);
}

static void test_each_number(void)
{
    palm_record r = {.number = UINT64_MAX, .deadline = 7, .attempt = 2, .form = PALM_BYTES, .flags = 1};
    palm_envelope e = plain(&r, 64);
    check_as_if_first(&e);
    e.hop = UINT16_MAX;
    check_as_if_first(&e);
    e.handle = UINT32_MAX;
    check_as_if_first(&e);
    e.sender = UINT64_MAX;
    check_as_if_first(&e);
    e.seq = UINT64_MAX;
    check_as_if_first(&e);
    e.kind = PALM_RELEASE;
    check_as_if_first(&e);
    r = (palm_record){.form = PALM_DROP, .count = 9};
    e = (palm_envelope){.kind = PALM_DATA, .seq = 1, .records = &r, .n_records = 1}; /* all others are 0 */
    check_as_if_first(&e);
    r = (palm_record){.number = 8, .form = PALM_BYTES, .count = 50};
    e = plain(&r, 4000);
    check_as_if_first(&e);
}

static void test_others_in_between(void)
{
    const uint64_t paths[] = {1, 2};
    palm_record two[] = {{.form = PALM_NOTHING}, {.number = 1, .form = PALM_NOTHING}};
    palm_record r = {.form = PALM_TREE};
    palm_envelope e = plain(&r, 8), others[] = {plain(two, 0), plain(&two[1], 0)};
    others[0].n_records = 2;
    others[1].paths = paths;
    others[1].n_paths = 2;
    for (int i = 0; i < 2; i++) {
        check_as_if_first(&e);
        check_as_if_first(&others[i]);
        check_as_if_first(&e);
    }
}

/* The verdict of a reader that has seen `known` before is that of one that has seen nothing. */
static void check_verdict(frame known, frame f)
{
    const palm_envelope alone = {0};
    palm_reader *fresh;
    palm_envelope out, wanted;
    CHECK_OK(frame_read(known, &alone, &out));
    CHECK_OK(palm_reader_new(&fresh));
    palm_err err = palm_reader_read(fresh, f.bytes, f.size, NULL, 0, &wanted);
    CHECK_ERR(frame_read(f, &alone, &out), err);
    CHECK(err || same_envelope(&wanted, &out));
    palm_reader_free(fresh);
}

static void test_each_byte(void)
{
    palm_record r = {.number = 1, .form = PALM_BYTES};
    palm_envelope e = plain(&r, 8);
    frame f = frame_of(&e), other = frame_copy(f, f.size);
    for (size_t i = 0; i < f.size - e.body_size; i++)
        for (int bit = 0; bit < 8; bit++) {
            other.bytes[i] ^= (uint8_t)(1 << bit);
            check_verdict(f, other);
            other.bytes[i] = f.bytes[i];
        }
    free(other.bytes);
    free(f.bytes);
}

static void test_sizes(void)
{
    palm_record r = {.number = 1, .form = PALM_BYTES};
    palm_envelope e = plain(&r, 8);
    frame f = frame_of(&e);
    for (size_t size = 0; size < f.size; size++) {
        frame less = frame_copy(f, size);
        check_verdict(f, less);
        free(less.bytes);
    }
    free(f.bytes);
}

/* The table's entry of one field says where another one lies: what is read then lies in the frame all the same, and who has
 * accepted it reads what it has always read of others. */
static void test_fields_over_one_another(void)
{
    const palm_envelope alone = {0};
    palm_record r = {.number = 1, .form = PALM_BYTES};
    palm_envelope out, e = plain(&r, 8);
    frame f = frame_of(&e), honest = frame_copy(f, f.size);
    int accepted = 0;
    for (uint8_t *entry = f.bytes; entry + 2 <= f.bytes + f.size - e.body_size; entry += 2)
        for (uint16_t at = 0; at < 160; at += 2) {
            uint16_t saved;
            memcpy(&saved, entry, sizeof saved);
            memcpy(entry, &at, sizeof at);
            if (!frame_read(f, &alone, &out)) {
                accepted++;
                walk_envelope(&out);
                CHECK_OK(frame_read(honest, &alone, &out));
                CHECK(same_envelope(&e, &out));
                for (size_t i = 0; i < f.size - e.body_size; i++) {
                    f.bytes[i] ^= 0xff;
                    if (!frame_read(f, &alone, &out))
                        walk_envelope(&out);
                    f.bytes[i] ^= 0xff;
                }
            }
            memcpy(entry, &saved, sizeof saved);
        }
    CHECK(accepted);
    free(honest.bytes);
    free(f.bytes);
}

enum { TABLE = 12, VTABLE = 124, FRAME = 200 }; /* places that no writer of ours takes: the vtable lies behind its table */

/* fields: from TABLE to the root table's first nine. */
static frame behind(const uint16_t fields[9])
{
    frame f = frame_new(FRAME);
    memset(f.bytes, 0, f.size);
    memcpy(f.bytes, &(uint32_t){148}, 4);
    memcpy(f.bytes + 4, &(uint32_t){TABLE - 4}, 4);
    memcpy(f.bytes + 8, "PALM", 4);
    memcpy(f.bytes + TABLE, &(int32_t){TABLE - VTABLE}, 4);
    memcpy(f.bytes + VTABLE, (uint16_t[]){22, 60}, 4);
    memcpy(f.bytes + VTABLE + 4, fields, 9 * sizeof *fields);
    memcpy(f.bytes + 16, (uint64_t[]){77, 5, 8}, 24); /* sender, seq, body_size */
    memcpy(f.bytes + 40, (uint32_t[]){1, 16}, 8);     /* handle; the records are at 60 */
    memcpy(f.bytes + 48, (uint16_t[]){PALM_DATA, 1, PALM_WIRE_VERSION}, 6);
    memcpy(f.bytes + 60, &(uint32_t){1}, 4);
    memcpy(f.bytes + 64, &(palm_record){.number = 3, .body_size = 8, .form = PALM_BYTES}, sizeof(palm_record));
    return f;
}

/* A stranger has three numbers lie over the vtable, which is all that its head and the other's differ in. */
static void test_a_stranger_with_the_vtable_behind(void)
{
    const palm_envelope alone = {0};
    palm_envelope out;
    frame honest = behind((uint16_t[]){40, 36, 38, 28, 4, 12, 20, 0, 32});
    frame strange = behind((uint16_t[]){40, 36, 38, VTABLE + 20 - TABLE, VTABLE + 4 - TABLE, VTABLE + 12 - TABLE, 20, 0, 32});
    CHECK_OK(frame_read(strange, &alone, &out));
    CHECK_OK(frame_read(honest, &alone, &out));
    CHECK(out.handle == 1 && out.sender == 77 && out.seq == 5 && out.records->number == 3);
    free(strange.bytes);
    free(honest.bytes);
}

int main(void)
{
    frames_open();
    test_each_number();
    test_others_in_between();
    test_each_byte();
    test_sizes();
    test_fields_over_one_another();
    test_a_stranger_with_the_vtable_behind();
    frames_close();
    return 0;
}
