/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_envelope GOLDEN          all tests; GOLDEN: the directory schema/golden
 * test_envelope --write DIR     writes the golden envelopes with this writer, for tests/test_wire_golden.py
 * test_envelope --seeds DIR     the same as inputs of fuzz_envelope, for csrc/tests/corpus/envelope */
#include "check.h"
#include "envelope_walk.h"

#include <sys/stat.h>

/* ------------------------------------------------------------------------- the golden envelopes, as make_golden.py */

#define VECTOR(field, array) .field = array, .n_##field = sizeof(array) / sizeof *(array)
#define TEXT(literal) {literal, sizeof(literal) - 1}
#define SENDER .sender = 0x1122334455667788
#define OF_ARENA .arena_hi = 0xA0A1A2A3A4A5A6A7, .arena_lo = 0xB0B1B2B3B4B5B6B7

static const palm_hello mapped = {
    .identity = {OF_ARENA, .boot_id = {0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC,
                                       0xCD, 0xCE, 0xCF},
                 .pid_namespace = 4026531836, .pid = 4242, .fd = 7},
    .endpoint = TEXT("ipc:///run/user/1000/palm/a.sock"), .name = TEXT("spectrum/0"),
    .slot = PALM_SLOT_UNKNOWN, .word = 3, .tag = 0x0A0B0C,
    .bell = 11, .wake = 12, .ring = 13, .ring_id = 0x1122334455667788};
static const palm_hello frames = {.endpoint = TEXT("tcp://127.0.0.1:5555"), .slot = PALM_SLOT_NONE, .tag = 1};

static const palm_record open_records[] = {{.form = PALM_TREE, .body_size = 40}};
static const palm_record bytes_records[] = {
    {.number = 17, .deadline = 1760000000000000000, .body_size = 64, .attempt = 1, .form = PALM_BYTES}};

static const palm_text u1[] = {TEXT("|u1")}, f8[] = {TEXT("<f8")};
static const uint64_t bytes_part_parts[] = {100000};
static const int64_t bytes_part_dims[] = {100000, 1};
static const palm_record bytes_part_records[] = {{.number = 18, .array_count = 1, .form = PALM_BYTES}};
static const palm_array bytes_part_arrays[] = {{.size = 100000, .ndim = 1, .place = PALM_IN_PART}};

static const int64_t array_body_dims[] = {3, 4, 32, 8};
static const palm_record array_body_records[] = {{.number = 19, .array_count = 1, .form = PALM_ARRAY}};
static const palm_array array_body_arrays[] = {{.size = 96, .ndim = 2}};

static const int64_t array_block_dims[] = {4, 3, -24, 8};
static const palm_record array_block_records[] = {{.number = 20, .array_count = 1, .form = PALM_ARRAY}};
static const palm_array array_block_arrays[] = {
    {.start = 128, .size = 96, .origin = 72, .ndim = 2, .place = PALM_IN_BLOCK}};
static const palm_block array_block_blocks[] = {
    {OF_ARENA, .generation = 5, .at = 8192, .size = 4096, .index = 2, .pid = 4242, .fd = 7}};

static const uint64_t tree_parts[] = {2000, 8};
static const palm_text tree_dtypes[] = {TEXT("<u2"), TEXT("<i8")};
static const int64_t tree_dims[] = {1000, 2};
static const palm_record tree_records[] = {{.number = 21, .body_size = 24, .array_count = 2, .form = PALM_TREE}};
static const palm_array tree_arrays[] = {{.size = 2000, .ndim = 1, .place = PALM_IN_PART},
                                         {.size = 8, .dtype = 1, .source = 1, .place = PALM_IN_PART}};

static const uint64_t batch_parts[] = {10};
static const uint64_t batch_paths[] = {5, (uint64_t)2 << 48 | 1, (uint64_t)1 << 48 | 0xFFFFFFFFFFFF};
static const palm_text batch_dtypes[] = {TEXT("<f4"), TEXT("|b1"), TEXT("[[\"x\", \"<f4\"], [\"y\", \"<i2\"]]")};
static const int64_t batch_dims[] = {10, 4, 0, 5, 20, 4, 2, 2, 0, 1, 7, -1};
static const palm_block batch_blocks[] = {
    {OF_ARENA, .generation = 1, .at = 4096, .size = 65536, .pid = 4242, .fd = 7},
    {OF_ARENA, .generation = ((uint64_t)1 << 62) - 1, .at = (uint64_t)1 << 40, .size = (uint64_t)1 << 33, .index = 77,
     .pid = 1, .fd = 1023}};
