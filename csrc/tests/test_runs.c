/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Runs: what is put message by message comes back message by message, whatever became a record of several meanwhile. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

static palm_writer *writer;

static palm_batch *new_batch(void)
{
    palm_batch *b;
    CHECK_OK(palm_batch_new(&b));
    return b;
}

static void put_bytes(palm_batch *b, palm_form form, uint64_t number, uint64_t deadline, const void *bytes, size_t n)
{
    palm_record *r;
    if (palm_batch_extend(b, form, number, deadline, bytes, n))
        return;
    CHECK_OK(palm_batch_record(b, form, number, &r));
    r->deadline = deadline;
    CHECK_OK(palm_batch_body(b, bytes, n));
}

/* An array (n, 2) of float64 that begins with `first`. */
static void put_array(palm_batch *b, uint64_t number, int64_t n, double first)
{
    int64_t shape[] = {n, 2}, strides[] = {16, 8};
    palm_record *r;
    uint8_t *at = palm_batch_extend_array(b, number, 0, "<f8", 3, 2, shape, strides, (uint64_t)n * 16);
    if (!at) {
        CHECK_OK(palm_batch_record(b, PALM_ARRAY, number, &r));
        CHECK_OK(palm_batch_array(b, "<f8", 3, 2, shape, strides, (uint64_t)n * 16, 0, &at));
    }
    for (int64_t i = 0; i < 2 * n; i++)
        memcpy(at + 8 * i, &(double){first + (double)i}, 8);
}

static palm_event event_of(const palm_batch *b)
{
    const uint8_t *head, *body;
    size_t head_size, body_size;
    palm_event event;
    CHECK_OK(palm_batch_pack(b, writer, &head, &head_size, &body, &body_size));
    uint8_t *frame = malloc(head_size + body_size);
    CHECK(frame);
    memcpy(frame, head, head_size);
    if (body_size)
        memcpy(frame + head_size, body, body_size);
    CHECK_OK(palm_event_unpack(frame, head_size + body_size, &event));
    free(frame);
    return event;
}

static bool says(const palm_event *event, uint32_t i, palm_form form, uint64_t number, const char *bytes)
{
    const palm_record *r = &event->envelope.records[i];
    return r->form == form && r->number == number && !r->count && r->body_size == strlen(bytes) &&
           !memcmp(event->envelope.body + r->body_at, bytes, r->body_size);
}

/* Element (0, 0) of the array of a record that has this shape and these strides. */
static double first_of(const palm_event *event, uint32_t i, int64_t n)
{
    const palm_envelope *e = &event->envelope;
    const palm_array *a = &e->arrays[e->records[i].array_at];
    CHECK(e->records[i].form == PALM_ARRAY && e->records[i].array_count == 1 && a->ndim == 2 && a->size == (uint64_t)n * 16);
    CHECK(!memcmp(e->dims + a->dims_at, (int64_t[]){n, 2, 16, 8}, 4 * sizeof(int64_t)));
    CHECK((a->start + a->origin) % PALM_ALIGN == 0);
    double found;
    memcpy(&found, e->body + a->start + a->origin, sizeof found);
    return found;
}

