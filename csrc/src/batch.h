/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The inside of a batch, for those who send it. */
#ifndef PALMI_BATCH_H
#define PALMI_BATCH_H

#include "palm_batch.h"

typedef struct palmi_lent { /* a block in the batch, and one reference to it */
    palm_arena *arena;
    uint32_t index;
    const uint8_t *first;
} palmi_lent;

#define PALMI_VECTOR(type) struct { type *at; uint32_t n, room; }
struct palm_batch {
    PALMI_VECTOR(palm_record) records;
    PALMI_VECTOR(uint64_t) paths;
    PALMI_VECTOR(palm_array) arrays;
    PALMI_VECTOR(int64_t) dims;
    PALMI_VECTOR(palmi_lent) lent;
    PALMI_VECTOR(palm_text) dtypes; /* owned */
    uint8_t *body;
    uint64_t body_size, body_room, lent_bytes;
    uint64_t dtype_bytes;
    uint64_t mark_body, mark_lent_bytes, mark_head; /* where the last record began */
    uint32_t mark_paths, mark_arrays, mark_dims, mark_lent, mark_dtypes;
};

/* All but the blocks and parts, which depend on the link. */
void palmi_batch_envelope(const palm_batch *batch, palm_envelope *out);

#endif
