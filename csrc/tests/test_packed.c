/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A batch as one frame that goes by no link, and back. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

static palm_batch *batch_of_an_array(palm_writer *writer, const uint8_t **head, size_t *head_size, const uint8_t **body,
                                     size_t *body_size)
{
    palm_batch *b;
    palm_record *r;
    uint8_t *at;
    CHECK_OK(palm_batch_new(&b));
    CHECK_OK(palm_batch_record(b, PALM_ARRAY, 7, &r));
    CHECK_OK(palm_batch_array(b, "<f8", 3, 1, (int64_t[]){3}, (int64_t[]){8}, 24, 0, &at));
    memcpy(at, (double[]){1, 2, 3}, 24);
    CHECK_OK(palm_batch_pack(b, writer, head, head_size, body, body_size));
    return b;
}

static uint8_t *joined(const uint8_t *head, size_t head_size, const uint8_t *body, size_t body_size)
{
    uint8_t *frame = malloc(head_size + body_size + 1);
    CHECK(frame);
    memcpy(frame, head, head_size);
    memcpy(frame + head_size, body, body_size);
    return frame;
}

static void test_comes_back(palm_writer *writer)
{
    const uint8_t *head, *body;
    size_t head_size, body_size;
    palm_event event;
    palm_batch *b = batch_of_an_array(writer, &head, &head_size, &body, &body_size);
    uint8_t *frame = joined(head, head_size, body, body_size);
    CHECK_OK(palm_event_unpack(frame, head_size + body_size, &event));
    free(frame); /* the event has a copy */
    palm_batch_free(b);
    CHECK(event.kind == PALM_EVENT_MESSAGE && event.envelope.kind == PALM_DATA);
    CHECK(event.envelope.n_records == 1 && event.envelope.records[0].number == 7);
    CHECK(event.envelope.n_dtypes == 1 && !memcmp(event.envelope.dtypes[0].data, "<f8", 3));
    CHECK((uintptr_t)event.envelope.body % PALM_ALIGN == 0);
    double three;
    memcpy(&three, event.envelope.body + event.envelope.arrays[0].start + 16, sizeof three);
    CHECK(three == 3);
    palm_event_done(&event);
    palm_event_done(&event);
}

static void test_rejects_what_is_cut_or_longer(palm_writer *writer)
{
    const uint8_t *head, *body;
    size_t head_size, body_size;
    palm_event event;
    palm_batch *b = batch_of_an_array(writer, &head, &head_size, &body, &body_size);
    uint8_t *frame = joined(head, head_size, body, body_size);
    frame[head_size + body_size] = 0;
    for (size_t n = 0; n < head_size + body_size; n++)
        CHECK(palm_event_unpack(frame, n, &event) != PALM_OK);
    CHECK(palm_event_unpack(frame, head_size + body_size + 1, &event) == PALM_EMALFORMED);
    palm_event_done(&event); /* after a failure there is nothing to give back */
    free(frame);
    palm_batch_free(b);
}

/* What other processes would have to map has no meaning in a file. */
static void test_rejects_blocks_and_other_kinds(palm_writer *writer)
{
    palm_event event;
    palm_block block = {.size = 64};
    palm_record record = {.form = PALM_NOTHING};
    const uint8_t *head;
    size_t size;
    palm_envelope e = {.kind = PALM_DATA, .seq = 1, .records = &record, .n_records = 1};
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
    CHECK_OK(palm_event_unpack(head, size, &event));
    palm_event_done(&event);
    e.kind = PALM_OPEN;
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
    CHECK(palm_event_unpack(head, size, &event) == PALM_EMALFORMED);
    e.kind = PALM_DATA;
    e.blocks = &block;
    e.n_blocks = 1;
    CHECK_OK(palm_writer_head(writer, &e, &head, &size));
    CHECK(palm_event_unpack(head, size, &event) == PALM_EMALFORMED);
}

static void test_a_batch_that_lends_cannot_be_packed(palm_writer *writer)
{
    palm_space *space;
    palm_batch *b;
    palm_record *r;
    palm_arena *arena;
    uint32_t index;
    const void *first;
    const uint8_t *head, *body;
    size_t n;
    CHECK_OK(palm_space_open(&(palm_space_options){.bound = 64 << 20}, &space));
    if (palm_space_has_arena(space)) {
        void *p = palm_space_alloc(space, 1 << 16, false);
        CHECK_OK(palm_space_hold(space, p, 1 << 16, &arena, &index, &first, &n));
        CHECK_OK(palm_batch_new(&b));
        CHECK_OK(palm_batch_record(b, PALM_ARRAY, 0, &r));
        CHECK_OK(palm_batch_lend(b, "|u1", 3, 1, (int64_t[]){1 << 16}, (int64_t[]){1}, 1 << 16, 0, arena, index, first, 0));
        CHECK(palm_batch_pack(b, writer, &head, &n, &body, &n) == PALM_EINVAL);
        palm_batch_free(b);
        palm_space_free(space, p);
    }
    palm_space_close(space);
}

int main(void)
{
    palm_writer *writer;
    CHECK_OK(palm_writer_new(&writer));
    test_comes_back(writer);
    test_rejects_what_is_cut_or_longer(writer);
    test_rejects_blocks_and_other_kinds(writer);
    test_a_batch_that_lends_cannot_be_packed(writer);
    palm_writer_free(writer);
    return 0;
}
