/* SPDX-License-Identifier: BSD-3-Clause */
#include "envelope_check.h"
#include "runs.h"

#include <string.h>

/* [at, at + n) lies in [0, limit). */
static bool within(uint64_t at, uint64_t n, uint64_t limit)
{
    return at <= limit && n <= limit - at;
}

static palm_err check_counts(const palm_envelope *e)
{
    if (e->n_records > PALM_MAX_RECORDS || e->n_arrays > PALM_MAX_ARRAYS || e->n_parts > PALM_MAX_PARTS ||
        e->n_blocks > PALM_MAX_ARRAYS || e->n_dtypes > PALM_MAX_ARRAYS)
        return PALM_ELIMIT;
    if (e->body_size > INT64_MAX)
        return PALM_ELIMIT;
    return PALM_OK;
}

static palm_err check_kind(const palm_envelope *e)
{
    if (e->kind < PALM_HELLO || e->kind > PALM_BYE || !e->seq)
        return PALM_EMALFORMED;
    if ((e->kind == PALM_HELLO) != (e->hello != NULL))
        return PALM_EMALFORMED;
    if (e->kind == PALM_OPEN && !e->n_records)
        return PALM_EMALFORMED;
    return PALM_OK;
}

static palm_err check_text(const palm_text *text)
{
    if (text->size > PALM_MAX_TEXT)
        return PALM_ELIMIT;
    return text->size && memchr(text->data, 0, text->size) ? PALM_EMALFORMED : PALM_OK;
}

static palm_err check_hello(const palm_hello *hello)
{
    palm_err err = check_text(&hello->endpoint);
    if (!err)
        err = check_text(&hello->name);
    if (err)
        return err;
    if (!hello->endpoint.size || hello->slot < PALM_SLOT_NONE || hello->word >= PALM_TAKEN_WORDS || hello->tag >> 24)
        return PALM_EMALFORMED;
    return PALM_OK;
}

/* Texts that overlap would let a small head cost much time: together they may not be larger than it. */
static palm_err check_dtypes(const palm_envelope *e)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < e->n_dtypes; i++) {
        bytes += e->dtypes[i].size;
        if (bytes > PALM_MAX_HEAD)
            return PALM_ELIMIT;
        palm_err err = check_text(&e->dtypes[i]);
        if (err)
            return err;
    }
    return PALM_OK;
}

static palm_err check_blocks(const palm_envelope *e)
{
    for (uint32_t i = 0; i < e->n_blocks; i++)
        if (!within(e->blocks[i].at, e->blocks[i].size, INT64_MAX))
            return PALM_EMALFORMED;
    return PALM_OK;
}

static bool form_fits(const palm_record *r)
{
    switch (r->form) {
    case PALM_NOTHING:
        return !r->array_count && !r->body_size;
    case PALM_BYTES:
        return !r->array_count || (r->array_count == 1 && !r->body_size);
    case PALM_ARRAY:
        return r->array_count == 1 && !r->body_size;
    case PALM_DROP:
    case PALM_CLOSE:
    case PALM_ASK:
    case PALM_LOST:
    case PALM_ASIDE:
        return !r->array_count;
    case PALM_TREE:
    case PALM_ERROR:
    case PALM_REDUCED:
        return true;
    default:
        return false;
    }
}

/* Records may share paths, arrays and bytes, but not so that a small head stands for endless arrays. */
static palm_err check_records(const palm_envelope *e)
{
    uint64_t arrays = 0;
    for (uint32_t i = 0; i < e->n_records; i++) {
        const palm_record *r = &e->records[i];
        if (r->path_count > PALM_MAX_PATH)
            return PALM_ELIMIT;
        if (!within(r->body_at, r->body_size, e->body_size) || !within(r->path_at, r->path_count, e->n_paths) ||
            !within(r->array_at, r->array_count, e->n_arrays) || !form_fits(r))
            return PALM_EMALFORMED;
        arrays += r->array_count;
    }
    return arrays > PALM_MAX_ARRAYS ? PALM_ELIMIT : PALM_OK;
}

static palm_err check_place(const palm_envelope *e, const palm_array *a)
{
    uint64_t limit;
    switch (a->place) {
    case PALM_IN_BODY:
        if (a->source || a->start % PALM_ALIGN)
            return PALM_EMALFORMED;
        limit = e->body_size;
        break;
    case PALM_IN_BLOCK:
        if (a->source >= e->n_blocks)
            return PALM_EMALFORMED;
        limit = e->blocks[a->source].size;
        break;
    case PALM_IN_PART:
        if (a->source >= e->n_parts)
            return PALM_EMALFORMED;
        limit = e->parts[a->source];
        break;
    default:
        return PALM_EMALFORMED;
    }
    return within(a->start, a->size, limit) ? PALM_OK : PALM_EMALFORMED;
}

