/* SPDX-License-Identifier: BSD-3-Clause
 * A run becomes as many records: whoever works on messages need not know that some have come as one. */
#include "runs.h"
#include "warm.h"

#include <string.h>

uint32_t palmi_messages(const palm_envelope *e)
{
    uint32_t messages = 0;
    for (uint32_t i = 0; i < e->n_records; i++)
        messages += palmi_run_of(&e->records[i]) ? palmi_run_of(&e->records[i]) : 1;
    return messages;
}

/* How much there is of all, once runs are unrolled. */
typedef struct sizes {
    uint32_t records, arrays, dims, runs;
} sizes;

static sizes sizes_of(const palm_envelope *e)
{
    sizes s = {.arrays = e->n_arrays, .dims = e->n_dims};
    for (uint32_t i = 0; i < e->n_records; i++) {
        const palm_record *r = &e->records[i];
        uint32_t n = palmi_run_of(r);
        s.records += n ? n : 1;
        s.runs += n > 0;
        if (n && r->form == PALM_ARRAY) {
            s.arrays += n;
            s.dims += 2u * (e->arrays[r->array_at].ndim - 1u);
        }
    }
    return s;
}

/* Where all goes to, and how far it is. */
typedef struct unrolled {
    palm_record *records;
    palm_array *arrays;
    int64_t *dims;
    palm_run *runs;
    sizes n;
} unrolled;

static palm_err unrolled_new(palm_event *event, sizes s, unrolled *u)
{
    const palm_envelope *e = &event->envelope;
    uint8_t *at = palmi_warm_take(s.records * sizeof *u->records + s.arrays * sizeof *u->arrays + s.dims * sizeof *u->dims +
                              s.runs * sizeof *u->runs);
    if (!at)
        return PALM_ENOMEM;
    event->unrolled = at;
    u->records = (palm_record *)at;
    u->arrays = (palm_array *)(u->records + s.records);
    u->dims = (int64_t *)(u->arrays + s.arrays);
    u->runs = (palm_run *)(u->dims + s.dims);
    u->n = (sizes){.arrays = e->n_arrays, .dims = e->n_dims};
    if (e->n_arrays)
        memcpy(u->arrays, e->arrays, e->n_arrays * sizeof *e->arrays);
    if (e->n_dims)
        memcpy(u->dims, e->dims, e->n_dims * sizeof *e->dims);
    return PALM_OK;
}

/* The rows' shape and strides: those of all, without the first of each. */
static uint32_t add_dims(unrolled *u, const palm_array *all)
{
    uint32_t at = u->n.dims, ndim = all->ndim - 1u;
    memcpy(u->dims + at, u->dims + all->dims_at + 1, ndim * sizeof *u->dims);
    memcpy(u->dims + at + ndim, u->dims + all->dims_at + all->ndim + 1, ndim * sizeof *u->dims);
    u->n.dims += 2u * ndim;
    return at;
}

/* Rows of which none begins before the first have bytes of their own; others name the bytes of all. Either way, where an
 * element begins was checked. */
static void add_rows(unrolled *u, const palm_array *all, uint32_t count)
{
    const int64_t *dims = u->dims + all->dims_at;
    int64_t step = palmi_has_elements(all, dims) ? dims[all->ndim] : 0;
    bool own = !all->origin; /* then no element lies before the first */
    palm_array row = *all;
    row.dims_at = add_dims(u, all);
    row.ndim--;
    row.flags = row.ndim ? 0 : PALM_ARRAY_SCALAR;
    if (own)
        row.size = all->size - (uint64_t)step * (count - 1);
    for (uint32_t i = 0; i < count; i++) {
        u->arrays[u->n.arrays++] = row;
        *(own ? &row.start : &row.origin) += (uint64_t)step;
    }
}

static void add_run(unrolled *u, const palm_record *r)
{
    uint32_t arrays = u->n.arrays;
    bool is_array = r->form == PALM_ARRAY;
    palm_record one = *r;
    u->runs[u->n.runs++] = (palm_run){.first = u->n.records, .count = r->count, .array = r->array_at};
    if (is_array)
        add_rows(u, &u->arrays[r->array_at], r->count);
    one.count = 0;
    one.array_at = arrays;
    one.body_size /= r->count;
    for (uint32_t i = 0; i < r->count; i++) {
        u->records[u->n.records++] = one;
        one.number++;
        one.array_at += is_array;
        one.body_at += one.body_size;
    }
}

palm_err palmi_unroll(palm_event *event)
{
    palm_envelope *e = &event->envelope;
    unrolled u;
    if (e->kind != PALM_DATA)
        return PALM_OK;
    sizes s = sizes_of(e);
    if (!s.runs)
        return PALM_OK;
    palm_err err = unrolled_new(event, s, &u);
    if (err)
        return err;
    for (uint32_t i = 0; i < e->n_records; i++)
        if (palmi_run_of(&e->records[i]))
            add_run(&u, &e->records[i]);
        else
            u.records[u.n.records++] = e->records[i];
    e->records = u.records;
    e->n_records = u.n.records;
    e->arrays = u.arrays;
    e->dims = u.dims;
    event->runs = u.runs;
    event->n_runs = u.n.runs;
    return PALM_OK;
}
