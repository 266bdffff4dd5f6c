/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What nodes do. Arguments: the path of a libzmq; "sockets": without rings. */
#include "node_peers.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
    palm_event_done(b.node, &event);
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
    palm_event_done(b.node, &event);
    CHECK(held(&b) == 0);
    wait_until_free(&a);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
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
    palm_event_done(b.node, &event);
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
        palm_event_done(b.node, &event);
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

/* Nobody answers, and then the process that should have is dead. */
static void test_death_before_the_hand_shake(void)
{
    peer a = peer_open("a", false);
    char nobody[128];
    uint32_t link;
    int never[2];
    CHECK(!pipe(never));
    pid_t child = fork();
    if (!child) {
        char byte;
        close(never[1]);
        _exit((int)read(never[0], &byte, 1));
    }
    snprintf(nobody, sizeof nobody, "ipc://%s/nobody", directory);
    CHECK_OK(palm_node_link(a.node, nobody, child, &link));
    palm_event event;
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN);
    close(never[1]);
    CHECK(waitpid(child, NULL, 0) == child);
    close(never[0]);
    event = expect(&a, NULL, PALM_EVENT_GONE);
    CHECK(event.link == link && event.reason == 1);
    CHECK_OK(palm_node_link(a.node, nobody, child, &link));
    event = expect(&a, NULL, PALM_EVENT_GONE);
    CHECK(event.link == link);
    peer_close(&a);
}

/* One record that lends n blocks. */
static void put_blocks(peer *p, palm_batch *batch, uint32_t n)
{
    palm_record *record;
    palm_arena *arena;
    uint32_t index;
    const void *first;
    size_t size;
    int64_t shape = 4096, stride = 1;
    void *bytes = palm_space_alloc(p->space, 4096, false);
    CHECK(bytes);
    memset(bytes, 7, 4096);
    CHECK_OK(palm_batch_record(batch, PALM_TREE, n, &record));
    for (uint32_t i = 0; i < n; i++) {
        CHECK_OK(palm_space_hold(p->space, bytes, 4096, &arena, &index, &first, &size));
        CHECK_OK(palm_batch_lend(batch, "|u1", 3, 1, &shape, &stride, 4096, 0, arena, index, first, 0));
    }
    palm_space_free(p->space, bytes);
}

/* What one envelope can carry in frames is not exceeded by records that came in two. */
static void test_full_batch(void)
{
    peer a = peer_open("a", true), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_batch *kept, *again;
    CHECK_OK(palm_batch_new(&kept));
    CHECK_OK(palm_batch_new(&again));
    put_blocks(&a, kept, PALM_MAX_PARTS);
    put_blocks(&a, kept, 10);
    put_blocks(&a, kept, 1);
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
    palm_event_done(b.node, &first);
    palm_event_done(b.node, &second);
    palm_batch_free(again);
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
    palm_event_done(b.node, &first);
    palm_event_done(b.node, &second);
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
        palm_event_done(b.node, &other);
    }
    CHECK(kept.envelope.n_dtypes == 1 && !memcmp(kept.envelope.dtypes[0].data, "|u1", 3));
    palm_event_done(b.node, &kept);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

/* Somebody who writes envelopes by hand. */
typedef struct forger {
    void *context, *socket;
    palm_writer *writer;
} forger;

static forger forger_of(peer *to)
{
    forger f;
    int wait_ms = 1000;
    CHECK_OK(palmi_zmq_context(&f.context));
    CHECK_OK(palm_writer_new(&f.writer));
    f.socket = palmi_zmq.socket_(f.context, PALMI_ZMQ_PUSH);
    CHECK(f.socket);
    CHECK(!palmi_zmq.setsockopt_(f.socket, PALMI_ZMQ_LINGER, &wait_ms, sizeof wait_ms));
    CHECK(!palmi_zmq.connect_(f.socket, palm_node_endpoint(to->node)));
    return f;
}

static void forger_close(forger *f)
{
    palmi_zmq.close_(f->socket);
    palmi_zmq_context_drop();
    palm_writer_free(f->writer);
}