/* The number of elements; like numpy, a zero does not excuse other dimensions that overflow together. */
static palm_err count_elements(const int64_t *shape, uint32_t ndim, int64_t *elements)
{
    int64_t n = 1;
    bool empty = false;
    for (uint32_t i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return PALM_EMALFORMED;
        if (!shape[i])
            empty = true;
        else if (__builtin_mul_overflow(n, shape[i], &n))
            return PALM_EMALFORMED;
    }
    *elements = empty ? 0 : n;
    return PALM_OK;
}

/* How far elements lie below and above the element (0, 0, ...). The sums are checked for empty arrays too, so that who
 * reads them can compute them without fear of overflow. */
static palm_err find_reach(const palm_array *a, const int64_t *dims, uint64_t *below, uint64_t *above)
{
    int64_t low = 0, high = 0;
    for (uint32_t i = 0; i < a->ndim; i++) {
        int64_t reach;
        if (__builtin_mul_overflow(dims[i] - 1, dims[a->ndim + i], &reach))
            return PALM_EMALFORMED;
        int64_t *side = reach < 0 ? &low : &high;
        if (__builtin_add_overflow(*side, reach, side))
            return PALM_EMALFORMED;
    }
    *below = 0 - (uint64_t)low;
    *above = (uint64_t)high;
    return PALM_OK;
}

/* The first byte of every element lies in [0, size): how long an element is, only who knows the dtype can check. Size 0
 * is for arrays without elements, and for elements without bytes. */
static palm_err check_extent(const palm_array *a, const int64_t *dims)
{
    int64_t elements = 0;
    uint64_t below = 0, above = 0;
    palm_err err = count_elements(dims, a->ndim, &elements);
    if (!err)
        err = find_reach(a, dims, &below, &above);
    if (err)
        return err;
    if (a->origin > a->size)
        return PALM_EMALFORMED;
    if (!elements || (!a->size && !below && !above))
        return PALM_OK;
    return below <= a->origin && above < a->size - a->origin ? PALM_OK : PALM_EMALFORMED;
}

static palm_err check_arrays(const palm_envelope *e)
{
    for (uint32_t i = 0; i < e->n_arrays; i++) {
        const palm_array *a = &e->arrays[i];
        if (a->ndim > PALM_MAX_DIMS)
            return PALM_ELIMIT;
        if (a->flags & PALM_ARRAY_SCALAR || a->dtype >= e->n_dtypes || !within(a->dims_at, 2u * a->ndim, e->n_dims))
            return PALM_EMALFORMED;
        palm_err err = check_place(e, a);
        if (!err)
            err = check_extent(a, a->ndim ? e->dims + a->dims_at : NULL);
        if (err)
            return err;
    }
    return PALM_OK;
}

/* Of a run, one message at least, without paths, in pieces of equal size. */
static palm_err check_run(const palm_envelope *e, const palm_record *r)
{
    if (r->path_count || r->number > UINT64_MAX - r->count)
        return PALM_EMALFORMED;
    if (r->form != PALM_ARRAY)
        return r->array_count || !r->body_size || r->body_size % r->count ? PALM_EMALFORMED : PALM_OK;
    const palm_array *a = &e->arrays[r->array_at];
    return a->ndim && e->dims[a->dims_at] == r->count ? PALM_OK : PALM_EMALFORMED;
}

static palm_err check_runs(const palm_envelope *e)
{
    uint64_t messages = 0, dims = 0;
    if (e->kind != PALM_DATA)
        return PALM_OK;
    for (uint32_t i = 0; i < e->n_records; i++) {
        uint32_t n = palmi_run_of(&e->records[i]);
        messages += n ? n : 1;
        palm_err err = n ? check_run(e, &e->records[i]) : PALM_OK;
        if (err)
            return err;
        if (n && e->records[i].form == PALM_ARRAY)
            dims += 2u * e->arrays[e->records[i].array_at].ndim;
    }
    return messages > PALM_MAX_RECORDS || dims > PALM_MAX_RUN_DIMS ? PALM_ELIMIT : PALM_OK;
}

palm_err palmi_envelope_check(const palm_envelope *e)
{
    palm_err err = check_counts(e);
    if (!err)
        err = check_kind(e);
    if (!err && e->hello)
        err = check_hello(e->hello);
    if (!err)
        err = check_dtypes(e);
    if (!err)
        err = check_blocks(e);
    if (!err)
        err = check_records(e);
    if (!err)
        err = check_arrays(e);
    return err ? err : check_runs(e);
}