static void test_equal_pieces_become_a_run(void)
{
    palm_batch *b = new_batch();
    put_bytes(b, PALM_BYTES, 5, 9, "abc", 3);
    put_bytes(b, PALM_BYTES, 6, 9, "def", 3);
    put_bytes(b, PALM_BYTES, 7, 9, "ghi", 3);
    put_bytes(b, PALM_BYTES, 8, 9, "four", 4);  /* of another size */
    put_bytes(b, PALM_BYTES, 10, 9, "five", 4); /* not the next one */
    put_bytes(b, PALM_BYTES, 11, 8, "late", 4); /* of another deadline */
    put_bytes(b, PALM_TREE, 12, 8, "tree", 4);
    put_bytes(b, PALM_TREE, 13, 8, "TREE", 4);
    CHECK(palm_batch_count(b) == 8);
    palm_event event = event_of(b);
    CHECK(event.envelope.n_records == 8 && event.n_runs == 2);
    CHECK(event.runs[0].first == 0 && event.runs[0].count == 3 && event.runs[1].first == 6 && event.runs[1].count == 2);
    CHECK(says(&event, 0, PALM_BYTES, 5, "abc") && says(&event, 1, PALM_BYTES, 6, "def") && says(&event, 2, PALM_BYTES, 7, "ghi"));
    CHECK(says(&event, 3, PALM_BYTES, 8, "four") && says(&event, 4, PALM_BYTES, 10, "five") && says(&event, 5, PALM_BYTES, 11, "late"));
    CHECK(says(&event, 6, PALM_TREE, 12, "tree") && says(&event, 7, PALM_TREE, 13, "TREE"));
    CHECK(event.envelope.records[2].deadline == 9 && event.envelope.records[7].deadline == 8);
    palm_event_done(&event);
    palm_batch_free(b);
}

static void test_a_number_that_comes_later(void)
{
    palm_batch *b = new_batch();
    put_bytes(b, PALM_BYTES, 0, 0, "one", 3);
    palm_batch_set_number(b, 7);
    CHECK(!palm_batch_extend(b, PALM_BYTES, 1, 0, "two", 3));
    CHECK(palm_batch_extend(b, PALM_BYTES, 8, 0, "two", 3));
    palm_event event = event_of(b);
    CHECK(event.envelope.n_records == 2);
    CHECK(says(&event, 0, PALM_BYTES, 7, "one") && says(&event, 1, PALM_BYTES, 8, "two"));
    palm_event_done(&event);
    palm_batch_free(b);
}

static void test_what_cannot_be_part_of_a_run(void)
{
    palm_batch *b = new_batch();
    palm_record *r;
    CHECK(!palm_batch_extend(b, PALM_BYTES, 0, 0, "a", 1)); /* there is none */
    CHECK_OK(palm_batch_record(b, PALM_BYTES, 0, &r));
    CHECK_OK(palm_batch_body(b, "a", 1));
    CHECK_OK(palm_batch_path(b, (uint64_t[]){3}, 1));
    CHECK(!palm_batch_extend(b, PALM_BYTES, 1, 0, "a", 1)); /* a path */
    CHECK_OK(palm_batch_record(b, PALM_BYTES, 1, &r));
    CHECK(!palm_batch_extend(b, PALM_BYTES, 2, 0, "", 0)); /* nothing to cut */
    CHECK_OK(palm_batch_record(b, PALM_DROP, 2, &r));
    CHECK(!palm_batch_extend(b, PALM_DROP, 3, 0, "a", 1));
    r->flags = 1;
    r->form = PALM_BYTES;
    CHECK(!palm_batch_extend(b, PALM_BYTES, 3, 0, "", 0));
    CHECK(palm_batch_count(b) == 3);
    palm_batch_free(b);
}

static void test_equal_arrays_become_a_run(void)
{
    palm_batch *b = new_batch();
    put_array(b, 0, 3, 100);
    put_array(b, 1, 3, 200);
    put_array(b, 2, 3, 300);
    put_array(b, 3, 4, 400); /* of another shape */
    put_array(b, 4, 4, 500);
    palm_event event = event_of(b);
    CHECK(event.envelope.n_records == 5 && event.n_runs == 2 && event.envelope.n_arrays == 2);
    for (uint32_t i = 0; i < 5; i++)
        CHECK(event.envelope.records[i].number == i && first_of(&event, i, i < 3 ? 3 : 4) == 100.0 * (i + 1));
    const palm_array *whole = &event.envelope.arrays[event.runs[0].array];
    CHECK(whole->ndim == 3 && !memcmp(event.envelope.dims + whole->dims_at, (int64_t[]){3, 3, 2, 64, 16, 8}, 48));
    palm_event_done(&event);
    palm_batch_free(b);
}