static const palm_array batch_arrays[] = {
    {.start = 64, .size = 40, .ndim = 1},
    {.start = 128, .ndim = 2, .dims_at = 2},
    {.start = 3, .size = 2, .dtype = 1, .ndim = 2, .dims_at = 6, .source = 1, .place = PALM_IN_BLOCK},
    {.start = 65529, .size = 7, .origin = 6, .ndim = 1, .dims_at = 10, .place = PALM_IN_BLOCK, .flags = 1},
    {.start = 4, .size = 6, .dtype = 2, .place = PALM_IN_PART}};
static const palm_record batch_records[] = {
    {.number = 1, .path_count = 1, .form = PALM_NOTHING},
    {.number = 2, .path_count = 2, .body_size = 10, .form = PALM_BYTES, .flags = 3},
    {.number = 3, .path_at = 1, .path_count = 1, .body_at = 64, .array_count = 1, .form = PALM_ARRAY},
    {.number = 4, .path_at = 1, .path_count = 2, .body_at = 200, .body_size = 100, .array_count = 5, .form = PALM_TREE},
    {.number = 5, .array_at = 1, .array_count = 1, .form = PALM_ARRAY},
    {.number = 6, .form = PALM_DROP, .attempt = 2},
    {.number = 7, .form = PALM_CLOSE, .count = 4000000000},
    {.number = UINT64_MAX, .body_at = 300, .body_size = 212, .form = PALM_ERROR, .attempt = 65535}};

static const uint64_t one_path[] = {5};
static const palm_record release_records[] = {
    {.number = 8, .count = 64, .body_size = 32, .form = PALM_BYTES},
    {.number = 9, .path_count = 1, .form = PALM_BYTES, .flags = 1}};
static const palm_record events_records[] = {
    {.number = 8, .count = 64, .path_count = 1, .form = PALM_ASK}, {.count = 2, .form = PALM_LOST},
    {.number = 9, .path_count = 1, .form = PALM_ASIDE}, {.number = 10, .count = PALM_DROP_SLOW, .form = PALM_DROP},
    {.number = 11, .count = 3, .body_size = 32, .form = PALM_REDUCED}};

static const struct golden {
    const char *name;
    palm_envelope e;
} goldens[] = {
    {"hello", {.kind = PALM_HELLO, SENDER, .seq = 1, .hello = &mapped}},
    {"hello_frames", {.kind = PALM_HELLO, SENDER, .seq = 2, .hello = &frames}},
    {"open", {.kind = PALM_OPEN, .handle = 1, SENDER, .seq = 3, .body_size = 40, VECTOR(records, open_records)}},
    {"bytes", {.kind = PALM_DATA, .hop = 1, .handle = 1, SENDER, .seq = 4, .body_size = 64,
               VECTOR(records, bytes_records)}},
    {"bytes_part", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 5, VECTOR(parts, bytes_part_parts),
                    VECTOR(dtypes, u1), VECTOR(dims, bytes_part_dims), VECTOR(records, bytes_part_records),
                    VECTOR(arrays, bytes_part_arrays)}},
    {"array_body", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 6, .body_size = 96, VECTOR(dtypes, f8),
                    VECTOR(dims, array_body_dims), VECTOR(records, array_body_records),
                    VECTOR(arrays, array_body_arrays)}},
    {"array_block", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 7, VECTOR(dtypes, f8),
                     VECTOR(dims, array_block_dims), VECTOR(records, array_block_records),
                     VECTOR(arrays, array_block_arrays), VECTOR(blocks, array_block_blocks)}},
    {"tree", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 8, .body_size = 24, VECTOR(parts, tree_parts),
              VECTOR(dtypes, tree_dtypes), VECTOR(dims, tree_dims), VECTOR(records, tree_records),
              VECTOR(arrays, tree_arrays)}},
    {"batch", {.kind = PALM_DATA, .hop = 3, .handle = 2, SENDER, .seq = 0x100000001, .body_size = 512,
               VECTOR(parts, batch_parts), VECTOR(paths, batch_paths), VECTOR(dtypes, batch_dtypes),
               VECTOR(dims, batch_dims), VECTOR(blocks, batch_blocks), VECTOR(arrays, batch_arrays),
               VECTOR(records, batch_records)}},
    {"forget", {.kind = PALM_FORGET, .handle = 1, SENDER, .seq = 10}},
    {"cancel", {.kind = PALM_CANCEL, .handle = 2, SENDER, .seq = 11}},
    {"events", {.kind = PALM_DATA, .handle = 3, SENDER, .seq = 9, .body_size = 32,
                VECTOR(paths, one_path), VECTOR(records, events_records)}},
    {"release", {.kind = PALM_RELEASE, .handle = 1, SENDER, .seq = 12, .body_size = 32, VECTOR(paths, one_path),
                 VECTOR(records, release_records)}},
    {"bye", {.kind = PALM_BYE, SENDER, .seq = 13}},
};
enum { N_GOLDENS = sizeof goldens / sizeof *goldens };