static void forge(forger *f, const palm_envelope *e)
{
    const uint8_t *head;
    size_t size;
    palmi_zmq_msg msg;
    CHECK_OK(palm_writer_head(f->writer, e, &head, &size));
    CHECK(!palmi_zmq.msg_init_size_(&msg, size));
    memcpy(palmi_zmq.msg_data_(&msg), head, size);
    CHECK(palmi_zmq.msg_send_(&msg, f->socket, 0) >= 0);
}

/* As from a process of this host, without shared memory; pid 0: from elsewhere. */
static void forge_hello(forger *f, peer *like, uint64_t sender, pid_t pid, const char *endpoint)
{
    palm_hello hello = {.slot = PALM_SLOT_NONE, .endpoint = {endpoint, (uint32_t)strlen(endpoint)}, .name = {"f", 1}};
    palm_space_identity(like->space, &hello.identity);
    hello.identity.pid = pid;
    hello.identity.fd = 0;
    forge(f, &(palm_envelope){.kind = PALM_HELLO, .sender = sender, .seq = 1, .hello = &hello});
}

static const char *place(unsigned n)
{
    static char endpoint[128];
    snprintf(endpoint, sizeof endpoint, "ipc://%s/place-%u", directory, n);
    return endpoint;
}

/* What the forger sent has been read: noise comes after it, and is rejected as such. */
static void read_all(forger *f, peer *p)
{
    palmi_zmq_msg noise;
    palm_event event;
    CHECK(!palmi_zmq.msg_init_size_(&noise, 1));
    CHECK(palmi_zmq.msg_send_(&noise, f->socket, 0) >= 0);
    for (int i = 0; i < 5000 && strncmp(palm_node_rejected(p->node), "not an", 6); i++)
        if (palm_node_next(p->node, 1, &event) == PALM_OK)
            palm_event_done(p->node, &event);
    CHECK(!strncmp(palm_node_rejected(p->node), "not an", 6));
}

static pid_t dead_process(void)
{
    pid_t child = fork();
    if (!child)
        _exit(0);
    CHECK(waitpid(child, NULL, 0) == child);
    return child;
}

/* Its HELLO is read when it is dead: who waits for it is told, and nobody else needs a link. */
static void test_dead_before_its_hello_is_read(void)
{
    peer a = peer_open("a", false);
    forger f = forger_of(&a);
    pid_t dead = dead_process();
    uint32_t link;
    CHECK_OK(palm_node_link(a.node, place(0), 0, &link));
    forge_hello(&f, &a, 5, dead, place(0));
    palm_event event = expect(&a, NULL, PALM_EVENT_GONE);
    CHECK(event.link == link && event.reason == 1);
    forge_hello(&f, &a, 7, dead, place(1));
    read_all(&f, &a);
    CHECK(a.node->links.n == 0);
    forger_close(&f);
    peer_close(&a);
}

/* HELLOs without end, from elsewhere or as from a process that lives: links stay bounded, those in use stay, and who is
 * honest gets in, though it is of the very process that others have named. */
static void test_strangers(pid_t pid)
{
    enum { MANY = 600 };
    peer a = peer_open("a", false), b = peer_open("b", false);
    forger f = forger_of(&a);
    uint32_t asked;
    CHECK_OK(palm_node_link(a.node, place(0), 0, &asked));
    for (unsigned i = 0; i < MANY; i++) {
        forge_hello(&f, &a, 2 * i + 1, pid, place(i));
        if (i == 100)
            forge(&f, &(palm_envelope){.kind = PALM_CANCEL, .sender = 2 * i + 1, .seq = 2});
    }
    read_all(&f, &a);
    CHECK(a.node->links.n >= 256 && a.node->links.n <= 256 + 64 + 1);
    CHECK(palmi_link_by_peer(a.node, 1) && palmi_link_by_peer(a.node, 1)->number == asked);
    CHECK(palmi_link_by_peer(a.node, 2 * 100 + 1));
    CHECK(!palmi_link_by_peer(a.node, 2 * 101 + 1));
    CHECK(palmi_link_by_peer(a.node, 2 * (MANY - 1) + 1));
    connect_to(&b, &a);
    forger_close(&f);
    peer_close(&b);
    peer_close(&a);
}

