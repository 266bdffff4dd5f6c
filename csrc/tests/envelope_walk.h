/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An oracle for envelopes: goes through everything that one says and touches all bytes it names, with arithmetic that
 * cannot overflow and none of the code under test. Ends the program where something is out of bounds. */
#ifndef PALM_TESTS_ENVELOPE_WALK_H
#define PALM_TESTS_ENVELOPE_WALK_H
#include "../src/runs.h"
#include "check.h"
#include <string.h>

static volatile uint8_t walk_sink;

static inline void walk_bytes(const void *bytes, uint64_t n)
{
    const uint8_t *at = bytes;
    for (uint64_t i = 0; i < n; i++)
        walk_sink = at[i];
}

static inline void walk_text(const palm_text *text)
{
    CHECK(text->size <= PALM_MAX_TEXT);
    for (uint32_t i = 0; i < text->size; i++)
        CHECK(text->data[i]);
}

static inline void walk_record(const palm_envelope *e, const palm_record *r)
{
    CHECK(r->form <= PALM_REDUCED && r->path_count <= PALM_MAX_PATH);
    CHECK((__int128)r->body_at + r->body_size <= e->body_size);
    CHECK((uint64_t)r->path_at + r->path_count <= e->n_paths);
    CHECK((uint64_t)r->array_at + r->array_count <= e->n_arrays);
    CHECK(r->form != PALM_ARRAY || r->array_count == 1);
    CHECK(r->form != PALM_BYTES || r->array_count <= 1);
    walk_bytes(e->body + r->body_at, r->body_size);
}

static inline uint64_t walk_room(const palm_envelope *e, const palm_array *a)
{
    switch (a->place) {
    case PALM_IN_BODY:
        CHECK(a->start % PALM_ALIGN == 0);
        return e->body_size;
    case PALM_IN_BLOCK:
        CHECK(a->source < e->n_blocks);
        return e->blocks[a->source].size;
    default:
        CHECK(a->place == PALM_IN_PART && a->source < e->n_parts);
        return e->parts[a->source];
    }
}

static inline void walk_elements(const palm_envelope *e, const palm_array *a)
{
    __int128 low = a->origin, high = a->origin, elements = 1;
    bool empty = false;
    for (uint32_t i = 0; i < a->ndim; i++) {
        __int128 shape = e->dims[a->dims_at + i], stride = e->dims[a->dims_at + a->ndim + i];
        CHECK(shape >= 0);
        empty = empty || !shape;
        elements *= shape ? shape : 1;
        CHECK(elements <= INT64_MAX);
        *((shape - 1) * stride < 0 ? &low : &high) += (shape - 1) * stride;
    }
    CHECK(empty || (low >= 0 && high + (a->size ? 1 : 0) <= a->size));
}

static inline void walk_array(const palm_envelope *e, const palm_array *a)
{
    CHECK(a->ndim <= PALM_MAX_DIMS && a->dtype < e->n_dtypes);
    CHECK((uint64_t)a->dims_at + 2u * a->ndim <= e->n_dims);
    CHECK((__int128)a->start + a->size <= walk_room(e, a));
    walk_elements(e, a);
    if (a->place == PALM_IN_BODY)
        walk_bytes(e->body + a->start, a->size);
}

/* What runs have become: rows lie in what was checked of the arrays that they are rows of. */
static inline void walk_runs(const palm_envelope *e)
{
    palm_event event = {.envelope = *e};
    CHECK_OK(palmi_unroll(&event));
    const palm_envelope *u = &event.envelope;
    CHECK(u->n_records <= PALM_MAX_RECORDS && u->n_arrays == e->n_arrays);
    for (uint32_t i = 0; i < event.n_runs; i++) {
        const palm_run *run = &event.runs[i];
        CHECK(run->count && (uint64_t)run->first + run->count <= u->n_records && (!i || run->first >= run[-1].first + run[-1].count));
        for (uint32_t k = 0; k < run->count; k++) {
            const palm_record *r = &u->records[run->first + k];
            CHECK(!r->count && r->number == u->records[run->first].number + k && r->number != UINT64_MAX);
            CHECK((__int128)r->body_at + r->body_size <= e->body_size);
            if (r->form != PALM_ARRAY)
                continue;
            const palm_array *row = &u->arrays[r->array_at], *whole = &u->arrays[run->array];
            CHECK(row->start >= whole->start && (__int128)row->start + row->size <= (__int128)whole->start + whole->size);
            walk_elements(u, row);
        }
    }
    for (uint32_t i = 0, n; i < u->n_records && !e->n_blocks && !e->n_parts; i++) { /* each is handed on alone */
        palm_batch *b;
        CHECK_OK(palm_batch_new(&b));
        CHECK_OK(palm_batch_relay(b, &event, i, 1, &n));
        CHECK(n == 1 && palm_batch_count(b) == 1 && palm_batch_bytes(b) <= e->body_size + PALM_ALIGN * 65ull);
        palm_batch_free(b);
    }
    palm_event_done(&event);
}

