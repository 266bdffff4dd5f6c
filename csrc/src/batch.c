/* SPDX-License-Identifier: BSD-3-Clause */
#include "batch.h"
#include "spare.h"

#include <stdlib.h>
#include <string.h>

enum {
    ENOUGH_RECORDS = 256,     /* docs/decisions/batching.md */
    ENOUGH_BYTES = 1 << 18,   /* of body: beyond, sharing the cost of an envelope gains nothing */
    FIRST_BODY = 1 << 12,
    SMALL_BODY = 1 << 16,     /* up to here by doubling: many may be kept that hold little */
    FEW_ARRAYS = 32,          /* with ENOUGH_RECORDS, each of the longest path, less than 1/4 of PALM_MAX_HEAD */
    ENOUGH_LENT = 1 << 22,    /* of blocks, which cost as much whatever their size; bounds what waits behind the first */
};

static uint64_t rounded(uint64_t room, uint64_t end)
{
    if (end > SMALL_BODY && end <= PALMI_SPARE_ROOM)
        return PALMI_SPARE_ROOM;
    while (room < end)
        room *= 2;
    return room;
}

palm_err palmi_batch_grow_body(palm_batch *b, uint64_t end)
{
    if (end <= b->body_room)
        return PALM_OK;
    if (end > INT64_MAX)
        return PALM_ELIMIT;
    uint64_t wanted = rounded(b->body_room ? b->body_room : FIRST_BODY, end);
    uint8_t *bigger = realloc(b->body, wanted);
    if (!bigger)
        return PALM_ENOMEM;
    b->body = bigger;
    b->body_room = wanted;
    return PALM_OK;
}

palm_err palm_batch_new(palm_batch **out)
{
    if ((*out = palmi_spare_take()))
        return PALM_OK;
    *out = calloc(1, sizeof **out);
    return *out ? PALM_OK : PALM_ENOMEM;
}

void palm_batch_free(palm_batch *b)
{
    if (!b)
        return;
    palm_batch_clear(b);
    if (!palmi_spare_keep(b))
        palmi_batch_release(b);
}

void palmi_batch_release(palm_batch *b)
{
    free(b->records.at);
    free(b->paths.at);
    free(b->arrays.at);
    free(b->dims.at);
    free(b->lent.at);
    free(b->dtypes.at);
    free(b->body);
    free(b);
}

static void drop_lent(palm_batch *b, uint32_t first)
{
    for (uint32_t i = first; i < b->lent.n; i++)
        palm_block_drop(b->lent.at[i].arena, b->lent.at[i].index);
    b->lent.n = first;
}

static void drop_dtypes(palm_batch *b, uint32_t first)
{
    for (uint32_t i = first; i < b->dtypes.n; i++) {
        b->dtype_bytes -= b->dtypes.at[i].size;
        free((char *)b->dtypes.at[i].data);
    }
    b->dtypes.n = first;
}

void palm_batch_clear(palm_batch *b)
{
    drop_lent(b, 0);
    drop_dtypes(b, 0);
    b->records.n = b->messages = b->paths.n = b->arrays.n = b->dims.n = 0;
    b->body_size = b->lent_bytes = 0;
}

uint32_t palm_batch_count(const palm_batch *b)
{
    return b->messages;
}

uint64_t palm_batch_bytes(const palm_batch *b)
{
    return b->body_size + b->lent_bytes;
}

uint32_t palm_batch_lent(const palm_batch *b)
{
    return b->lent.n;
}

/* Bytes of FlatBuffer, at most. */
static uint64_t head_size(const palm_batch *b)
{
    return sizeof(palm_record) * b->records.n + sizeof(uint64_t) * b->paths.n + sizeof(palm_array) * b->arrays.n +
           sizeof(int64_t) * b->dims.n + sizeof(palm_block) * b->lent.n + b->dtype_bytes + 16 * b->dtypes.n + 1024;
}

/* What few arrays say in a head is little, however long their dtypes' texts; this is asked after each message. */
static bool is_head_large(const palm_batch *b)
{
    return b->arrays.n >= FEW_ARRAYS && (b->arrays.n >= PALM_MAX_ARRAYS / 4 || head_size(b) >= PALM_MAX_HEAD / 4);
}