static const palm_envelope *golden(const char *name)
{
    for (int i = 0; i < N_GOLDENS; i++)
        if (!strcmp(goldens[i].name, name))
            return &goldens[i].e;
    abort();
}

/* ------------------------------------------------------------------------------------------------ frames in memory */

typedef struct frame { /* of exactly `size` bytes, so that a sanitizer sees who reads beyond them */
    uint8_t *bytes;
    size_t size;
} frame;

static palm_writer *writer;
static palm_reader *reader;

static frame frame_new(size_t size)
{
    void *bytes;
    CHECK(!posix_memalign(&bytes, PALM_ALIGN, size));
    return (frame){bytes, size};
}

static void fill_body(uint8_t *body, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        body[i] = (uint8_t)(i * 7 + 1);
}

static frame frame_of(const palm_envelope *e)
{
    const uint8_t *head;
    size_t size;
    CHECK_OK(palm_writer_head(writer, e, &head, &size));
    CHECK(size % PALM_ALIGN == 0);
    frame f = frame_new(size + e->body_size);
    memcpy(f.bytes, head, size);
    fill_body(f.bytes + size, e->body_size);
    return f;
}

static frame frame_copy(frame f, size_t size)
{
    frame copy = frame_new(size);
    if (size)
        memcpy(copy.bytes, f.bytes, size);
    return copy;
}

static palm_err frame_read(frame f, const palm_envelope *like, palm_envelope *out)
{
    return palm_reader_read(reader, f.bytes, f.size, like->parts, like->n_parts, out);
}

/* Where the field is in the root table, or NULL; `number`: its place in the schema, from 0. */
static void *root_field(frame f, int number)
{
    uint32_t root;
    int32_t back;
    uint16_t at;
    memcpy(&root, f.bytes + 4, sizeof root);
    uint8_t *table = f.bytes + 4 + root;
    memcpy(&back, table, sizeof back);
    memcpy(&at, table - back + 4 + 2 * number, sizeof at);
    return at ? table + at : NULL;
}
enum { VERSION, KIND, HOP, HANDLE, FROM, SEQ, BODY_SIZE, PARTS, RECORDS, PATHS, ARRAYS, DIMS, BLOCKS, DTYPES, HELLO };

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

/* ---------------------------------------------------------------------------------------- damaged in one place each */

/* One envelope, in a frame that is read or in structs that are written: the same contradictions, the same answer. */
typedef struct subject {
    frame f;
    palm_envelope e;
    palm_record *records;
    uint64_t *paths;
    palm_array *arrays;
    int64_t *dims;
    palm_block *blocks;
    bool written;
} subject;

static palm_err verdict(const subject *s)
{
    palm_envelope out;
    const uint8_t *head;
    size_t size;
    if (!s->written)
        return frame_read(s->f, golden("batch"), &out);
    palm_err err = palm_writer_head(writer, &s->e, &head, &size);
    return err == PALM_EINVAL ? PALM_EMALFORMED : err;
}

#define SPOIL(s, lvalue, value, wanted)        \
    do {                                       \
        __typeof__(lvalue) saved = (lvalue);   \
        CHECK_OK(verdict(s));                  \
        (lvalue) = (value);                    \
        CHECK_ERR(verdict(s), wanted);         \
        (lvalue) = saved;                      \
    } while (0)

static void spoil_records(subject *s)
{
    palm_record *r = s->records;
    SPOIL(s, r[1].form, PALM_REDUCED + 1, PALM_EMALFORMED);
    SPOIL(s, r[1].form, 255, PALM_EMALFORMED);
    SPOIL(s, r[1].body_at, 503, PALM_EMALFORMED);
    SPOIL(s, r[1].body_size, 513, PALM_EMALFORMED);
    SPOIL(s, r[7].body_at, UINT64_MAX - 211, PALM_EMALFORMED); /* the sum is 0 */
    SPOIL(s, r[7].body_size, UINT64_MAX - 299, PALM_EMALFORMED);
    SPOIL(s, r[1].path_at, 2, PALM_EMALFORMED);
    SPOIL(s, r[1].path_at, UINT32_MAX, PALM_EMALFORMED);
    SPOIL(s, r[1].path_count, 4, PALM_EMALFORMED);
    SPOIL(s, r[1].path_count, PALM_MAX_PATH + 1, PALM_ELIMIT);
    SPOIL(s, r[3].array_at, 1, PALM_EMALFORMED);
    SPOIL(s, r[3].array_at, UINT32_MAX, PALM_EMALFORMED);
    SPOIL(s, r[3].array_count, 6, PALM_EMALFORMED);
    SPOIL(s, r[3].array_count, UINT32_MAX, PALM_EMALFORMED);
}