/* Strangers that say more than HELLO keep their place, and then there is none for others; but for those of this host. */
static void test_strangers_in_use(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    forger f = forger_of(&a);
    for (unsigned i = 0; i < 300; i++) {
        forge_hello(&f, &a, 2 * i + 1, 0, place(i));
        forge(&f, &(palm_envelope){.kind = PALM_CANCEL, .sender = 2 * i + 1, .seq = 2});
    }
    for (uint32_t got = 0; got < 256;) {
        palm_event event = next(&a, NULL);
        got += event.kind == PALM_EVENT_MESSAGE;
        palm_event_done(a.node, &event);
    }
    read_all(&f, &a);
    palm_counters *counters = palm_space_page(a.space);
    CHECK(counters->rejected == 2 * (300 - 256) + 1); /* the HELLO, and what came after it */
    connect_to(&b, &a);
    forger_close(&f);
    peer_close(&b);
    peer_close(&a);
}

/* Peers may name endpoints without end: of those that nobody answers from, the last ones stay, and whoever has answered, or
 * was asked for here. */
static void test_named_links(void)
{
    enum { MANY = 600 };
    peer a = peer_open("a", false), b = peer_open("b", false);
    forger f = forger_of(&a);
    uint32_t asked, again, answered, link, lost = 0;
    palm_event event;
    CHECK_OK(palm_node_link(a.node, place(0), 0, &asked));
    CHECK_OK(palm_node_link_named(a.node, place(0), 0, &again));
    CHECK(again == asked);
    CHECK_OK(palm_node_link_named(a.node, palm_node_endpoint(b.node), 0, &answered));
    event = expect(&a, &b, PALM_EVENT_READY);
    CHECK(event.link == answered);
    for (unsigned i = 1; i < MANY; i++)
        CHECK_OK(palm_node_link_named(a.node, place(i), 0, &link));
    CHECK(a.node->links.n == 256 + 2);
    while (palm_node_next(a.node, 0, &event) == PALM_OK)
        lost += event.kind == PALM_EVENT_GONE;
    CHECK(lost == MANY - 1 - 256);
    CHECK(palm_node_link_state(a.node, asked, NULL) != PALM_LINK_GONE);
    CHECK(palm_node_link_state(a.node, answered, NULL) == PALM_LINK_READY);
    CHECK(palm_node_link_state(a.node, link, NULL) != PALM_LINK_GONE);
    for (unsigned i = 0; i < MANY; i++) /* who answers from a place that was named is a stranger like others */
        forge_hello(&f, &a, 2 * i + 1, 0, place(i));
    read_all(&f, &a);
    CHECK(a.node->links.n <= 256 + 2);
    forger_close(&f);
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
        palm_event_done(b.node, &event);
        event = next_message(&a, &b);
        const palm_envelope *e = &event.envelope;
        CHECK(event.link == link && e->kind == PALM_DATA && e->handle == 0);
        CHECK(e->n_records == 1 && e->records[0].form == PALM_LOST && e->records[0].number == UINT64_MAX);
        palm_event_done(a.node, &event);
    }
    put_bytes(batch, 1, "whole");
    send_all(a.node, link, 7, 0, batch);
    palm_event event = next_message(&b, &a);
    palm_event_done(b.node, &event);
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN);
    wait_until_free(&a);
    palm_batch_free(batch);
    peer_close(&a);
    peer_close(&b);
}

/* Who leaves gaps and reads nothing does not fill our memory. */
static void test_gaps_without_end(void)
{
    peer a = peer_open("a", false);
    forger f = forger_of(&a);
    forge_hello(&f, &a, 5, 0, place(0));
    for (uint64_t seq = 3; seq < 1000; seq += 2)
        forge(&f, &(palm_envelope){.kind = PALM_CANCEL, .sender = 5, .seq = seq});
    read_all(&f, &a);
    CHECK(palmi_link_by_peer(a.node, 5)->seq < 150);
    forger_close(&f);
    peer_close(&a);
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
    palm_event_done(a.node, &event);
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
    palm_pulse_add(pulse, a.node);
    sender s = {&a, connect_to(&a, &b)};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, send_many, &s));
    for (int got = 0; got < THREADS * EACH;) {
        palm_event event = next(&b, NULL);
        got += event.kind == PALM_EVENT_MESSAGE;
        palm_event_done(b.node, &event);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    palm_pulse_remove(pulse, a.node);
    palm_pulse_stop(pulse);
    peer_close(&a);
    peer_close(&b);
}