static void test_an_undone_record_leaves_the_run_before_it(void)
{
    palm_batch *b = new_batch();
    palm_record *r;
    put_bytes(b, PALM_BYTES, 0, 0, "ab", 2);
    put_bytes(b, PALM_BYTES, 1, 0, "cd", 2);
    CHECK_OK(palm_batch_record(b, PALM_TREE, 2, &r));
    CHECK_OK(palm_batch_body(b, "x", 1));
    palm_batch_undo(b);
    CHECK(palm_batch_count(b) == 2);
    put_bytes(b, PALM_BYTES, 2, 0, "ef", 2);
    palm_event event = event_of(b);
    CHECK(event.n_runs == 1 && event.runs[0].count == 3 && says(&event, 2, PALM_BYTES, 2, "ef"));
    palm_event_done(&event);
    palm_batch_free(b);
}

/* 7 messages, of which 1 to 3 are a run of bytes, and 4 to 6 one of arrays. */
static palm_batch *batch_of_seven(void)
{
    palm_batch *b = new_batch();
    put_array(b, 0, 2, 0);
    put_bytes(b, PALM_BYTES, 1, 0, "b1", 2);
    put_bytes(b, PALM_BYTES, 2, 0, "b2", 2);
    put_bytes(b, PALM_BYTES, 3, 0, "b3", 2);
    put_array(b, 4, 1, 4);
    put_array(b, 5, 1, 5);
    put_array(b, 6, 1, 6);
    return b;
}

static void check_one_of_seven(const palm_event *event, uint32_t at, uint32_t i)
{
    char bytes[] = {'b', (char)('0' + i), 0};
    CHECK(event->envelope.records[at].number == i);
    if (i >= 1 && i <= 3)
        CHECK(says(event, at, PALM_BYTES, i, bytes));
    else
        CHECK(first_of(event, at, i ? 1 : 2) == (double)i);
}

/* What has come is handed on by `most` at a time, from `first` on. */
static void check_relayed(uint32_t first, uint32_t most)
{
    palm_batch *b = batch_of_seven(), *onward = new_batch();
    palm_event came = event_of(b);
    for (uint32_t i = first, n; i < 7; i += n) {
        CHECK_OK(palm_batch_relay(onward, &came, i, most, &n));
        CHECK(n >= 1 && n <= most);
        CHECK(n == (i == 0 || most == 1 ? 1 : i <= 3 ? (4 - i < most ? 4 - i : most) : (7 - i < most ? 7 - i : most)));
    }
    palm_event_done(&came);
    CHECK(palm_batch_count(onward) == 7 - first);
    palm_event event = event_of(onward);
    CHECK(event.envelope.n_records == 7 - first);
    for (uint32_t i = first; i < 7; i++)
        check_one_of_seven(&event, i - first, i);
    palm_event_done(&event);
    palm_batch_free(onward);
    palm_batch_free(b);
}

/* A batch of many kinds of records, and one with those of its messages that `wanted` has a bit for. */
static void check_added(uint32_t wanted)
{
    palm_batch *b = batch_of_seven(), *some = new_batch();
    uint32_t n = 0;
    for (uint32_t i = 0; i < 7; i++)
        if (wanted >> i & 1) {
            CHECK_OK(palm_batch_add(some, b, i));
            n++;
        }
    CHECK(palm_batch_count(some) == n);
    palm_event event = event_of(some);
    CHECK(event.envelope.n_records == n);
    for (uint32_t i = 0, at = 0; i < 7; i++)
        if (wanted >> i & 1)
            check_one_of_seven(&event, at++, i);
    palm_event_done(&event);
    palm_batch_free(some);
    palm_batch_free(b);
}