static void spoil_forms(subject *s)
{
    palm_record *r = s->records;
    SPOIL(s, r[0].body_size, 1, PALM_EMALFORMED);    /* NOTHING with bytes */
    SPOIL(s, r[0].array_count, 1, PALM_EMALFORMED);  /* NOTHING with an array */
    SPOIL(s, r[1].array_count, 1, PALM_EMALFORMED);  /* BYTES in and out of band */
    SPOIL(s, r[2].form, PALM_BYTES, PALM_OK);
    r[2].form = PALM_BYTES;
    SPOIL(s, r[2].array_count, 2, PALM_EMALFORMED);  /* BYTES in two arrays */
    r[2].form = PALM_ARRAY;
    SPOIL(s, r[2].array_count, 0, PALM_EMALFORMED);  /* ARRAY without one */
    SPOIL(s, r[2].array_count, 2, PALM_EMALFORMED);  /* ARRAY with two */
    SPOIL(s, r[2].body_size, 1, PALM_EMALFORMED);    /* ARRAY with bytes */
    SPOIL(s, r[3].form, PALM_BYTES, PALM_EMALFORMED);
    SPOIL(s, r[3].form, PALM_ERROR, PALM_OK);
    SPOIL(s, r[5].array_count, 1, PALM_EMALFORMED);  /* DROP with an array */
    SPOIL(s, r[6].array_count, 1, PALM_EMALFORMED);  /* CLOSE with an array */
    SPOIL(s, r[6].form, PALM_NOTHING, PALM_OK);
}

static void spoil_places(subject *s)
{
    palm_array *a = s->arrays;
    SPOIL(s, a[0].place, PALM_IN_PART + 1, PALM_EMALFORMED);
    SPOIL(s, a[0].place, 255, PALM_EMALFORMED);
    SPOIL(s, a[0].source, 1, PALM_EMALFORMED);
    SPOIL(s, a[0].start, 72, PALM_EMALFORMED);  /* in the body, but not at a multiple of 64 */
    SPOIL(s, a[0].start, 0, PALM_OK);
    SPOIL(s, a[0].start, 512, PALM_EMALFORMED); /* a multiple of 64, but not in the body */
    SPOIL(s, a[1].start, 512, PALM_OK);         /* empty: the end is good enough */
    SPOIL(s, a[1].start, 576, PALM_EMALFORMED);
    SPOIL(s, a[0].size, 449, PALM_EMALFORMED);
    SPOIL(s, a[0].start, UINT64_MAX - 63, PALM_EMALFORMED);
    SPOIL(s, a[0].size, UINT64_MAX - 63, PALM_EMALFORMED);
    SPOIL(s, a[2].source, 2, PALM_EMALFORMED);
    SPOIL(s, a[2].source, UINT32_MAX, PALM_EMALFORMED);
    SPOIL(s, a[3].start, 65530, PALM_EMALFORMED);
    SPOIL(s, a[3].start, UINT64_MAX, PALM_EMALFORMED);
    SPOIL(s, a[4].source, 1, PALM_EMALFORMED);
    SPOIL(s, a[4].start, 5, PALM_EMALFORMED);
    SPOIL(s, a[4].dtype, 3, PALM_EMALFORMED);
    SPOIL(s, s->blocks[0].size, 65535, PALM_EMALFORMED);
    SPOIL(s, s->blocks[1].size, (uint64_t)INT64_MAX, PALM_EMALFORMED); /* its end is beyond what offsets can say */
    SPOIL(s, s->blocks[1].at, UINT64_MAX, PALM_EMALFORMED);
}

static void spoil_extents(subject *s)
{
    palm_array *a = s->arrays;
    int64_t *d = s->dims;
    SPOIL(s, a[0].ndim, PALM_MAX_DIMS + 1, PALM_ELIMIT);
    SPOIL(s, a[0].ndim, 7, PALM_EMALFORMED);
    SPOIL(s, a[3].dims_at, 11, PALM_EMALFORMED);
    SPOIL(s, a[3].dims_at, UINT32_MAX, PALM_EMALFORMED);
    SPOIL(s, d[0], -1, PALM_EMALFORMED);
    SPOIL(s, d[0], INT64_MIN, PALM_EMALFORMED);
    SPOIL(s, d[0], 11, PALM_EMALFORMED); /* 10 steps of 4 from 0 are at 40, of 40 bytes */
    SPOIL(s, d[0], 0, PALM_OK);
    SPOIL(s, d[1], 5, PALM_EMALFORMED);
    SPOIL(s, d[1], -4, PALM_EMALFORMED);
    SPOIL(s, d[1], INT64_MAX, PALM_EMALFORMED);
    SPOIL(s, d[1], INT64_MIN, PALM_EMALFORMED);
    SPOIL(s, a[0].origin, 3, PALM_OK); /* within, if elements take a byte */
    SPOIL(s, a[0].origin, 4, PALM_EMALFORMED);
    SPOIL(s, a[0].origin, UINT64_MAX, PALM_EMALFORMED);
    SPOIL(s, a[1].origin, 1, PALM_EMALFORMED); /* even an empty one begins in its bytes */
    SPOIL(s, d[2], 1, PALM_EMALFORMED);        /* not empty any more, but without bytes */
    SPOIL(s, d[3], INT64_MAX, PALM_EMALFORMED); /* empty, but its strides reach too far to be added up */
    SPOIL(s, d[4], INT64_MIN, PALM_EMALFORMED);
    SPOIL(s, d[6], INT64_MAX, PALM_EMALFORMED); /* twice as many elements as can be counted, all at one place */
    SPOIL(s, d[6], INT64_MAX / 2, PALM_OK);
    SPOIL(s, d[9], 2, PALM_EMALFORMED);
    SPOIL(s, a[3].origin, 5, PALM_EMALFORMED); /* the last element would lie before the first byte */
    SPOIL(s, a[3].origin, 7, PALM_EMALFORMED);
    SPOIL(s, a[4].size, 0, PALM_OK);           /* an element without bytes */
}

