/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Envelopes that are damaged in one place each: whatever contradicts itself is refused, by the reader and by the writer. */
#include "envelope_frames.h"
#include "envelope_walk.h"
#include "golden_envelopes.h"

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

int main(void)
{
    frames_open();
    test_spoiled_when_read();
    test_spoiled_when_written();
    test_spoiled_root();
    test_misaligned_vector();
    test_spoiled_frame();
    test_parts_that_did_not_arrive();
    test_first_records();
    frames_close();
    return 0;
}