/* numpy's own numbers: rows without a dimension, alone too. */
static void test_rows_without_a_dimension(void)
{
    palm_batch *b = new_batch(), *one = new_batch();
    palm_record *r;
    uint8_t *at;
    CHECK_OK(palm_batch_record(b, PALM_ARRAY, 0, &r));
    CHECK_OK(palm_batch_array(b, "<f8", 3, 1, (int64_t[]){3}, (int64_t[]){8}, 24, 0, &at));
    memcpy(at, (double[]){1, 2, 3}, 24);
    CHECK_OK(palm_batch_run(b, 3));
    CHECK_OK(palm_batch_add(one, b, 2));
    for (int alone = 0; alone < 2; alone++) {
        palm_event event = event_of(alone ? one : b);
        const palm_envelope *e = &event.envelope;
        CHECK(e->n_records == (alone ? 1 : 3) && event.n_runs == 1);
        const palm_record *last = &e->records[e->n_records - 1];
        const palm_array *a = &e->arrays[last->array_at];
        CHECK(last->number == 2 && a->ndim == 0 && a->flags == PALM_ARRAY_SCALAR);
        double found;
        memcpy(&found, e->body + a->start + a->origin, sizeof found);
        CHECK(found == 3);
        palm_event_done(&event);
    }
    palm_batch_free(one);
    palm_batch_free(b);
}

static palm_err verdict(palm_record record, palm_array array, const int64_t *dims, uint32_t n_dims)
{
    palm_envelope e = {.kind = PALM_DATA, .seq = 1, .records = &record, .n_records = 1, .arrays = &array, .n_arrays = 1,
                       .dims = dims, .n_dims = n_dims, .dtypes = &(palm_text){"<f8", 3}, .n_dtypes = 1, .body_size = 128};
    const uint8_t *head;
    size_t size;
    return palm_writer_head(writer, &e, &head, &size);
}

static void test_contradictions(void)
{
    const int64_t dims[] = {4, 8};
    palm_array a = {.size = 32, .ndim = 1};
    palm_record bytes = {.form = PALM_BYTES, .count = 4, .body_size = 128}, array = {.form = PALM_ARRAY, .count = 4, .array_count = 1};
    CHECK_OK(verdict(bytes, a, dims, 2));
    CHECK_OK(verdict(array, a, dims, 2));
    palm_record wrong = bytes;
    wrong.count = 3; /* 128 bytes in 3 pieces */
    CHECK_ERR(verdict(wrong, a, dims, 2), PALM_EINVAL);
    wrong = bytes;
    wrong.number = UINT64_MAX - 3; /* the last of them is none */
    CHECK_ERR(verdict(wrong, a, dims, 2), PALM_EINVAL);
    wrong.number--;
    CHECK_OK(verdict(wrong, a, dims, 2));
    wrong = bytes;
    wrong.body_size = 0;
    wrong.array_count = 1; /* bytes out of band */
    CHECK_ERR(verdict(wrong, a, dims, 2), PALM_EINVAL);
    wrong = bytes;
    wrong.body_size = 0; /* pieces of nothing would stand for much */
    CHECK_ERR(verdict(wrong, a, dims, 2), PALM_EINVAL);
    wrong = array;
    wrong.count = PALM_MAX_RECORDS + 1;
    CHECK_ERR(verdict(wrong, a, (int64_t[]){PALM_MAX_RECORDS + 1, 0}, 2), PALM_ELIMIT);
    wrong.count--;
    CHECK_OK(verdict(wrong, a, (int64_t[]){PALM_MAX_RECORDS, 0}, 2));
    wrong = array;
    wrong.count = 5; /* of 4 rows */
    CHECK_ERR(verdict(wrong, a, dims, 2), PALM_EINVAL);
    a.ndim = 0; /* no rows at all */
    CHECK_ERR(verdict(array, a, dims, 2), PALM_EINVAL);
    a.ndim = 1;
    a.flags = PALM_ARRAY_SCALAR; /* says the receiver alone */
    CHECK_ERR(verdict(array, a, dims, 2), PALM_EINVAL);
}

