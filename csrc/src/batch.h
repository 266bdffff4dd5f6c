/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The inside of a batch, for those who send it. */
#ifndef PALMI_BATCH_H
#define PALMI_BATCH_H

#include "palm_batch.h"
#include "runs.h"
#include "vector.h"

typedef struct palmi_lent { /* a block in the batch, and one reference to it */
    palm_arena *arena;
    uint32_t index;
    const uint8_t *first;
} palmi_lent;

struct palm_batch {
    PALMI_VECTOR(palm_record) records;
    PALMI_VECTOR(uint64_t) paths;
    PALMI_VECTOR(palm_array) arrays;
    PALMI_VECTOR(int64_t) dims;
    PALMI_VECTOR(palmi_lent) lent;
    PALMI_VECTOR(palm_text) dtypes; /* owned */
    uint32_t messages; /* of the records: a run is several */
    uint8_t *body;
    uint64_t body_size, body_room, lent_bytes;
    uint64_t dtype_bytes;
    uint64_t mark_body, mark_lent_bytes, mark_head; /* where the last record began */
    uint32_t mark_messages, mark_paths, mark_arrays, mark_dims, mark_lent, mark_dtypes;
};

palm_err palmi_batch_grow_body(palm_batch *batch, uint64_t end);

static inline palm_record *palmi_batch_last(palm_batch *batch)
{
    return &batch->records.at[batch->records.n - 1];
}

/* The body is 64-byte aligned in the frame, so offsets in it decide about alignment (R22). */
static inline uint64_t palmi_batch_aligned(uint64_t n)
{
    return (n + PALM_ALIGN - 1) & ~(uint64_t)(PALM_ALIGN - 1);
}

/* Rows `first` to first + n - 1 of an array, along its first dimension; n 0: all of it, which need not have any. */
typedef struct palmi_rows {
    uint32_t first, n;
} palmi_rows;
/* As an array of its own; `out` has room for its shape and strides. */
palm_array palmi_narrowed(const palm_array *array, const int64_t *dims, palmi_rows part, int64_t *out);

/* An array as it is, to the record begun last: a copy of its bytes in `body`, or lent once more. */
palm_err palmi_batch_put(palm_batch *batch, const palm_text *dtype, const palm_array *array, const int64_t *dims,
                         const uint8_t *body, const palmi_lent *lent);

/* The memory of one that is empty, which is not kept for another one. */
void palmi_batch_release(palm_batch *empty);

/* All that is in another one. */
palm_err palmi_batch_copy(palm_batch *to, const palm_batch *from);

/* All but the blocks and parts, which depend on the link. */
void palmi_batch_envelope(const palm_batch *batch, palm_envelope *out);

#endif