static void spoil_all(subject *s)
{
    spoil_records(s);
    spoil_forms(s);
    spoil_places(s);
    spoil_extents(s);
}

static void test_spoiled_when_read(void)
{
    subject s = {.f = frame_of(golden("batch"))};
    CHECK_OK(frame_read(s.f, golden("batch"), &s.e));
    s.records = (palm_record *)s.e.records; /* they lie in the frame, which is ours */
    s.paths = (uint64_t *)s.e.paths;
    s.arrays = (palm_array *)s.e.arrays;
    s.dims = (int64_t *)s.e.dims;
    s.blocks = (palm_block *)s.e.blocks;
    spoil_all(&s);
    free(s.f.bytes);
}

static void test_spoiled_when_written(void)
{
    subject s = {.e = *golden("batch"), .written = true};
    palm_record records[8];
    palm_array arrays[5];
    int64_t dims[12];
    palm_block blocks[2];
    memcpy(records, batch_records, sizeof records);
    memcpy(arrays, batch_arrays, sizeof arrays);
    memcpy(dims, batch_dims, sizeof dims);
    memcpy(blocks, batch_blocks, sizeof blocks);
    s.e.records = s.records = records;
    s.e.arrays = s.arrays = arrays;
    s.e.dims = s.dims = dims;
    s.e.blocks = s.blocks = blocks;
    spoil_all(&s);
    SPOIL(&s, s.e.kind, 0, PALM_EMALFORMED);
    SPOIL(&s, s.e.kind, PALM_BYE + 1, PALM_EMALFORMED);
    SPOIL(&s, s.e.kind, PALM_HELLO, PALM_EMALFORMED);
    SPOIL(&s, s.e.hello, &mapped, PALM_EMALFORMED);
    SPOIL(&s, s.e.seq, 0, PALM_EMALFORMED);
    SPOIL(&s, s.e.records, NULL, PALM_EMALFORMED);
    SPOIL(&s, s.e.dtypes, NULL, PALM_EMALFORMED);
    SPOIL(&s, s.e.body_size, UINT64_MAX, PALM_ELIMIT);
}

#define SPOIL_FIELD(f, type, number, value, wanted)                     \
    do {                                                                \
        palm_envelope ignored;                                          \
        type *at = root_field(f, number), kept = *at;                   \
        *at = (value);                                                  \
        CHECK_ERR(frame_read(f, golden("batch"), &ignored), wanted);    \
        *at = kept;                                                     \
        CHECK_OK(frame_read(f, golden("batch"), &ignored));             \
    } while (0)

static void test_spoiled_root(void)
{
    frame f = frame_of(golden("batch"));
    SPOIL_FIELD(f, uint16_t, VERSION, 0, PALM_EVERSION);
    SPOIL_FIELD(f, uint16_t, VERSION, 2, PALM_EVERSION);
    SPOIL_FIELD(f, uint16_t, KIND, 0, PALM_EMALFORMED);
    SPOIL_FIELD(f, uint16_t, KIND, PALM_BYE + 1, PALM_EMALFORMED);
    SPOIL_FIELD(f, uint16_t, KIND, PALM_HELLO, PALM_EMALFORMED); /* without a Hello */
    SPOIL_FIELD(f, uint64_t, SEQ, 0, PALM_EMALFORMED);
    SPOIL_FIELD(f, uint64_t, BODY_SIZE, 511, PALM_EMALFORMED);
    SPOIL_FIELD(f, uint64_t, BODY_SIZE, 513, PALM_EMALFORMED);
    SPOIL_FIELD(f, uint64_t, BODY_SIZE, UINT64_MAX, PALM_EMALFORMED);
    for (int vector = PARTS; vector <= DTYPES; vector++) {
        SPOIL_FIELD(f, uint32_t, vector, 0, PALM_EMALFORMED);
        SPOIL_FIELD(f, uint32_t, vector, 1 << 20, PALM_EMALFORMED);
        SPOIL_FIELD(f, uint32_t, vector, UINT32_MAX, PALM_EMALFORMED);
    }
    free(f.bytes);
}

