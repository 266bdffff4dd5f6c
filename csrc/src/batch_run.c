/* SPDX-License-Identifier: BSD-3-Clause
 * Runs: messages that follow one another, and whose payloads are alike but for their bytes, as one record (docs/wire.md, 5). */
#include "batch.h"

#include <string.h>

/* The record begun last, if the message `number` can become part of it. */
static palm_record *extensible(palm_batch *b, palm_form form, uint64_t number, uint64_t deadline)
{
    if (!b->records.n || b->messages >= PALM_MAX_RECORDS)
        return NULL;
    palm_record *r = palmi_batch_last(b);
    uint32_t n = r->count ? r->count : 1;
    return r->form == form && r->number + n == number && r->deadline == deadline && !r->path_count && !r->attempt &&
           !r->flags ? r : NULL;
}

static void extend(palm_batch *b, palm_record *r)
{
    r->count = (r->count ? r->count : 1) + 1;
    b->messages++;
}

bool palm_batch_extend(palm_batch *b, palm_form form, uint64_t number, uint64_t deadline, const void *bytes, size_t n)
{
    palm_record *r = extensible(b, form, number, deadline);
    if (!r || !n || r->array_count || r->body_size != (r->count ? r->count : 1) * (uint64_t)n ||
        r->body_at + r->body_size != b->body_size || palmi_batch_grow_body(b, b->body_size + n))
        return false;
    memcpy(b->body + b->body_size, bytes, n);
    b->body_size += n;
    r->body_size += n;
    extend(b, r);
    return true;
}

/* They are few as a rule, so that to call memcmp would take longer. */
static bool same(const int64_t *a, const int64_t *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

/* Whether one more array of this shape follows upon those of the record. */
static bool follows(const palm_batch *b, const palm_record *r, const palm_array *a, uint8_t ndim, const int64_t *shape,
                    const int64_t *strides, uint64_t size)
{
    const int64_t *dims = b->dims.at + a->dims_at;
    uint32_t own = r->count ? 1 : 0; /* dimensions that the run has, and its rows have not */
    uint64_t n = r->count ? r->count : 1, step = palmi_batch_aligned(size);
    return a->place == PALM_IN_BODY && a->ndim == ndim + own && !a->origin && a->size == (n - 1) * step + size &&
           a->start + a->size == b->body_size && a->dims_at + 2u * a->ndim == b->dims.n &&
           same(dims + own, shape, ndim) && same(dims + a->ndim + own, strides, ndim) &&
           (!own || (uint64_t)dims[a->ndim] == step);
}

/* An array becomes the first row of a run. */
static palm_err begin_run(palm_batch *b, palm_array *a)
{
    uint32_t ndim = a->ndim;
    palm_err err = PALMI_GROW(b->dims, 2);
    if (err)
        return err;
    int64_t *dims = b->dims.at + a->dims_at;
    memmove(dims + ndim + 2, dims + ndim, ndim * sizeof *dims);
    memmove(dims + 1, dims, ndim * sizeof *dims);
    dims[0] = 1;
    dims[ndim + 1] = (int64_t)palmi_batch_aligned(a->size);
    b->dims.n += 2;
    a->ndim++;
    return PALM_OK;
}

uint8_t *palm_batch_extend_array(palm_batch *b, uint64_t number, uint64_t deadline, const char *dtype, size_t dtype_size,
                                 uint8_t ndim, const int64_t *shape, const int64_t *strides, uint64_t size)
{
    palm_record *r = extensible(b, PALM_ARRAY, number, deadline);
    if (!r || !ndim || ndim >= PALM_MAX_DIMS || !size)
        return NULL;
    palm_array *a = &b->arrays.at[r->array_at];
    const palm_text *text = &b->dtypes.at[a->dtype];
    if (text->size != dtype_size || memcmp(text->data, dtype, dtype_size) ||
        !follows(b, r, a, ndim, shape, strides, size))
        return NULL;
    uint64_t start = palmi_batch_aligned(b->body_size);
    if (palmi_batch_grow_body(b, start + size) || (!r->count && begin_run(b, a)))
        return NULL;
    memset(b->body + b->body_size, 0, start - b->body_size);
    b->body_size = start + size;
    a->size = start + size - a->start;
    extend(b, r);
    b->dims.at[a->dims_at] = r->count;
    return b->body + start;
}

palm_err palm_batch_run(palm_batch *b, uint32_t n)
{
    if (!n || n - 1 > PALM_MAX_RECORDS - b->messages)
        return PALM_ELIMIT;
    palmi_batch_last(b)->count = n;
    b->messages += n - 1;
    return PALM_OK;
}