static inline void walk_envelope(const palm_envelope *e)
{
    CHECK(e->kind >= PALM_HELLO && e->kind <= PALM_BYE && e->seq);
    CHECK((e->kind == PALM_HELLO) == (e->hello != NULL));
    CHECK(e->n_records <= PALM_MAX_RECORDS && e->n_arrays <= PALM_MAX_ARRAYS && e->n_parts <= PALM_MAX_PARTS);
    if (e->hello) {
        walk_text(&e->hello->endpoint);
        walk_text(&e->hello->name);
    }
    for (uint32_t i = 0; i < e->n_dtypes; i++)
        walk_text(&e->dtypes[i]);
    for (uint32_t i = 0; i < e->n_records; i++)
        walk_record(e, &e->records[i]);
    for (uint32_t i = 0; i < e->n_arrays; i++)
        walk_array(e, &e->arrays[i]);
    walk_bytes(e->paths, e->n_paths * sizeof *e->paths);
    walk_bytes(e->blocks, e->n_blocks * sizeof *e->blocks);
    walk_bytes(e->body, e->body_size);
    walk_runs(e);
}

static inline bool same_bytes(const void *a, const void *b, uint32_t n, uint32_t n_b, size_t size)
{
    return n == n_b && (!n || !memcmp(a, b, n * size));
}

static inline bool same_text(const palm_text *a, const palm_text *b)
{
    return same_bytes(a->data, b->data, a->size, b->size, 1);
}

static inline bool same_hello(const palm_hello *a, const palm_hello *b)
{
    if (!a || !b)
        return a == b;
    return !memcmp(&a->identity, &b->identity, sizeof a->identity) && same_text(&a->endpoint, &b->endpoint) &&
           same_text(&a->name, &b->name) && a->slot == b->slot && a->word == b->word && a->tag == b->tag &&
           a->bell == b->bell && a->wake == b->wake && a->ring == b->ring && a->ring_id == b->ring_id;
}

/* All but the bodies. */
static inline bool same_envelope(const palm_envelope *a, const palm_envelope *b)
{
    if (a->n_dtypes != b->n_dtypes)
        return false;
    for (uint32_t i = 0; i < a->n_dtypes; i++)
        if (!same_text(&a->dtypes[i], &b->dtypes[i]))
            return false;
    return a->kind == b->kind && a->hop == b->hop && a->handle == b->handle && a->sender == b->sender &&
           a->seq == b->seq && a->body_size == b->body_size && same_hello(a->hello, b->hello) &&
           same_bytes(a->records, b->records, a->n_records, b->n_records, sizeof *a->records) &&
           same_bytes(a->paths, b->paths, a->n_paths, b->n_paths, sizeof *a->paths) &&
           same_bytes(a->arrays, b->arrays, a->n_arrays, b->n_arrays, sizeof *a->arrays) &&
           same_bytes(a->dims, b->dims, a->n_dims, b->n_dims, sizeof *a->dims) &&
           same_bytes(a->blocks, b->blocks, a->n_blocks, b->n_blocks, sizeof *a->blocks) &&
           same_bytes(a->parts, b->parts, a->n_parts, b->n_parts, sizeof *a->parts);
}

/* Whatever was accepted holds together, can be written again, and is then read as the same. */
static inline void walk_again(const palm_envelope *e)
{
    static palm_writer *writer;
    static palm_reader *reader; /* another one than that which owns parts of *e */
    palm_envelope again;
    const uint8_t *head;
    void *frame;
    size_t size;
    walk_envelope(e);
    if (!writer) {
        CHECK_OK(palm_writer_new(&writer));
        CHECK_OK(palm_reader_new(&reader));
    }
    palm_err err = palm_writer_head(writer, e, &head, &size);
    if (err == PALM_ELIMIT) /* what overlaps in a damaged head is written apart */
        return;
    CHECK_OK(err);
    CHECK(!posix_memalign(&frame, PALM_ALIGN, size + e->body_size));
    memcpy(frame, head, size);
    if (e->body_size)
        memcpy((uint8_t *)frame + size, e->body, e->body_size);
    CHECK_OK(palm_reader_read(reader, frame, size + e->body_size, e->parts, e->n_parts, &again));
    CHECK(same_envelope(e, &again));
    free(frame);
}
#endif