/* FlatBuffers' verifier looks at the place of a vector's length only. */
static void test_misaligned_vector(void)
{
    static const int vectors[] = {PARTS, RECORDS, PATHS, ARRAYS, DIMS, BLOCKS};
    frame f = frame_of(golden("batch"));
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        palm_envelope out;
        uint32_t *offset = root_field(f, vectors[i]);
        uint32_t *length = offset + *offset / sizeof *offset, kept = length[1];
        length[1] = 1; /* a vector of one item, four bytes too far */
        *offset += 4;
        CHECK_ERR(frame_read(f, golden("batch"), &out), PALM_EMALFORMED);
        *offset -= 4;
        length[1] = kept;
        CHECK_OK(frame_read(f, golden("batch"), &out));
    }
    free(f.bytes);
}

static void test_spoiled_frame(void)
{
    const palm_envelope *e = golden("bytes");
    frame f = frame_of(e);
    palm_envelope out, before;
    uint32_t prefix;
    CHECK_OK(frame_read(f, e, &out));
    memcpy(&prefix, f.bytes, sizeof prefix);

    memset(&out, 0x5A, sizeof out);
    before = out;
    f.bytes[8] = 'p'; /* of the identifier */
    CHECK_ERR(frame_read(f, e, &out), PALM_EMALFORMED);
    CHECK(!memcmp(&out, &before, sizeof out)); /* written on success alone */
    f.bytes[8] = 'P';

    if ((prefix + 4) % PALM_ALIGN) { /* padding that is not zero */
        f.bytes[prefix + 4] = 1;
        CHECK_ERR(frame_read(f, e, &out), PALM_EMALFORMED);
        f.bytes[prefix + 4] = 0;
    }
    for (uint32_t wrong = 0; wrong < 64; wrong++) {
        memcpy(f.bytes, &wrong, sizeof wrong);
        CHECK_ERR(frame_read(f, e, &out), PALM_EMALFORMED);
    }
    const uint32_t large[] = {PALM_MAX_HEAD - 3, 0x7fffffff, UINT32_MAX - 3, UINT32_MAX};
    for (int i = 0; i < 4; i++) {
        memcpy(f.bytes, &large[i], sizeof large[i]);
        CHECK_ERR(frame_read(f, e, &out), PALM_ELIMIT);
    }
    memcpy(f.bytes, &prefix, sizeof prefix);
    CHECK_OK(frame_read(f, e, &out));

    frame shifted = frame_new(f.size + 8);
    memcpy(shifted.bytes + 8, f.bytes, f.size);
    CHECK_ERR(palm_reader_read(reader, shifted.bytes + 8, f.size, NULL, 0, &out), PALM_EINVAL);
    CHECK_ERR(palm_reader_read(reader, NULL, 0, NULL, 0, &out), PALM_EINVAL);
    CHECK_ERR(palm_reader_read(reader, f.bytes, f.size, NULL, 1, &out), PALM_EINVAL);
    free(shifted.bytes);
    free(f.bytes);
}

static void test_parts_that_did_not_arrive(void)
{
    const palm_envelope *e = golden("tree");
    const uint64_t other[] = {2000, 9};
    static uint64_t many[PALM_MAX_PARTS + 1];
    palm_envelope out;
    frame f = frame_of(e);
    CHECK_ERR(palm_reader_read(reader, f.bytes, f.size, NULL, 0, &out), PALM_EMALFORMED);
    CHECK_ERR(palm_reader_read(reader, f.bytes, f.size, tree_parts, 1, &out), PALM_EMALFORMED);
    CHECK_ERR(palm_reader_read(reader, f.bytes, f.size, other, 2, &out), PALM_EMALFORMED);
    CHECK_ERR(palm_reader_read(reader, f.bytes, f.size, many, PALM_MAX_PARTS + 1, &out), PALM_ELIMIT);
    CHECK_OK(palm_reader_read(reader, f.bytes, f.size, tree_parts, 2, &out));
    free(f.bytes);
}

static void test_first_records(void)
{
    const uint8_t *head;
    size_t size;
    palm_envelope e = {.kind = PALM_OPEN, .seq = 1};
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_EINVAL);
    e.kind = PALM_DATA;
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
}

/* ----------------------------------------------------------------------------------------------------------- texts */

static palm_err write_hello(const palm_hello *hello)
{
    const uint8_t *head;
    size_t size;
    palm_envelope e = {.kind = PALM_HELLO, .seq = 1, .hello = hello};
    return palm_writer_head(writer, &e, &head, &size);
}

