/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Runs: records that stand for several messages (docs/wire.md, 5). */
#ifndef PALMI_RUNS_H
#define PALMI_RUNS_H

#include "palm_node.h"

/* How many messages a record of a DATA is; 0: it is no run, but a single one. */
static inline uint32_t palmi_run_of(const palm_record *r)
{
    return r->form == PALM_BYTES || r->form == PALM_ARRAY || r->form == PALM_TREE ? r->count : 0;
}

/* Strides of an array that has none say nothing: nobody has checked how far they reach. */
static inline bool palmi_has_elements(const palm_array *a, const int64_t *shape)
{
    for (uint32_t i = 0; i < a->ndim; i++)
        if (!shape[i])
            return false;
    return a->size > 0;
}

/* Of an envelope of kind DATA. */
uint32_t palmi_messages(const palm_envelope *e);

/* Of an event whose envelope was checked: a record for each message of a run, as if it had come by itself, in warm memory. */
palm_err palmi_unroll(palm_event *event);

#endif