bool palm_batch_full(const palm_batch *b)
{
    return b->records.n >= ENOUGH_RECORDS || b->messages >= PALM_MAX_RECORDS || b->body_size > ENOUGH_BYTES ||
           b->lent_bytes >= ENOUGH_LENT || b->lent.n >= PALM_MAX_PARTS / 2 || is_head_large(b);
}

palm_err palm_batch_record(palm_batch *b, palm_form form, uint64_t number, palm_record **out)
{
    if (b->messages >= PALM_MAX_RECORDS)
        return PALM_ELIMIT;
    palm_err err = PALMI_GROW(b->records, 1);
    if (err)
        return err;
    b->mark_messages = b->messages++;
    b->mark_body = b->body_size;
    b->mark_lent_bytes = b->lent_bytes;
    b->mark_head = head_size(b);
    b->mark_paths = b->paths.n;
    b->mark_arrays = b->arrays.n;
    b->mark_dims = b->dims.n;
    b->mark_lent = b->lent.n;
    b->mark_dtypes = b->dtypes.n;
    palm_record *r = &b->records.at[b->records.n++];
    *r = (palm_record){.number = number, .form = (uint8_t)form, .body_at = b->body_size, .path_at = b->paths.n,
                       .array_at = b->arrays.n};
    *out = r;
    return PALM_OK;
}

void palm_batch_undo(palm_batch *b)
{
    drop_lent(b, b->mark_lent);
    drop_dtypes(b, b->mark_dtypes);
    b->records.n--;
    b->messages = b->mark_messages;
    b->body_size = b->mark_body;
    b->lent_bytes = b->mark_lent_bytes;
    b->paths.n = b->mark_paths;
    b->arrays.n = b->mark_arrays;
    b->dims.n = b->mark_dims;
}

void palm_batch_set_form(palm_batch *b, palm_form form, uint32_t count)
{
    palmi_batch_last(b)->form = (uint8_t)form;
    palmi_batch_last(b)->count = count;
}

void palm_batch_set_number(palm_batch *b, uint64_t number)
{
    palmi_batch_last(b)->number = number;
}

palm_err palm_batch_path(palm_batch *b, const uint64_t *components, uint32_t n)
{
    if (palmi_batch_last(b)->path_count + (uint64_t)n > PALM_MAX_PATH)
        return PALM_ELIMIT;
    palm_err err = PALMI_GROW(b->paths, n);
    if (err)
        return err;
    if (n)
        memcpy(b->paths.at + b->paths.n, components, n * sizeof *components);
    b->paths.n += n;
    palmi_batch_last(b)->path_count += n;
    return PALM_OK;
}

/* A record's own bytes lie together: they are added before its arrays, or after them in a new range. */
palm_err palm_batch_body(palm_batch *b, const void *bytes, size_t n)
{
    palm_record *r = palmi_batch_last(b);
    if (r->body_size && r->body_at + r->body_size != b->body_size)
        return PALM_EINVAL;
    palm_err err = palmi_batch_grow_body(b, b->body_size + n);
    if (err)
        return err;
    if (!r->body_size)
        r->body_at = b->body_size;
    if (n)
        memcpy(b->body + b->body_size, bytes, n);
    b->body_size += n;
    r->body_size += n;
    return PALM_OK;
}

static palm_err dtype_index(palm_batch *b, const char *dtype, size_t size, uint16_t *out)
{
    for (uint32_t i = 0; i < b->dtypes.n; i++)
        if (b->dtypes.at[i].size == size && !memcmp(b->dtypes.at[i].data, dtype, size)) {
            *out = (uint16_t)i;
            return PALM_OK;
        }
    if (size > PALM_MAX_TEXT || b->dtypes.n >= UINT16_MAX)
        return PALM_ELIMIT;
    palm_err err = PALMI_GROW(b->dtypes, 1);
    if (err)
        return err;
    char *copy = malloc(size ? size : 1);
    if (!copy)
        return PALM_ENOMEM;
    memcpy(copy, dtype, size);
    *out = (uint16_t)b->dtypes.n;
    b->dtypes.at[b->dtypes.n++] = (palm_text){copy, (uint32_t)size};
    b->dtype_bytes += size;
    return PALM_OK;
}