static void test_hello(void)
{
    static char long_text[PALM_MAX_TEXT + 1];
    palm_hello h = mapped;
    memset(long_text, 'x', sizeof long_text);
    h.endpoint = (palm_text){long_text, PALM_MAX_TEXT};
    CHECK_OK(write_hello(&h));
    h.endpoint.size++;
    CHECK_ERR(write_hello(&h), PALM_ELIMIT);
    h.endpoint = (palm_text){"a\0b", 3};
    CHECK_ERR(write_hello(&h), PALM_EINVAL);
    h.endpoint = (palm_text){NULL, 0};
    CHECK_ERR(write_hello(&h), PALM_EINVAL);
    h.endpoint = (palm_text){NULL, 3};
    CHECK_ERR(write_hello(&h), PALM_EINVAL);
    h = mapped;
    h.slot = -3;
    CHECK_ERR(write_hello(&h), PALM_EINVAL);
    h = mapped;
    h.word = PALM_TAKEN_WORDS;
    CHECK_ERR(write_hello(&h), PALM_EINVAL);
    h = mapped;
    h.tag = 1 << 24;
    CHECK_ERR(write_hello(&h), PALM_EINVAL);
}

/* The boot id is a vector of bytes in the schema: its length is the sender's word. */
static void test_boot_id(void)
{
    const palm_envelope *e = golden("hello");
    palm_envelope out;
    frame f = frame_of(e);
    size_t at = 0;
    while (memcmp(f.bytes + at, mapped.identity.boot_id, 16))
        at++;
    CHECK(f.bytes[at - 4] == 16);
    f.bytes[at - 4] = 15;
    CHECK_ERR(frame_read(f, e, &out), PALM_EMALFORMED);
    f.bytes[at - 4] = 0;
    CHECK_ERR(frame_read(f, e, &out), PALM_EMALFORMED);
    free(f.bytes);
}

static palm_err write_dtypes(const palm_text *dtypes, uint32_t n)
{
    const uint8_t *head;
    size_t size;
    palm_envelope e = {.kind = PALM_DATA, .seq = 1, .dtypes = dtypes, .n_dtypes = n};
    return palm_writer_head(writer, &e, &head, &size);
}

static void test_dtypes(void)
{
    static char long_text[PALM_MAX_TEXT + 1];
    static palm_text many[PALM_MAX_ARRAYS + 1];
    memset(long_text, 'x', sizeof long_text);
    CHECK_OK(write_dtypes(&(palm_text){long_text, PALM_MAX_TEXT}, 1));
    CHECK_OK(write_dtypes(&(palm_text){NULL, 0}, 1));
    CHECK_ERR(write_dtypes(&(palm_text){long_text, PALM_MAX_TEXT + 1}, 1), PALM_ELIMIT);
    CHECK_ERR(write_dtypes(&(palm_text){"<f8\0", 4}, 1), PALM_EINVAL);
    CHECK_ERR(write_dtypes(&(palm_text){NULL, 1}, 1), PALM_EINVAL);
    for (int i = 0; i <= PALM_MAX_ARRAYS; i++)
        many[i] = (palm_text){long_text, 8};
    CHECK_OK(write_dtypes(many, PALM_MAX_ARRAYS));
    CHECK_ERR(write_dtypes(many, PALM_MAX_ARRAYS + 1), PALM_ELIMIT);
    for (int i = 0; i < 300; i++)
        many[i].size = PALM_MAX_TEXT;
    CHECK_ERR(write_dtypes(many, 300), PALM_ELIMIT);
}

static void test_dtype_with_nul(void)
{
    const palm_envelope *e = golden("array_body");
    palm_envelope out;
    frame f = frame_of(e);
    CHECK_OK(frame_read(f, e, &out));
    *(char *)out.dtypes[0].data = 0;
    CHECK_ERR(frame_read(f, e, &out), PALM_EMALFORMED);
    free(f.bytes);
}

/* Texts may lie upon each other in a hostile head, but not so that it costs more to look at them than it is long. */
static void test_dtypes_that_overlap(void)
{
    enum { N = PALM_MAX_HEAD / PALM_MAX_TEXT + 1 };
    static char long_text[PALM_MAX_TEXT];
    palm_text dtypes[N];
    memset(long_text, 'x', sizeof long_text);
    for (int i = 0; i < N; i++)
        dtypes[i] = (palm_text){long_text, 0};
    dtypes[0].size = PALM_MAX_TEXT;
    palm_envelope out, e = {.kind = PALM_DATA, .seq = 1, VECTOR(dtypes, dtypes)};
    frame f = frame_of(&e);
    uint32_t *offset = root_field(f, DTYPES), *texts = offset + *offset / sizeof *offset + 1;
    for (uint32_t i = 1; i < N - 1; i++)
        texts[i] = texts[0] - i * sizeof *texts;
    CHECK_OK(frame_read(f, &e, &out));
    CHECK(out.dtypes[N - 2].size == PALM_MAX_TEXT);
    texts[N - 1] = texts[0] - (N - 1) * sizeof *texts;
    CHECK_ERR(frame_read(f, &e, &out), PALM_ELIMIT);
    free(f.bytes);
}

