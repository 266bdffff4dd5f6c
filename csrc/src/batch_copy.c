/* SPDX-License-Identifier: BSD-3-Clause
 * What one batch has, put into another one. */
#include "batch.h"

#include <string.h>

/* Where the rows begin and end: rows that never begin before the first have bytes of their own, others name the bytes of
 * all. */
palm_array palmi_narrowed(const palm_array *a, const int64_t *dims, palmi_rows part, int64_t *out)
{
    palm_array found = *a;
    memcpy(out, dims, 2u * a->ndim * sizeof *dims);
    if (!part.n)
        return found;
    int64_t step = palmi_has_elements(a, dims) ? dims[a->ndim] : 0;
    if (!a->origin) { /* then no element lies before the first */
        found.start += (uint64_t)step * part.first;
        found.size -= (uint64_t)step * (uint64_t)(dims[0] - part.n);
    } else {
        found.origin += (uint64_t)(step * part.first);
    }
    out[0] = part.n;
    return found;
}

palm_err palmi_batch_put(palm_batch *b, const palm_text *dtype, const palm_array *a, const int64_t *dims, const uint8_t *body,
                         const palmi_lent *lent)
{
    uint8_t *bytes;
    palm_err err;
    if (lent) {
        palm_block_hold(lent->arena, lent->index);
        err = palm_batch_lend(b, dtype->data, dtype->size, a->ndim, dims, dims + a->ndim, a->size, a->origin, lent->arena,
                              lent->index, lent->first, a->start);
        if (err)
            palm_block_drop(lent->arena, lent->index);
        return err;
    }
    err = palm_batch_array(b, dtype->data, dtype->size, a->ndim, dims, dims + a->ndim, a->size, a->origin, &bytes);
    if (!err && a->size)
        memcpy(bytes, body + a->start, a->size);
    return err;
}

/* An array of another batch, to the record begun last. */
static palm_err copy_array(palm_batch *to, const palm_batch *from, const palm_array *whole, palmi_rows part)
{
    int64_t dims[2 * PALM_MAX_DIMS];
    palm_array a = palmi_narrowed(whole, from->dims.at + whole->dims_at, part, dims);
    return palmi_batch_put(to, &from->dtypes.at[a.dtype], &a, dims, from->body,
                           a.place == PALM_IN_BODY ? NULL : &from->lent.at[a.source]);
}

static uint32_t lent_by(const palm_batch *b, const palm_record *r)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < r->array_count; k++)
        n += b->arrays.at[r->array_at + k].place == PALM_IN_BLOCK;
    return n;
}

/* The record, or messages of the run that it is. */
static palm_err copy_record(palm_batch *to, const palm_batch *from, const palm_record *r, palmi_rows part)
{
    palm_record *copy;
    uint64_t each = part.n ? r->body_size / r->count : 0;
    if (to->lent.n && to->lent.n + lent_by(from, r) > PALM_MAX_PARTS)
        return PALM_EFULL;
    palm_err err = palm_batch_record(to, (palm_form)r->form, r->number + part.first, &copy);
    if (err)
        return err;
    copy->deadline = r->deadline;
    copy->count = r->count;
    copy->attempt = r->attempt;
    copy->flags = r->flags;
    err = palm_batch_path(to, from->paths.at + r->path_at, r->path_count);
    if (!err)
        err = palm_batch_body(to, from->body + r->body_at + part.first * each, part.n ? part.n * each : r->body_size);
    for (uint32_t k = 0; k < r->array_count && !err; k++)
        err = copy_array(to, from, &from->arrays.at[r->array_at + k], part);
    if (!err && part.n)
        err = palm_batch_run(to, part.n);
    if (err)
        palm_batch_undo(to);
    return err;
}

/* Records are all alike in batches that have no runs, whatever their `count` means. */
static bool has_runs(const palm_batch *b)
{
    return b->messages != b->records.n;
}

palm_err palm_batch_add(palm_batch *to, const palm_batch *from, uint32_t i)
{
    if (!has_runs(from))
        return copy_record(to, from, &from->records.at[i], (palmi_rows){0, 0});
    const palm_record *r = from->records.at;
    uint32_t n;
    while (i >= (n = palmi_run_of(r) ? palmi_run_of(r) : 1)) {
        i -= n;
        r++;
    }
    return copy_record(to, from, r, palmi_run_of(r) ? (palmi_rows){i, 1} : (palmi_rows){0, 0});
}

palm_err palmi_batch_copy(palm_batch *to, const palm_batch *from)
{
    palm_err err = PALM_OK;
    for (uint32_t i = 0; i < from->records.n && !err; i++) {
        const palm_record *r = &from->records.at[i];
        uint32_t n = has_runs(from) ? palmi_run_of(r) : 0;
        err = copy_record(to, from, r, (palmi_rows){0, n});
    }
    return err;
}