/* Many runs of one array are cheap to send, and their rows' shapes are not. */
static void test_limit_of_dims(void)
{
    enum { RUNS = PALM_MAX_RUN_DIMS / 2 / PALM_MAX_DIMS };
    static palm_record records[RUNS + 1];
    int64_t dims[2 * PALM_MAX_DIMS] = {0};
    const uint8_t *head;
    size_t size;
    for (int i = 0; i < PALM_MAX_DIMS; i++)
        dims[i] = 1;
    for (int i = 0; i <= RUNS; i++)
        records[i] = (palm_record){.number = (uint64_t)i, .form = PALM_ARRAY, .count = 1, .array_count = 1};
    palm_array a = {.size = 8, .ndim = PALM_MAX_DIMS};
    palm_envelope e = {.kind = PALM_DATA, .seq = 1, .records = records, .n_records = RUNS, .arrays = &a, .n_arrays = 1, .dims = dims,
                       .n_dims = 2 * PALM_MAX_DIMS, .dtypes = &(palm_text){"<f8", 3}, .n_dtypes = 1, .body_size = 64};
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
    e.n_records++;
    CHECK_ERR(palm_writer_head(writer, &e, &head, &size), PALM_ELIMIT);
}

/* Rows that run backwards, overlap, or have no bytes: where each begins was checked, and nothing else is named. */
static void check_rows(int64_t step, uint64_t origin, uint64_t size, int64_t columns)
{
    const int64_t dims[] = {4, columns, step, 8};
    palm_array array = {.size = size, .origin = origin, .ndim = 2};
    palm_record record = {.form = PALM_ARRAY, .count = 4, .array_count = 1};
    palm_envelope e = {.kind = PALM_DATA, .seq = 1, .records = &record, .n_records = 1, .arrays = &array, .n_arrays = 1,
                       .dims = dims, .n_dims = 4, .dtypes = &(palm_text){"<f8", 3}, .n_dtypes = 1, .body_size = 128};
    const uint8_t *head;
    size_t n;
    palm_event event;
    CHECK_OK(palm_writer_head(writer, &e, &head, &n));
    uint8_t *frame = calloc(1, n + 128);
    memcpy(frame, head, n);
    CHECK_OK(palm_event_unpack(frame, n + 128, &event));
    CHECK(event.envelope.n_records == 4);
    for (uint32_t i = 0; i < 4; i++) {
        const palm_array *a = &event.envelope.arrays[event.envelope.records[i].array_at];
        CHECK(a->ndim == 1 && event.envelope.dims[a->dims_at] == columns && event.envelope.dims[a->dims_at + 1] == 8);
        CHECK(a->start + a->size <= 128 && a->origin <= a->size);
        if (columns && size)
            CHECK((int64_t)(a->start + a->origin) == (int64_t)origin + step * (int64_t)i);
        palm_batch *onward = new_batch();
        uint32_t taken;
        CHECK_OK(palm_batch_relay(onward, &event, i, 1, &taken)); /* alone, it is as good */
        palm_event again = event_of(onward);
        CHECK(taken == 1 && again.envelope.n_records == 1 && again.envelope.records[0].number == i);
        palm_event_done(&again);
        palm_batch_free(onward);
    }
    palm_event_done(&event);
    free(frame);
}

int main(void)
{
    CHECK_OK(palm_writer_new(&writer));
    test_equal_pieces_become_a_run();
    test_a_number_that_comes_later();
    test_what_cannot_be_part_of_a_run();
    test_equal_arrays_become_a_run();
    test_an_undone_record_leaves_the_run_before_it();
    for (uint32_t wanted = 0; wanted < 1 << 7; wanted++)
        check_added(wanted);
    for (uint32_t first = 0; first < 7; first++)
        for (uint32_t most = 1; most < 5; most++)
            check_relayed(first, most);
    test_rows_without_a_dimension();
    test_contradictions();
    test_limit_of_dims();
    check_rows(16, 0, 64, 2);
    check_rows(-16, 48, 64, 2);
    check_rows(0, 0, 16, 2);
    check_rows(8, 0, 128, 2);
    check_rows(INT64_MAX / 4, 0, 0, 0);
    check_rows(1000, 0, 64, 0);
    check_rows(-1000, 64, 64, 0);
    check_rows(64, 0, 0, 0);
    check_rows(16, 16, 128, 2);
    palm_writer_free(writer);
    return 0;
}