/* ---------------------------------------------------------------------------------------------------------- limits */

static palm_envelope large_batch(uint32_t records, uint32_t arrays)
{
    static palm_record many_records[PALM_MAX_RECORDS + 1];
    static palm_array many_arrays[PALM_MAX_ARRAYS + 1];
    for (uint32_t i = 0; i <= PALM_MAX_RECORDS; i++)
        many_records[i] = (palm_record){.number = i, .array_at = i, .array_count = 1, .form = PALM_ARRAY};
    for (uint32_t i = 0; i <= PALM_MAX_ARRAYS; i++)
        many_arrays[i] = (palm_array){.size = 1};
    return (palm_envelope){.kind = PALM_DATA, .seq = 1, .records = many_records, .n_records = records,
                           .arrays = many_arrays, .n_arrays = arrays, VECTOR(dtypes, f8), .body_size = 64};
}

static void test_limits_of_counts(void)
{
    const uint8_t *head;
    size_t size;
    palm_envelope out, e = large_batch(PALM_MAX_RECORDS, PALM_MAX_ARRAYS);
    frame f = frame_of(&e);
    CHECK_OK(frame_read(f, &e, &out));
    CHECK(same_envelope(&e, &out));

    uint32_t *length = (uint32_t *)out.records - 1; /* what follows in the head becomes one more */
    *length = PALM_MAX_RECORDS + 1;
    CHECK_ERR(frame_read(f, &e, &out), PALM_ELIMIT);
    *length = PALM_MAX_RECORDS;
    CHECK_OK(frame_read(f, &e, &out));
    free(f.bytes);

    e = large_batch(PALM_MAX_RECORDS + 1, PALM_MAX_ARRAYS);
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_ELIMIT);
    e = large_batch(PALM_MAX_RECORDS, PALM_MAX_ARRAYS + 1);
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_ELIMIT);
    e = large_batch(1, 1);
    e.blocks = calloc(PALM_MAX_ARRAYS + 1, sizeof *e.blocks);
    e.n_blocks = PALM_MAX_ARRAYS;
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
    e.n_blocks++;
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_ELIMIT);
    free((void *)e.blocks);
    e = large_batch(1, 1);
    e.parts = (uint64_t[PALM_MAX_PARTS + 1]){0};
    e.n_parts = PALM_MAX_PARTS;
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
    e.n_parts++;
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_ELIMIT);
}

/* A small head may not stand for endless arrays. */
static void test_shared_arrays(void)
{
    const uint8_t *head;
    size_t size;
    palm_envelope e = large_batch(16, PALM_MAX_ARRAYS / 16);
    palm_record records[17];
    for (int i = 0; i < 17; i++)
        records[i] = (palm_record){.array_count = PALM_MAX_ARRAYS / 16, .form = PALM_TREE};
    e.records = records;
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
    e.n_records = 17;
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_ELIMIT);
}

static void test_limit_of_head(void)
{
    enum { MOST = PALM_MAX_HEAD / 8 + 1 };
    const uint8_t *head;
    size_t size;
    uint64_t *paths = calloc(MOST, sizeof *paths);
    palm_envelope out, e = {.kind = PALM_DATA, .seq = 1, .paths = paths, .n_paths = MOST};
    while (palm_writer_head(writer, &e, &head, &size) == PALM_ELIMIT)
        e.n_paths--;
    CHECK(MOST - e.n_paths < 32);
    frame f = frame_of(&e);
    CHECK(f.size == PALM_MAX_HEAD);
    CHECK_OK(frame_read(f, &e, &out));
    CHECK(same_envelope(&e, &out));
    e.n_paths = UINT32_MAX; /* refused before anything is reserved or looked at */
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_ELIMIT);
    free(f.bytes);
    free(paths);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: test_envelope GOLDEN | --write DIRECTORY | --seeds DIRECTORY\n");
        return 2;
    }
    CHECK_OK(palm_writer_new(&writer));
    CHECK_OK(palm_reader_new(&reader));
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
        test_spoiled_when_read();
        test_spoiled_when_written();
        test_spoiled_root();
        test_misaligned_vector();
        test_spoiled_frame();
        test_parts_that_did_not_arrive();
        test_first_records();
        test_hello();
        test_boot_id();
        test_dtypes();
        test_dtype_with_nul();
        test_dtypes_that_overlap();
        test_limits_of_counts();
        test_shared_arrays();
        test_limit_of_head();
    }
    palm_writer_free(writer);
    palm_reader_free(reader);
    return 0;
}
