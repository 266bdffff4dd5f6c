/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Envelopes as bytes: what one writer makes, and one reader gets to see. */
#ifndef PALM_TESTS_ENVELOPE_FRAMES_H
#define PALM_TESTS_ENVELOPE_FRAMES_H
#include "check.h"
#include <string.h>

typedef struct frame { /* of exactly `size` bytes, so that a sanitizer sees who reads beyond them */
    uint8_t *bytes;
    size_t size;
} frame;

static palm_writer *writer;
static palm_reader *reader;

static inline frame frame_new(size_t size)
{
    void *bytes;
    CHECK(!posix_memalign(&bytes, PALM_ALIGN, size));
    return (frame){bytes, size};
}

static inline void fill_body(uint8_t *body, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        body[i] = (uint8_t)(i * 7 + 1);
}

static inline frame frame_of(const palm_envelope *e)
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

static inline frame frame_copy(frame f, size_t size)
{
    frame copy = frame_new(size);
    if (size)
        memcpy(copy.bytes, f.bytes, size);
    return copy;
}

static inline palm_err frame_read(frame f, const palm_envelope *like, palm_envelope *out)
{
    return palm_reader_read(reader, f.bytes, f.size, like->parts, like->n_parts, out);
}

/* Where the field is in the root table, or NULL; `number`: its place in the schema, from 0. */
static inline void *root_field(frame f, int number)
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

static inline void frames_open(void)
{
    CHECK_OK(palm_writer_new(&writer));
    CHECK_OK(palm_reader_new(&reader));
}

static inline void frames_close(void)
{
    palm_writer_free(writer);
    palm_reader_free(reader);
}
#endif
