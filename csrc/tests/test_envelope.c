/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_envelope GOLDEN          all tests; GOLDEN: the directory schema/golden
 * test_envelope --write DIR     writes the golden envelopes with this writer, for tests/test_wire_golden.py
 * test_envelope --seeds DIR     the same as inputs of fuzz_envelope, for csrc/tests/corpus/envelope */
#include "envelope_frames.h"
#include "envelope_walk.h"
#include "golden_envelopes.h"

#include <sys/stat.h>

/* ------------------------------------------------------------------------------------------------------ round trips */

static void test_round_trips(void)
{
    for (int i = 0; i < N_GOLDENS; i++) {
        const palm_envelope *e = &goldens[i].e;
        palm_envelope out;
        frame f = frame_of(e);
        CHECK_OK(frame_read(f, e, &out));
        CHECK(same_envelope(e, &out));
        CHECK(!e->body_size || out.body == f.bytes + f.size - e->body_size);
        walk_envelope(&out);
        free(f.bytes);
    }
}

static void test_forms_in_places(void)
{
    static const uint8_t forms[] = {PALM_BYTES, PALM_ARRAY, PALM_TREE, PALM_ERROR};
    const uint64_t parts[] = {256};
    const int64_t dims[] = {3, 64};
    const palm_block block = {.size = 256};
    for (size_t form = 0; form < sizeof forms; form++)
        for (uint8_t place = PALM_IN_BODY; place <= PALM_IN_PART; place++) {
            palm_record r = {.array_count = 1, .form = forms[form]};
            palm_array a = {.start = 64, .size = 192, .ndim = 1, .place = place};
            palm_envelope out, e = {.kind = PALM_DATA, .seq = 1, .records = &r, .n_records = 1, .arrays = &a,
                                    .n_arrays = 1, .blocks = &block, .n_blocks = 1, VECTOR(parts, parts),
                                    VECTOR(dims, dims), VECTOR(dtypes, u1), .body_size = 256};
            frame f = frame_of(&e);
            CHECK_OK(frame_read(f, &e, &out));
            CHECK(same_envelope(&e, &out));
            walk_envelope(&out);
            free(f.bytes);
        }
}

static void test_head_is_the_same_each_time(void)
{
    palm_writer *other;
    const uint8_t *head, *again;
    size_t size, size_again;
    CHECK_OK(palm_writer_new(&other));
    for (int i = 0; i < N_GOLDENS; i++) {
        CHECK_OK(palm_writer_head(writer, &goldens[i].e, &head, &size));
        CHECK_OK(palm_writer_head(other, &goldens[i].e, &again, &size_again));
        CHECK(size == size_again && !memcmp(head, again, size));
    }
    palm_writer_free(other);
    palm_writer_free(NULL);
    palm_reader_free(NULL);
}

/* ------------------------------------------------------------------------------------------------------ golden files */

static frame file_read(const char *directory, const char *name)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s.bin", directory, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        perror(path);
    CHECK(file && !fstat(fileno(file), &st));
    frame f = frame_new((size_t)st.st_size);
    CHECK(fread(f.bytes, 1, f.size, file) == f.size);
    fclose(file);
    return f;
}

static void file_write(const char *directory, const char *name, frame f)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.bin", directory, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        perror(path);
    CHECK(file && fwrite(f.bytes, 1, f.size, file) == f.size && !fclose(file));
}

static void write_all(const char *directory)
{
    for (int i = 0; i < N_GOLDENS; i++) {
        frame f = frame_of(&goldens[i].e);
        file_write(directory, goldens[i].name, f);
        free(f.bytes);
    }
}

/* What fuzz_envelope reads: how many parts, their sizes, the frame. */
static void write_seeds(const char *directory)
{
    for (int i = 0; i < N_GOLDENS; i++) {
        const palm_envelope *e = &goldens[i].e;
        frame f = frame_of(e), seed = frame_new(1 + 4 * e->n_parts + f.size);
        seed.bytes[0] = (uint8_t)e->n_parts;
        for (uint32_t k = 0; k < e->n_parts; k++) {
            uint32_t part = (uint32_t)e->parts[k];
            memcpy(seed.bytes + 1 + 4 * k, &part, sizeof part);
        }
        memcpy(seed.bytes + seed.size - f.size, f.bytes, f.size);
        file_write(directory, goldens[i].name, seed);
        free(seed.bytes);
        free(f.bytes);
    }
}

static void test_golden_files(const char *directory)
{
    for (int i = 0; i < N_GOLDENS; i++) {
        const palm_envelope *e = &goldens[i].e;
        palm_envelope out;
        frame f = file_read(directory, goldens[i].name);
        frame body = frame_new(e->body_size);
        fill_body(body.bytes, e->body_size);
        CHECK_OK(frame_read(f, e, &out));
        CHECK(same_envelope(e, &out));
        CHECK(!e->body_size || !memcmp(out.body, body.bytes, e->body_size));
        walk_envelope(&out);
        free(body.bytes);
        free(f.bytes);
    }
}

/* ------------------------------------------------------------------------------------------------ damaged at random */

static void test_truncated(frame f, const palm_envelope *e)
{
    for (size_t size = 0; size < f.size; size++) {
        palm_envelope out;
        frame shorter = frame_copy(f, size);
        CHECK_ERR(frame_read(shorter, e, &out), PALM_EMALFORMED);
        free(shorter.bytes);
    }
    frame longer = frame_new(f.size + 1);
    palm_envelope out;
    memcpy(longer.bytes, f.bytes, f.size);
    longer.bytes[f.size] = 0;
    CHECK_ERR(frame_read(longer, e, &out), PALM_EMALFORMED);
    free(longer.bytes);
}

static void test_flipped(frame f, const palm_envelope *e)
{
    frame copy = frame_copy(f, f.size);
    for (size_t bit = 0; bit < 8 * f.size; bit++) {
        palm_envelope out;
        copy.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        palm_err err = frame_read(copy, e, &out);
        CHECK(!err || err == PALM_EMALFORMED || err == PALM_ELIMIT || err == PALM_EVERSION);
        if (!err)
            walk_again(&out);
        copy.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(copy.bytes);
}

static void test_damaged(const char *directory)
{
    for (int i = 0; i < N_GOLDENS; i++) {
        frame ours = frame_of(&goldens[i].e), theirs = file_read(directory, goldens[i].name);
        test_truncated(ours, &goldens[i].e);
        test_truncated(theirs, &goldens[i].e);
        test_flipped(ours, &goldens[i].e);
        test_flipped(theirs, &goldens[i].e);
        free(ours.bytes);
        free(theirs.bytes);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: test_envelope GOLDEN | --write DIRECTORY | --seeds DIRECTORY\n");
        return 2;
    }
    frames_open();
    if (argc == 3 && !strcmp(argv[1], "--write")) {
        write_all(argv[2]);
    } else if (argc == 3 && !strcmp(argv[1], "--seeds")) {
        write_seeds(argv[2]);
    } else {
        test_round_trips();
        test_forms_in_places();
        test_head_is_the_same_each_time();
        test_golden_files(argv[1]);
        test_damaged(argv[1]);
    }
    frames_close();
    return 0;
}