/* ------------------------------------------------------------------------- receiving while a function runs */

static const uint8_t JOB[17] = "a job's 16 bytes";

/* What the page says of a function that has begun at 5. */
static palm_at_work *work_on(peer *p, uint64_t number, uint32_t client)
{
    palm_at_work *work = &((palm_counters *)palm_space_page(p->space))->at_work;
    palm_work_on(work, JOB, 0, 0, 1, client);
    palm_work_terms(work, 1, 0, 0, 0);
    palm_work_begin(work, number, NULL, 0, 5);
    work->unwanted_since = 0;
    return work;
}

static void say_end(peer *from, uint32_t link, palm_kind kind, const char *job, uint64_t number, uint32_t count)
{
    palm_batch *batch;
    palm_record *record;
    CHECK_OK(palm_batch_new(&batch));
    CHECK_OK(palm_batch_record(batch, PALM_BYTES, number, &record));
    CHECK_OK(palm_batch_body(batch, job, strlen(job)));
    palm_batch_set_form(batch, PALM_BYTES, count);
    CHECK_OK(palm_node_send(from->node, link, kind, 1, 0, batch));
    palm_batch_free(batch);
}

/* Until so much is held. */
static void attend(peer *p, palm_at_work *work, uint32_t n)
{
    for (int i = 0; i < 5000; i++) {
        palm_node_attend(p->node, work, 5, 77);
        if (p->node->held.n - p->node->held_first == n)
            return;
        usleep(1000);
    }
    CHECK(!"held within 5 s");
}

static bool is_unwanted(const palm_at_work *work)
{
    CHECK(!work->unwanted_since || (work->unwanted_since == 5 && work->unwanted_ns == 77));
    return work->unwanted_since;
}

/* What ends the message at work is seen, whatever lies before it; and all comes out in its order. */
static void test_attend(void)
{
    const char *job = (const char *)JOB;
    struct end { palm_kind kind; const char *job; uint64_t number; uint32_t count; bool is_its; } ends[] = {
        {PALM_CANCEL, job, PALM_NO_NUMBER, 0, true},
        {PALM_FORGET, job, PALM_NO_NUMBER, 0, true},
        {PALM_CANCEL, job, 7, 0, true},
        {PALM_CANCEL, job, 8, 0, false},                   /* another input */
        {PALM_CANCEL, job, PALM_NO_NUMBER, 1, false},      /* its generators are to stop */
        {PALM_CANCEL, "another's16bytes", PALM_NO_NUMBER, 0, false},
        {PALM_CANCEL, "short", PALM_NO_NUMBER, 0, false},
        {PALM_DATA, job, PALM_NO_NUMBER, 0, false},
    };
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        palm_at_work *work = work_on(&b, 7, 0);
        for (int k = 0; k < 100; k++)
            say_end(&a, link, PALM_DATA, "something", (uint64_t)k, 0);
        say_end(&a, link, ends[i].kind, ends[i].job, ends[i].number, ends[i].count);
        attend(&b, work, 101);
        CHECK(is_unwanted(work) == ends[i].is_its);
        for (uint64_t k = 0; k < 101; k++) {
            palm_event event = next_message(&b, NULL);
            CHECK(event.envelope.kind == (k < 100 ? PALM_DATA : ends[i].kind));
            CHECK(event.envelope.records[0].number == (k < 100 ? k : ends[i].number));
            palm_event_done(b.node, &event);
        }
        palm_work_end(work, true);
    }
    peer_close(&a);
    peer_close(&b);
}

/* It was held before the message began that it ends; one that began later is not blamed for the one before. */
static void test_attend_again(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_at_work *work = work_on(&b, 6, 0);
    say_end(&a, link, PALM_CANCEL, (const char *)JOB, 7, 0);
    attend(&b, work, 1);
    CHECK(!is_unwanted(work));
    work = work_on(&b, 7, 0);
    palm_node_attend(b.node, work, 4, 77);
    CHECK(!work->unwanted_since);
    palm_node_attend(b.node, work, 5, 77);
    CHECK(is_unwanted(work));
    peer_close(&a);
    peer_close(&b); /* with what is held */
}

