/* SPDX-License-Identifier: BSD-3-Clause
 * What has come is handed on as it is, without a look at what it says. */
#include "batch.h"

static const palm_run *run_of(const palm_event *event, uint32_t i)
{
    for (uint32_t k = 0; k < event->n_runs; k++)
        if (i >= event->runs[k].first && i - event->runs[k].first < event->runs[k].count)
            return &event->runs[k];
    return NULL;
}

/* The array, in the record begun last: copied where it came in the envelope's body, lent again where it is in a block.
 * PALM_EAGAIN: neither. */
static palm_err relay_array(palm_batch *b, const palm_event *event, const palm_array *a, const int64_t *dims)
{
    const palm_envelope *e = &event->envelope;
    const palm_text *dtype = &e->dtypes[a->dtype];
    if (a->place == PALM_IN_BODY)
        return palmi_batch_put(b, dtype, a, dims, e->body, NULL);
    const palm_taken *taken = a->place == PALM_IN_BLOCK ? &event->blocks[a->source] : NULL;
    if (!taken || taken->err || palm_batch_lent(b) >= PALM_MAX_PARTS)
        return PALM_EAGAIN;
    return palmi_batch_put(b, dtype, a, dims, NULL, &(palmi_lent){taken->arena, taken->index, taken->first});
}

static palm_err relay_rows(palm_batch *b, const palm_event *event, const palm_run *run, palmi_rows part)
{
    int64_t dims[2 * PALM_MAX_DIMS];
    const palm_array *whole = &event->envelope.arrays[run->array];
    palm_array a = palmi_narrowed(whole, event->envelope.dims + whole->dims_at, part, dims);
    return relay_array(b, event, &a, dims);
}

/* Messages of a run as one record: `part` of it. */
static palm_err relay_run(palm_batch *b, const palm_event *event, const palm_run *run, palmi_rows part)
{
    const palm_envelope *e = &event->envelope;
    const palm_record *r = &e->records[run->first + part.first];
    palm_err err = r->form == PALM_ARRAY ? relay_rows(b, event, run, part)
                                         : palm_batch_body(b, e->body + r->body_at, part.n * r->body_size);
    return err ? err : palm_batch_run(b, part.n);
}

static palm_err relay_one(palm_batch *b, const palm_event *event, const palm_record *r)
{
    const palm_envelope *e = &event->envelope;
    palm_err err = palm_batch_path(b, e->paths + r->path_at, r->path_count);
    if (!err)
        err = palm_batch_body(b, e->body + r->body_at, r->body_size);
    for (uint32_t k = 0; k < r->array_count && !err; k++) {
        const palm_array *a = &e->arrays[r->array_at + k];
        err = relay_array(b, event, a, e->dims + a->dims_at);
    }
    return err;
}

palm_err palm_batch_relay(palm_batch *b, const palm_event *event, uint32_t i, uint32_t most, uint32_t *n)
{
    const palm_record *r = &event->envelope.records[i];
    const palm_run *run = run_of(event, i);
    palm_record *copy;
    *n = 1;
    if (run) {
        uint32_t left = run->first + run->count - i, room = PALM_MAX_RECORDS - palm_batch_count(b);
        *n = left < most ? left : most;
        *n = *n < room ? *n : room;
    } else if (!r->path_count && !r->array_count &&
               palm_batch_extend(b, (palm_form)r->form, r->number, r->deadline, event->envelope.body + r->body_at, r->body_size)) {
        return PALM_OK;
    }
    palm_err err = palm_batch_record(b, (palm_form)r->form, r->number, &copy);
    if (err)
        return err;
    copy->deadline = r->deadline;
    err = run ? relay_run(b, event, run, (palmi_rows){i - run->first, *n}) : relay_one(b, event, r);
    if (err)
        palm_batch_undo(b);
    return err;
}