static palm_err add_array(palm_batch *b, const char *dtype, size_t dtype_size, uint8_t ndim, const int64_t *shape,
                          const int64_t *strides, palm_array array)
{
    if (ndim > PALM_MAX_DIMS || b->arrays.n - b->mark_arrays >= PALM_MAX_ARRAYS / 2 ||
        head_size(b) - b->mark_head > PALM_MAX_HEAD / 2)
        return PALM_ELIMIT;
    palm_err err = dtype_index(b, dtype, dtype_size, &array.dtype);
    if (!err)
        err = PALMI_GROW(b->arrays, 1);
    if (!err)
        err = PALMI_GROW(b->dims, 2u * ndim);
    if (err)
        return err;
    array.ndim = ndim;
    array.dims_at = b->dims.n;
    if (ndim) {
        memcpy(b->dims.at + b->dims.n, shape, ndim * sizeof *shape);
        memcpy(b->dims.at + b->dims.n + ndim, strides, ndim * sizeof *strides);
    }
    b->dims.n += 2u * ndim;
    b->arrays.at[b->arrays.n++] = array;
    palmi_batch_last(b)->array_count++;
    return PALM_OK;
}

palm_err palm_batch_array(palm_batch *b, const char *dtype, size_t dtype_size, uint8_t ndim, const int64_t *shape,
                          const int64_t *strides, uint64_t size, uint64_t origin, uint8_t **bytes)
{
    uint64_t start = palmi_batch_aligned(b->body_size);
    palm_err err = size <= INT64_MAX ? palmi_batch_grow_body(b, start + size) : PALM_ELIMIT;
    if (!err)
        err = add_array(b, dtype, dtype_size, ndim, shape, strides,
                        (palm_array){.start = start, .size = size, .origin = origin, .place = PALM_IN_BODY});
    if (err)
        return err;
    if (start > b->body_size)
        memset(b->body + b->body_size, 0, start - b->body_size);
    b->body_size = start + size;
    *bytes = b->body + start;
    return PALM_OK;
}

palm_err palm_batch_lend(palm_batch *b, const char *dtype, size_t dtype_size, uint8_t ndim, const int64_t *shape,
                         const int64_t *strides, uint64_t size, uint64_t origin, palm_arena *arena, uint32_t index,
                         const void *first, uint64_t start)
{
    palm_err err = PALMI_GROW(b->lent, 1);
    if (!err)
        err = add_array(b, dtype, dtype_size, ndim, shape, strides,
                        (palm_array){.start = start, .size = size, .origin = origin, .place = PALM_IN_BLOCK,
                                     .source = b->lent.n});
    if (err)
        return err;
    b->lent.at[b->lent.n++] = (palmi_lent){arena, index, first};
    b->lent_bytes += size;
    return PALM_OK;
}

void palmi_batch_envelope(const palm_batch *b, palm_envelope *out)
{
    *out = (palm_envelope){
        .records = b->records.at, .n_records = b->records.n, .paths = b->paths.at, .n_paths = b->paths.n,
        .arrays = b->arrays.at, .n_arrays = b->arrays.n, .dims = b->dims.at, .n_dims = b->dims.n,
        .dtypes = b->dtypes.at, .n_dtypes = b->dtypes.n, .body = b->body, .body_size = b->body_size,
    };
}

palm_err palm_batch_pack(const palm_batch *b, palm_writer *writer, const uint8_t **head, size_t *head_size,
                         const uint8_t **body, size_t *body_size)
{
    palm_envelope e;
    palmi_batch_envelope(b, &e); /* what is lent is not in it, so the writer finds arrays without their block */
    e.kind = PALM_DATA;
    e.seq = 1;
    *body = b->body;
    *body_size = b->body_size;
    return palm_writer_head(writer, &e, head, head_size);
}