/* Of several at work, one that nobody waits for does not end the others; the end of the job ends all. */
static void test_attend_to_several(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_at_work *work = work_on(&b, 7, 0);
    work->together = 2;
    say_end(&a, link, PALM_CANCEL, (const char *)JOB, 7, 0);
    attend(&b, work, 1);
    CHECK(!is_unwanted(work));
    say_end(&a, link, PALM_CANCEL, (const char *)JOB, PALM_NO_NUMBER, 0);
    attend(&b, work, 2);
    CHECK(is_unwanted(work));
    peer_close(&a);
    peer_close(&b);
}

/* Who waits for it is gone: in good order here; a death comes by its pidfd. */
static void test_attend_without_a_client(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    connect_to(&a, &b);
    uint32_t link = expect(&b, &a, PALM_EVENT_READY).link, unsent;
    palm_at_work *work = work_on(&b, 7, link);
    palm_node_attend(b.node, work, 5, 77);
    CHECK(!is_unwanted(work));
    palm_node_close(a.node, 100, &unsent);
    for (int i = 0; i < 5000 && !is_unwanted(work); i++) {
        palm_node_attend(b.node, work, 5, 77);
        usleep(1000);
    }
    CHECK(is_unwanted(work));
    palm_event event = expect(&b, NULL, PALM_EVENT_GONE);
    CHECK(event.link == link);
    palm_space_close(a.space);
    peer_close(&b);
}

static atomic_bool attending;

static void *attend_all_the_time(void *arg)
{
    peer *p = arg;
    palm_at_work *work = &((palm_counters *)palm_space_page(p->space))->at_work;
    while (atomic_load(&attending)) {
        palm_node_attend(p->node, work, 5, 77);
        usleep(50); /* a mutex is not fair: without a pause nobody else may get it, however long he waits */
    }
    return NULL;
}

/* Two threads receive in turns: each message comes once, in its order. */
static void test_attend_beside_next(void)
{
    enum { MANY = 5000 };
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    pthread_t thread;
    atomic_store(&attending, true);
    CHECK(!pthread_create(&thread, NULL, attend_all_the_time, &b));
    for (uint64_t i = 0; i < MANY; i++)
        say_end(&a, link, PALM_DATA, "something", i, 0);
    for (uint64_t i = 0; i < MANY; i++) {
        palm_event event = next_message(&b, NULL);
        CHECK(event.envelope.records[0].number == i);
        palm_event_done(b.node, &event);
    }
    atomic_store(&attending, false);
    pthread_join(thread, NULL);
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
    palm_pulse_add(pulse, a.node);
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
    palm_event_done(a.node, &event);
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
    if (argc < 2 || !argv[1][0])
        return SKIPPED;
    CHECK_ERR(palm_zmq_load("/lib/none.so", &missing), PALM_ENOSYM);
    CHECK(missing && missing[0]);
    CHECK_OK(palm_zmq_load(argv[1], &missing));
    CHECK(mkdtemp(directory));
    sockets = argc > 2 && !strcmp(argv[2], "sockets");
    test_small();
    test_block(false);
    test_block(true);
    test_full_batch();
    test_kept_batch(false);
    test_kept_batch(true);
    test_half_a_message(1);
    test_half_a_message(2);
    test_half_a_message_that_waited();
    test_link_again();
    test_bye();
    test_death_before_the_hand_shake();
    test_dead_before_its_hello_is_read();
    test_strangers(0);
    test_strangers(getpid());
    test_strangers_in_use();
    test_named_links();
    test_gap();
    test_gaps_without_end();
    test_kept_events();
    test_wake_and_stop();
    test_to_oneself();
    test_threads();
    test_attend();
    test_attend_again();
    test_attend_to_several();
    test_attend_without_a_client();
    test_attend_beside_next();
    test_rest();
    test_signal_at_the_door();
    CHECK(!rmdir(directory));
    return 0;
}
