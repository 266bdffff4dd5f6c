/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What nodes do. Arguments: those of peers_begin. */
#include "node_peers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static void test_small(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_bytes(batch, 3, "hello");
    put_bytes(batch, 4, "");
    send_all(a.node, link, 42, 5, batch);
    palm_event event = next_message(&b, &a);
    const palm_envelope *e = &event.envelope;
    CHECK(e->kind == PALM_DATA && e->handle == 42 && e->hop == 5 && e->n_records == 2 && e->sender == palm_node_id(a.node));
    CHECK(e->records[0].number == 3 && e->records[0].body_size == 5);
    CHECK(!memcmp(e->body + e->records[0].body_at, "hello", 5));
    palm_event_done(&event);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

static void test_block(bool frames)
{
    peer a = peer_open("a", frames), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_block(&a, batch, 0xab);
    send_all(a.node, link, 1, 0, batch);
    palm_event event = next_message(&b, &a);
    const palm_array *array = &event.envelope.arrays[0];
    CHECK(array->place == (frames ? PALM_IN_PART : PALM_IN_BLOCK));
    const uint8_t *bytes = frames ? event.parts[array->source] : event.blocks[array->source].first;
    CHECK((uintptr_t)bytes % PALM_ALIGN == 0);
    for (int i = 0; i < 1 << 20; i++)
        CHECK(bytes[array->start + i] == 0xab);
    if (!frames)
        CHECK(held(&a) == 1);
    palm_event_done(&event);
    CHECK(held(&b) == 0);
    wait_until_free(&a);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

static void send_a_block_and_wait(const char *to)
{
    enum { TOUCHED = 32 << 20 }; /* so much that it is worth it to copy the rest */
    peer owner = peer_open("owner", false);
    palm_batch *batch;
    palm_event event;
    uint32_t link;
    CHECK(!prctl(PR_SET_PDEATHSIG, SIGKILL));
    void *touched = palm_space_alloc(owner.space, TOUCHED, false);
    CHECK(touched);
    memset(touched, 1, TOUCHED);
    CHECK_OK(palm_batch_new(&batch));
    CHECK_OK(palm_node_link(owner.node, to, 0, &link));
    expect(&owner, NULL, PALM_EVENT_READY);
    put_block(&owner, batch, 0xcd);
    send_all(owner.node, link, 1, 0, batch);
    for (;;)
        palm_node_next(owner.node, 1000, &event);
}

/* What was received, to somebody else after its owner's death, which has it copied to private memory. The first test, since
 * there is a fork in it. */
static void test_hand_on_an_orphan(void)
{
    char endpoint[128], left[128];
    snprintf(endpoint, sizeof endpoint, "ipc://%s/b", directory);
    snprintf(left, sizeof left, "%s/owner", directory);
    pid_t owner = fork();
    if (!owner)
        send_a_block_and_wait(endpoint);
    peer b = peer_open("b", false), c = peer_open("c", false);
    uint32_t link = connect_to(&b, &c), index;
    palm_event event = next_message(&b, NULL);
    palm_arena *arena = event.blocks[0].arena;
    const void *first;
    size_t size;
    int64_t shape = 1 << 20, stride = 1;
    CHECK_OK(palm_space_hold(b.space, event.blocks[0].first, 1 << 20, &arena, &index, &first, &size));
    palm_event_done(&event);
    CHECK(!kill(owner, SIGKILL) && waitpid(owner, NULL, 0) == owner);
    palm_space_tick(b.space, (uint64_t)time(NULL) * 1000000000u);
    palm_space_stats stats;
    palm_space_get_stats(b.space, &stats);
    CHECK(stats.evacuated == 1);
    palm_batch *batch;
    palm_record *record;
    CHECK_OK(palm_batch_new(&batch));
    CHECK_OK(palm_batch_record(batch, PALM_ARRAY, 7, &record));
    CHECK_OK(palm_batch_lend(batch, "|u1", 3, 1, &shape, &stride, 1 << 20, 0, arena, index, first, 0));
    put_bytes(batch, 8, "behind");
    send_all(b.node, link, 1, 0, batch);
    event = next_message(&c, &b);
    const palm_array *array = event.envelope.arrays;
    CHECK(array->place == PALM_IN_PART && event.envelope.n_records == 2);
    for (int i = 0; i < 1 << 20; i++)
        CHECK(event.parts[0][array->start + i] == 0xcd);
    palm_event_done(&event);
    put_bytes(batch, 9, "next"); /* by the ring again */
    send_all(b.node, link, 1, 0, batch);
    event = next_message(&c, &b);
    CHECK(event.envelope.records[0].number == 9);
    palm_event_done(&event);
    palm_batch_free(batch);
    peer_close(&b);
    peer_close(&c);
    unlink(left);
}

static void check_parts(const palm_event *event)
{
    CHECK(event->envelope.n_arrays == 2);
    for (uint32_t i = 0; i < 2; i++) {
        const palm_array *array = &event->envelope.arrays[i];
        const uint8_t *bytes = event->parts[array->source] + array->start;
        CHECK(array->place == PALM_IN_PART && array->size == (1 << 20) - 128u * i);
        for (uint64_t k = 0; k < array->size; k++)
            CHECK(bytes[k] == i + 1);
    }
}

static int (*real_send)(palmi_zmq_msg *, void *, int);
static int frames_left;
static bool has_parts;

static int send_until(palmi_zmq_msg *msg, void *socket, int flags)
{
    has_parts |= (flags & PALMI_ZMQ_SNDMORE) != 0;
    if (!has_parts || frames_left-- > 0)
        return real_send(msg, socket, flags);
    errno = ENOMEM;
    return -1;
}

/* Of the first message that has parts, so many frames go. */
static void let_frames_go(int n)
{
    real_send = palmi_zmq.msg_send_;
    frames_left = n;
    has_parts = false;
    palmi_zmq.msg_send_ = send_until;
}

/* A part fails after `sent` frames of its message went: the link is lost, the batch as it was, and good for the next. */
static void test_half_a_message(int sent)
{
    peer a = peer_open("a", true), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b), again;
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_block_from(&a, batch, 1, 0);
    put_block_from(&a, batch, 2, 128);
    let_frames_go(sent);
    CHECK_ERR(palm_node_send(a.node, link, PALM_DATA, 1, 0, batch), PALM_ECLOSED);
    palmi_zmq.msg_send_ = real_send;
    CHECK(palm_batch_count(batch) == 2 && palm_batch_lent(batch) == 2);
    CHECK(palm_node_link_state(a.node, link, NULL) == PALM_LINK_GONE);
    palm_event event = expect(&a, &b, PALM_EVENT_GONE);
    CHECK(event.link == link && event.reason == 1);
    again = connect_to(&a, &b);
    CHECK(again != link);
    send_all(a.node, again, 2, 0, batch);
    event = next_message(&b, &a);
    CHECK(event.envelope.handle == 2);
    check_parts(&event);
    palm_event_done(&event);
    wait_until_free(&a);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

/* What waited for the hand-shake is sent when it is over; if that leaves half a message, the link is lost with it. */
static void test_half_a_message_that_waited(void)
{
    peer a = peer_open("a", true), b = peer_open("b", false);
    uint32_t link;
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    CHECK_OK(palm_node_link(a.node, palm_node_endpoint(b.node), 0, &link));
    put_block_from(&a, batch, 1, 0);
    put_block_from(&a, batch, 2, 128);
    send_all(a.node, link, 1, 0, batch);
    let_frames_go(2);
    palm_event event = expect(&a, &b, PALM_EVENT_READY);
    event = expect(&a, &b, PALM_EVENT_GONE);
    palmi_zmq.msg_send_ = real_send;
    CHECK(event.link == link && event.reason == 1);
    wait_until_free(&a);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

static void close_link(peer *p, uint32_t link)
{
    pthread_mutex_lock(&p->node->lock);
    palmi_link_close(p->node, palmi_link_get(p->node, link), 0);
    pthread_mutex_unlock(&p->node->lock);
}

/* Who closes its link and opens it again is answered, and told which blocks have been taken. */
static void test_link_again(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    for (int i = 0; i < 3; i++) {
        close_link(&a, link);
        link = connect_to(&a, &b);
        put_block(&a, batch, 1);
        send_all(a.node, link, 1, 0, batch);
        palm_event event = next_message(&b, &a);
        palm_event_done(&event);
        wait_until_free(&a);
    }
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

static void test_bye(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b), back;
    palm_event event = expect(&b, &a, PALM_EVENT_READY);
    back = event.link;
    uint32_t unsent;
    palm_node_close(a.node, 100, &unsent);
    CHECK(unsent == 0);
    event = expect(&b, NULL, PALM_EVENT_GONE);
    CHECK(event.link == back && event.reason == 0);
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_bytes(batch, 1, "late");
    CHECK_ERR(palm_node_send(b.node, back, PALM_DATA, 1, 0, batch), PALM_ECLOSED);
    CHECK(palm_batch_count(batch) == 1);
    CHECK(palm_node_link_state(b.node, back, NULL) == PALM_LINK_GONE);
    (void)link;
    palm_batch_free(batch);
    palm_space_close(a.space);
    peer_close(&b);
}

enum { LITTLE = 9001, LARGE = 40 << 10, FIRST = 128 }; /* which goes in frames in the body, and which in one of its own */

/* A block of so many bytes behind FIRST others, in n arrays of the record begun last. */
static void put_blocks(peer *p, palm_batch *batch, uint32_t n, int64_t bytes_each, int fill)
{
    palm_arena *arena;
    uint32_t index;
    const void *first;
    size_t size, all = FIRST + (size_t)bytes_each;
    int64_t stride = 1;
    uint8_t *bytes = palm_space_alloc(p->space, all, false);
    CHECK(bytes);
    memset(bytes, 0, FIRST);
    memset(bytes + FIRST, fill, (size_t)bytes_each);
    for (uint32_t i = 0; i < n; i++) {
        CHECK_OK(palm_space_hold(p->space, bytes, all, &arena, &index, &first, &size));
        CHECK_OK(palm_batch_lend(batch, "|u1", 3, 1, &bytes_each, &stride, (uint64_t)bytes_each, 0, arena, index,
                                 first, FIRST));
    }
    palm_space_free(p->space, bytes);
}

static void put_large(peer *p, palm_batch *batch, uint32_t n)
{
    CHECK_OK(palm_batch_record(batch, PALM_TREE, n, &(palm_record *){NULL}));
    put_blocks(p, batch, n, LARGE, 7);
}

/* What one envelope can carry in frames is not exceeded by records that came in two. */
static void test_full_batch(void)
{
    peer a = peer_open("a", true), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *kept, *again;
    CHECK_OK(palm_batch_new(&kept));
    CHECK_OK(palm_batch_new(&again));
    put_large(&a, kept, PALM_MAX_PARTS);
    put_large(&a, kept, 10);
    put_large(&a, kept, 1);
    put_bytes(kept, 5, "small");
    CHECK_OK(palm_batch_add(again, kept, 1));
    CHECK(!palm_batch_full(again));
    uint64_t size = palm_batch_bytes(again);
    CHECK_ERR(palm_batch_add(again, kept, 0), PALM_EFULL);
    CHECK(palm_batch_count(again) == 1 && palm_batch_lent(again) == 10 && palm_batch_bytes(again) == size);
    CHECK_OK(palm_node_send(a.node, link, PALM_DATA, 1, 0, again));
    palm_batch_clear(again);
    CHECK_OK(palm_batch_add(again, kept, 0));
    CHECK_ERR(palm_batch_add(again, kept, 2), PALM_EFULL);
    CHECK_OK(palm_batch_add(again, kept, 3)); /* which lends nothing */
    palm_batch_free(kept);
    CHECK_OK(palm_node_send(a.node, link, PALM_DATA, 1, 0, again));
    palm_event first = next_message(&b, &a), second = next_message(&b, &a);
    CHECK(first.envelope.n_parts == 10 && second.envelope.n_parts == PALM_MAX_PARTS && second.envelope.n_records == 2);
    palm_event_done(&first);
    palm_event_done(&second);
    palm_batch_free(again);
    wait_until_free(&a);
    peer_close(&a);
    peer_close(&b);
}

static const uint8_t *bytes_of(const palm_event *event, const palm_array *a)
{
    return (a->place == PALM_IN_PART ? event->parts[a->source] : event->envelope.body) + a->start;
}

static void put_in_body(palm_batch *batch, int64_t size, int fill)
{
    uint8_t *bytes;
    CHECK_OK(palm_batch_array(batch, "|u1", 3, 1, &size, &(int64_t){1}, (uint64_t)size, 0, &bytes));
    memset(bytes, fill, (size_t)size);
}

/* A frame for each would cost more than a copy. Those of one record that are in the body lie there in their order, so what
 * stands before one that was there already does not move behind it. */
static void test_little_ones_go_in_the_body(void)
{
    enum { N = 7 };
    const struct { int64_t size; bool lent; palm_place place; } is[N] = {
        {LITTLE, true, PALM_IN_BODY}, {LARGE, true, PALM_IN_PART}, {1, true, PALM_IN_BODY}, /* of a record */
        {LITTLE, true, PALM_IN_PART}, {100, false, PALM_IN_BODY}, {LITTLE, true, PALM_IN_BODY}, {LARGE, true, PALM_IN_PART}};
    peer a = peer_open("a", true), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    uint64_t end = 0;
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_bytes(batch, 5, "small");
    for (int i = 0; i < N; i++) {
        if (i == 0 || i == 3)
            CHECK_OK(palm_batch_record(batch, PALM_TREE, 1, &(palm_record *){NULL}));
        if (is[i].lent)
            put_blocks(&a, batch, 1, is[i].size, i + 1);
        else
            put_in_body(batch, is[i].size, i + 1);
    }
    CHECK_OK(palm_node_send(a.node, link, PALM_DATA, 1, 0, batch));
    palm_event event = next_message(&b, &a);
    const palm_envelope *e = &event.envelope;
    CHECK(e->n_records == 3 && e->n_parts == 3 && e->n_arrays == N);
    CHECK(!memcmp(e->body + e->records[0].body_at, "small", 5));
    for (int i = 0; i < N; i++) {
        const palm_array *array = &e->arrays[i];
        const uint8_t *bytes = bytes_of(&event, array);
        CHECK(array->place == is[i].place && array->size == (uint64_t)is[i].size && (uintptr_t)bytes % PALM_ALIGN == 0);
        for (int64_t k = 0; k < is[i].size; k++)
            CHECK(bytes[k] == i + 1);
        if (i == 0 || i == 3)
            end = 0;
        CHECK(array->place != PALM_IN_BODY || array->start >= end);
        if (array->place == PALM_IN_BODY)
            end = array->start + array->size;
    }
    palm_event_done(&event);
    palm_batch_free(batch);
    wait_until_free(&a);
    peer_close(&a);
    peer_close(&b);
}

/* A batch that is kept after it was sent can be sent again, whole or in part, and has the same block each time. */
static void test_kept_batch(bool frames)
{
    peer a = peer_open("a", frames), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *kept, *again;
    CHECK_OK(palm_batch_new(&kept));
    CHECK_OK(palm_batch_new(&again));
    put_bytes(kept, 6, "hello");
    put_block(&a, kept, 0xab);
    CHECK_OK(palm_node_send(a.node, link, PALM_DATA, 1, 0, kept));
    CHECK(palm_batch_count(kept) == 2);
    CHECK_OK(palm_batch_add(again, kept, 1));
    CHECK_OK(palm_batch_add(again, kept, 0));
    palm_batch_free(kept);
    CHECK_OK(palm_node_send(a.node, link, PALM_DATA, 1, 0, again));
    palm_event first = next_message(&b, &a), second = next_message(&b, &a);
    const palm_envelope *e = &second.envelope;
    CHECK(e->n_records == 2 && e->records[1].number == 6 && !memcmp(e->body + e->records[1].body_at, "hello", 5));
    CHECK(e->records[0].array_count == 1 && e->arrays[0].size == first.envelope.arrays[0].size);
    CHECK(frames || e->blocks[0].index == first.envelope.blocks[0].index);
    palm_event_done(&first);
    palm_event_done(&second);
    palm_batch_free(again);
    wait_until_free(&a);
    CHECK(held(&b) == 0);
    peer_close(&a);
    peer_close(&b);
}

/* An event that is kept while others come keeps all it has. */
static void test_kept_events(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_block(&a, batch, 1);
    send_all(a.node, link, 1, 0, batch);
    palm_event kept = next_message(&b, &a);
    for (int i = 0; i < 10; i++) {
        put_bytes(batch, 1, "other");
        send_all(a.node, link, 1, 0, batch);
        palm_event other = expect(&b, &a, PALM_EVENT_MESSAGE);
        palm_event_done(&other);
    }
    CHECK(kept.envelope.n_dtypes == 1 && !memcmp(kept.envelope.dtypes[0].data, "|u1", 3));
    palm_event_done(&kept);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

static void skip(peer *p, uint32_t link)
{
    pthread_mutex_lock(&p->node->lock);
    palmi_link_get(p->node, link)->seq++;
    pthread_mutex_unlock(&p->node->lock);
}

/* Envelopes that have not arrived are seen by the next one's number, and their sender is told, each time; what comes then is
 * taken as ever. */
static void test_gap(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    b.node->patience_ms = 30;
    for (int i = 0; i < 3; i++) {
        skip(&a, link);
        put_block(&a, batch, 1);
        send_all(a.node, link, 7, 0, batch);
        palm_event event = next_message(&b, &a);
        CHECK(event.envelope.handle == 7);
        palm_event_done(&event);
        event = next_message(&a, &b);
        const palm_envelope *e = &event.envelope;
        CHECK(event.link == link && e->kind == PALM_DATA && e->handle == 0);
        CHECK(e->n_records == 1 && e->records[0].form == PALM_LOST && e->records[0].number == UINT64_MAX);
        palm_event_done(&event);
    }
    put_bytes(batch, 1, "whole");
    send_all(a.node, link, 7, 0, batch);
    palm_event event = next_message(&b, &a);
    palm_event_done(&event);
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN);
    wait_until_free(&a);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

static void *waker(void *node)
{
    usleep(20000);
    palm_node_wake(node);
    usleep(20000);
    palm_node_stop(node);
    return NULL;
}

static void test_wake_and_stop(void)
{
    peer a = peer_open("a", false);
    palm_event event;
    pthread_t thread;
    CHECK_ERR(palm_node_next(a.node, 1, &event), PALM_EAGAIN);
    CHECK(!pthread_create(&thread, NULL, waker, a.node));
    CHECK_OK(palm_node_next(a.node, 5000, &event));
    CHECK(event.kind == PALM_EVENT_WAKE);
    CHECK_OK(palm_node_next(a.node, 5000, &event));
    CHECK(event.kind == PALM_EVENT_STOP);
    pthread_join(thread, NULL);
    peer_close(&a);
}

static void test_to_oneself(void)
{
    peer a = peer_open("a", false);
    uint32_t link = connect_to(&a, &a);
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_block(&a, batch, 1);
    send_all(a.node, link, 1, 0, batch);
    palm_event event = expect(&a, NULL, PALM_EVENT_MESSAGE);
    CHECK(event.blocks[0].first[0] == 1);
    palm_event_done(&event);
    palm_batch_free(batch);
    peer_close(&a);
}

/* Many threads send over one node while another receives: for TSan. */
typedef struct sender { peer *p; uint32_t link; } sender;
enum { THREADS = 4, EACH = 200 };

static void *send_many(void *arg)
{
    sender *s = arg;
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    for (int i = 0; i < EACH; i++) {
        if (i % 4)
            put_bytes(batch, (uint64_t)i, "x");
        else
            put_block(s->p, batch, (uint8_t)i);
        send_all(s->p->node, s->link, 1, 0, batch);
    }
    palm_batch_free(batch);
    return NULL;
}

static void test_threads(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    palm_pulse *pulse;
    CHECK_OK(palm_pulse_start(a.space, &pulse));
    CHECK_OK(palm_pulse_add(pulse, a.node));
    sender s = {&a, connect_to(&a, &b)};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, send_many, &s));
    for (int got = 0; got < THREADS * EACH;) {
        palm_event event = next(&b, NULL);
        got += event.kind == PALM_EVENT_MESSAGE;
        palm_event_done(&event);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    palm_pulse_remove(pulse, a.node);
    palm_pulse_stop(pulse);
    peer_close(&a);
    peer_close(&b);
}

/* The pulse rests while there is nothing to do, and beats as soon as there is. */
static void test_rest(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    palm_pulse *pulse;
    palm_batch *batch;
    uint32_t link = connect_to(&b, &a);
    CHECK_OK(palm_batch_new(&batch));
    CHECK_OK(palm_pulse_start(a.space, &pulse));
    CHECK_OK(palm_pulse_add(pulse, a.node));
    const atomic_bool *rests = a.node->rest.rests;
    for (int i = 0; i < 1000 && !atomic_load(rests); i++)
        usleep(10000);
    CHECK(atomic_load(rests));
    put_bytes(batch, 1, "work");
    send_all(b.node, link, 1, 0, batch);
    palm_event event = next_message(&a, &b);
    for (int i = 0; i < 50 && atomic_load(rests); i++) /* less than a rest */
        usleep(10000);
    CHECK(!atomic_load(rests));
    palm_event_done(&event);
    palm_pulse_remove(pulse, a.node);
    palm_pulse_stop(pulse);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

/* A byte other than 0 at the door is a signal's: who waits looks for it, also if it came before. */
static void test_signal_at_the_door(void)
{
    peer a = peer_open("a", false);
    palm_event event;
    CHECK(write(palm_node_door(a.node), "\0", 1) == 1);
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN);
    CHECK(write(palm_node_door(a.node), "\2", 1) == 1);
    CHECK_ERR(palm_node_next(a.node, 60000, &event), PALM_EINTR);
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN);
    peer_close(&a);
}

int main(int argc, char **argv)
{
    const char *missing;
    CHECK_ERR(palm_zmq_load("/lib/none.so", &missing), PALM_ENOSYM);
    CHECK(missing && missing[0]);
    peers_begin(argc, argv);
    test_hand_on_an_orphan();
    test_small();
    test_block(false);
    test_block(true);
    test_full_batch();
    test_little_ones_go_in_the_body();
    test_kept_batch(false);
    test_kept_batch(true);
    test_half_a_message(1);
    test_half_a_message(2);
    test_half_a_message_that_waited();
    test_link_again();
    test_bye();
    test_gap();
    test_kept_events();
    test_wake_and_stop();
    test_to_oneself();
    test_threads();
    test_rest();
    test_signal_at_the_door();
    peers_end();
    return 0;
}
