/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What an envelope may say: texts, and how much of everything. */
#include "envelope_frames.h"
#include "envelope_walk.h"
#include "golden_envelopes.h"

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

int main(void)
{
    frames_open();
    test_hello();
    test_boot_id();
    test_dtypes();
    test_dtype_with_nul();
    test_dtypes_that_overlap();
    test_limits_of_counts();
    test_shared_arrays();
    test_limit_of_head();
    frames_close();
    return 0;
}
