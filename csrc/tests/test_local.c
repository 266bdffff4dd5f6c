/* SPDX-License-Identifier: BSD-3-Clause
 * Nodes that send by rings: what goes by ring and what by socket comes in its order; what a dead process has left comes still;
 * and who writes nonsense into a ring loses its link, and nobody else anything. Arguments: those of peers_begin. */
#include "node_peers.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static uint64_t by_ring(const peer *p) { return ((palm_counters *)palm_space_page(p->space))->by_ring; }
static const palm_counters *counted(const peer *p) { return palm_space_page(p->space); }
static uint64_t by_socket(const peer *p) { return ((palm_counters *)palm_space_page(p->space))->by_socket; }
static uint64_t rejected(const peer *p) { return ((palm_counters *)palm_space_page(p->space))->rejected; }

static palmi_link *link_of(peer *p, uint32_t number)
{
    palmi_link *link = palmi_link_get(p->node, number);
    CHECK(link);
    return link;
}

static void send_numbers(peer *from, uint32_t link, uint64_t first, uint64_t n)
{
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    for (uint64_t i = first; i < first + n; i++) {
        put_bytes(batch, i, "number");
        send_all(from->node, link, 1, 0, batch);
    }
    palm_batch_free(batch);
}

/* As if the ring were full. */
static void send_by_socket(peer *from, uint32_t link, uint64_t first, uint64_t n)
{
    link_of(from, link)->local.usable = false;
    send_numbers(from, link, first, n);
    link_of(from, link)->local.usable = true;
}

static void expect_numbers(peer *at, peer *other, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        palm_event event = next_message(at, other);
        CHECK(event.envelope.n_records == 1 && event.envelope.records[0].number == i);
        palm_event_done(&event);
    }
}

/* Which way: HELLOs by the socket, then rings alone, whoever begins and whoever begins anew. */
static void test_the_way(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t there = connect_to(&a, &b);
    palm_event event = expect(&b, &a, PALM_EVENT_READY);
    for (int anew = 0; anew < 3; anew++) {
        uint64_t hellos = by_socket(&a), before = by_ring(&a);
        send_numbers(&a, there, 0, 10);
        expect_numbers(&b, &a, 0, 10);
        CHECK(by_socket(&a) == hellos && by_ring(&a) == before + 10);
        before = by_ring(&b);
        send_numbers(&b, event.link, 0, 10);
        expect_numbers(&a, &b, 0, 10);
        CHECK(by_ring(&b) == before + 10);
        CHECK(counted(&a)->links_ring == 1 && counted(&b)->links_ring == 1);
        pthread_mutex_lock(&a.node->lock);
        palmi_link_close(a.node, link_of(&a, there), 0);
        pthread_mutex_unlock(&a.node->lock);
        CHECK(!counted(&a)->links_ring);
        there = connect_to(&a, &b);
        while (!link_of(&b, event.link)->local.usable) { /* the last HELLO of the hand-shake */
            palm_event none;
            CHECK_ERR(palm_node_next(b.node, 5, &none), PALM_EAGAIN);
        }
    }
    peer_close(&a);
    peer_close(&b);
}

static void test_who_wants_none(bool frames)
{
    peer a = peer_open("a", false), b;
    sockets = !frames;
    b = peer_open("b", frames);
    sockets = false;
    uint32_t there = connect_to(&a, &b);
    palm_event event = expect(&b, &a, PALM_EVENT_READY);
    send_numbers(&a, there, 0, 10);
    expect_numbers(&b, &a, 0, 10);
    send_numbers(&b, event.link, 0, 10);
    expect_numbers(&a, &b, 0, 10);
    CHECK(!by_ring(&a) && !by_ring(&b));
    CHECK(!counted(&a)->links_ring && counted(&a)->links_socket == 1);
    CHECK(!link_of(&a, there)->local.out.ring && link_of(&a, there)->local.file < 0); /* nothing is kept of the offer */
    peer_close(&a);
    peer_close(&b);
}

/* ------------------------------------------------------------------------------------------------------------- order */

enum { MANY = 3000 };
static char text[500001];

typedef struct sender { peer *p; uint32_t link; } sender;

/* Small ones, some that fit no ring, and now and then more than a ring holds. */
static void *send_all_sizes(void *arg)
{
    sender *s = arg;
    palm_batch *batch;
    palm_record *record;
    CHECK_OK(palm_batch_new(&batch));
    for (uint64_t i = 0; i < MANY; i++) {
        size_t size = i % 37 == 5 ? 500000 : i % 11 == 3 ? 150000 : i % 100;
        CHECK_OK(palm_batch_record(batch, PALM_BYTES, i, &record));
        CHECK_OK(palm_batch_body(batch, text, size));
        send_all(s->p->node, s->link, 1, 0, batch);
        if (i % 500 == 499)
            usleep(2000);
    }
    palm_batch_free(batch);
    return NULL;
}

static void test_order(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    sender s = {&a, connect_to(&a, &b)};
    pthread_t thread;
    memset(text, 'x', sizeof text - 1);
    CHECK(!pthread_create(&thread, NULL, send_all_sizes, &s));
    expect_numbers(&b, NULL, 0, MANY);
    pthread_join(thread, NULL);
    CHECK(by_ring(&a) && by_socket(&a) > MANY / 37 && rejected(&b) == 0);
    palm_event event;
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN); /* nor has a gap been found */
    peer_close(&a);
    peer_close(&b);
}

/* Who takes its time over what has come keeps the order, and finds nothing missing. */
static void test_order_for_a_slow_reader(void)
{
    enum { BY_SOCKET = 19 };
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    b.node->patience_ms = 30;
    send_by_socket(&a, link, 0, BY_SOCKET);
    send_numbers(&a, link, BY_SOCKET, 1);
    usleep(50000); /* it is all there */
    for (uint64_t i = 0; i <= BY_SOCKET; i++) {
        expect_numbers(&b, NULL, i, 1);
        usleep(10000);
    }
    palm_event event;
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN);
    peer_close(&a);
    peer_close(&b);
}

/* A look without a wait finds what has come by the socket since the last one. */
static void test_a_look(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_event event = expect(&b, &a, PALM_EVENT_READY);
    CHECK_ERR(palm_node_next(b.node, 0, &event), PALM_EAGAIN);
    send_by_socket(&a, link, 0, 1);
    usleep(100000);
    CHECK_OK(palm_node_next(b.node, 0, &event));
    CHECK(event.kind == PALM_EVENT_MESSAGE);
    palm_event_done(&event);
    peer_close(&a);
    peer_close(&b);
}

/* What is looked for in the socket since a ring waits for it may take along the signal of another peer's message. */
static void test_two_by_socket(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false), c = peer_open("c", false);
    uint32_t from_a = connect_to(&a, &b), from_c = connect_to(&c, &b);
    palm_event event;
    while (palm_node_next(b.node, 50, &event) == PALM_OK)
        palm_event_done(&event);
    send_by_socket(&a, from_a, 1, 1);
    send_by_socket(&c, from_c, 1, 1);
    send_numbers(&a, from_a, 1, 1);
    usleep(100000);
    b.node->socket_ready = false;
    for (int i = 0; i < 3; i++) {
        event = next_message(&b, NULL);
        palm_event_done(&event);
    }
    peer_close(&a);
    peer_close(&b);
    peer_close(&c);
}

/* A peer without rings is heard, though there is always something in a ring. */
static void test_rings_hide_no_socket(void)
{
    enum { IN_THE_RING = 200, ODD = 1u << 30 };
    peer a = peer_open("a", false), b = peer_open("b", false), c;
    sockets = true;
    c = peer_open("c", false);
    sockets = false;
    uint32_t from_a = connect_to(&a, &b), from_c = connect_to(&c, &b);
    send_numbers(&a, from_a, 0, IN_THE_RING);
    send_by_socket(&a, from_a, IN_THE_RING, 3); /* nor do these, which have to wait for those in the ring */
    send_numbers(&c, from_c, ODD, 1);
    usleep(100000); /* libzmq's threads bring it */
    int before = 0;
    for (bool heard = false; !heard; before += !heard) {
        palm_event event = next_message(&b, NULL);
        heard = event.envelope.records[0].number == ODD;
        palm_event_done(&event);
    }
    CHECK(before < IN_THE_RING / 2);
    peer_close(&a);
    peer_close(&b);
    peer_close(&c);
}

static bool is_lone(const peer *p) { return p->node->door.spin.lone; }

static void send_two(peer *from, uint32_t link)
{
    palm_batch *batch;
    CHECK_OK(palm_batch_new(&batch));
    put_bytes(batch, 0, "one");
    put_bytes(batch, 1, "two");
    send_all(from->node, link, 1, 0, batch);
    palm_batch_free(batch);
}

/* Who is answered through the socket, or with many messages together, does not wait awake: no bell tells of that, and more come. */
static void test_what_is_waited_for_awake(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false), c;
    sockets = true;
    c = peer_open("c", false);
    sockets = false;
    uint32_t from_a = connect_to(&a, &b), from_c = connect_to(&c, &b);
    for (int i = 0; i < 3; i++) {
        send_numbers(&a, from_a, 0, 1);
        expect_numbers(&b, NULL, 0, 1);
        CHECK(is_lone(&b));
        send_numbers(&c, from_c, 0, 1);
        expect_numbers(&b, NULL, 0, 1);
        CHECK(!is_lone(&b));
    }
    send_numbers(&a, from_a, 0, 1);
    expect_numbers(&b, NULL, 0, 1);
    CHECK(is_lone(&b));
    send_numbers(&a, from_a, 0, 1);
    send_by_socket(&a, from_a, 1, 1);
    usleep(100000);
    b.node->socket_ready = true; /* it is taken first, and waits at its link until the one in the ring has been */
    expect_numbers(&b, NULL, 0, 1);
    CHECK(is_lone(&b));
    expect_numbers(&b, NULL, 1, 1);
    CHECK(!is_lone(&b));
    send_numbers(&a, from_a, 0, 1);
    expect_numbers(&b, NULL, 0, 1);
    CHECK(is_lone(&b));
    send_two(&a, from_a);
    palm_event event = next_message(&b, NULL);
    CHECK(event.envelope.n_records == 2 && !is_lone(&b));
    palm_event_done(&event);
    peer_close(&a);
    peer_close(&b);
    peer_close(&c);
}

/* ------------------------------------------------------------------------------------------------------------- death */

/* A process of its own, that connects to b, sends, and is killed; before anything is open here. */
static pid_t start_sender(uint64_t n, int go)
{
    pid_t child = fork();
    if (child)
        return child;
    char byte;
    CHECK(read(go, &byte, 1) == 1);
    peer a = peer_open("a", false);
    char endpoint[128];
    uint32_t link;
    snprintf(endpoint, sizeof endpoint, "ipc://%s/b", directory);
    CHECK_OK(palm_node_link(a.node, endpoint, getppid(), &link));
    expect(&a, NULL, PALM_EVENT_READY);
    send_numbers(&a, link, 0, n);
    send_by_socket(&a, link, n, 3);
    send_numbers(&a, link, n + 3, 1);
    send_by_socket(&a, link, n + 4, 3);
    send_numbers(&a, link, n + 7, 1);
    usleep(100000); /* libzmq's threads bring theirs */
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_what_the_dead_have_sent(void)
{
    enum { SENT = 500 };
    int go[2];
    CHECK(!pipe(go));
    pid_t child = start_sender(SENT, go[0]);
    peer b = peer_open("b", false);
    CHECK(write(go[1], "x", 1) == 1);
    palm_event event = expect(&b, NULL, PALM_EVENT_READY);
    CHECK(waitpid(child, NULL, 0) == child);
    uint32_t link = event.link;
    expect_numbers(&b, NULL, 0, SENT + 8);
    event = expect(&b, NULL, PALM_EVENT_GONE);
    CHECK(event.link == link && event.reason == 1);
    close(go[0]);
    close(go[1]);
    peer_close(&b);
    char left[128];
    snprintf(left, sizeof left, "%s/a", directory);
    unlink(left);
}

/* -------------------------------------------------------------------------------------------------------------- lies */

static void test_nonsense_in_a_ring(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false), c = peer_open("c", false);
    uint32_t there = connect_to(&a, &b), from_c = connect_to(&c, &b);
    uint32_t from_a = palmi_link_by_peer(b.node, a.node->id)->number;
    palmi_out *out = &link_of(&a, there)->local.out;
    atomic_store(&out->ring->head, UINT64_C(1) << 40);
    palmi_ring_call(out);
    palm_event event = next(&b, NULL);
    while (event.kind == PALM_EVENT_READY)
        event = next(&b, NULL);
    CHECK(event.kind == PALM_EVENT_GONE && event.link == from_a && event.reason == 1 && rejected(&b) == 1);
    send_numbers(&c, from_c, 0, 5);
    expect_numbers(&b, &c, 0, 5);
    peer_close(&a);
    peer_close(&b);
    peer_close(&c);
}

/* An envelope of another sender, of another number, one that is none: rejected, and reported as missing. */
static void test_another_s_envelope(void)
{
    for (int what = 0; what < 4; what++) {
        peer a = peer_open("a", false), b = peer_open("b", false), c = peer_open("c", false);
        connect_to(&c, &b);
        uint32_t there = connect_to(&a, &b);
        palmi_link *link = link_of(&a, there);
        palm_envelope e = {.kind = what == 3 ? PALM_BYE : PALM_CANCEL, .sender = what ? a.node->id : c.node->id,
                           .seq = link->seq + 1 + (what == 1)};
        const uint8_t *head;
        size_t size;
        pthread_mutex_lock(&a.node->lock);
        CHECK_OK(palm_writer_head(a.node->writer, &e, &head, &size));
        CHECK(palmi_local_send(link, ++link->seq, head, what == 2 ? size / 2 : size, NULL, 0));
        pthread_mutex_unlock(&a.node->lock);
        if (what == 3) { /* the control: this one is right */
            expect(&b, &a, PALM_EVENT_READY);
            expect(&b, &a, PALM_EVENT_GONE);
        } else {
            send_numbers(&a, there, 0, 1);
            expect_numbers(&b, &a, 0, 1);
            CHECK(rejected(&b) == 1);
            palm_event event = next_message(&a, &b);
            CHECK(event.envelope.records[0].form == PALM_LOST);
            palm_event_done(&event);
        }
        peer_close(&a);
        peer_close(&b);
        peer_close(&c);
    }
}

static void put_alone(peer *p, uint32_t number, uint64_t seq, bool call)
{
    palm_envelope e = {.kind = PALM_CANCEL, .sender = p->node->id, .seq = seq};
    palmi_link *link = link_of(p, number);
    const uint8_t *head;
    size_t size;
    pthread_mutex_lock(&p->node->lock);
    CHECK_OK(palm_writer_head(p->node->writer, &e, &head, &size));
    uint8_t *at = palmi_ring_begin(&link->local.out, size);
    CHECK(at);
    memcpy(at, head, size);
    palmi_ring_end(&link->local.out, size, seq);
    if (call)
        palmi_ring_call(&link->local.out);
    pthread_mutex_unlock(&p->node->lock);
}

/* Numbers that fall: all is given out, nothing is forgotten. */
static void test_numbers_that_fall(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    b.node->patience_ms = 30;
    uint64_t last = link_of(&a, link)->seq;
    for (uint64_t seq = last + 50; seq > last + 10; seq -= 10)
        put_alone(&a, link, seq, true);
    for (int i = 0; i < 4; i++) {
        palm_event event = next_message(&b, &a);
        CHECK(event.envelope.kind == PALM_CANCEL);
        palm_event_done(&event);
    }
    peer_close(&a);
    peer_close(&b);
}

/* Who marks nothing holds up nobody, nor itself, once it says by the socket that there is more. */
static void test_a_ring_without_a_mark(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false), c = peer_open("c", false);
    uint32_t from_a = connect_to(&a, &b), from_c = connect_to(&c, &b);
    palmi_link *link = link_of(&a, from_a);
    put_alone(&a, from_a, ++link->seq, false);
    send_by_socket(&a, from_a, 1, 1);
    usleep(50000);
    send_by_socket(&c, from_c, 2, 1);
    bool seen[3] = {false};
    for (int i = 0; i < 3; i++) {
        palm_event event = next_message(&b, NULL);
        seen[event.envelope.kind == PALM_CANCEL ? 0 : event.envelope.records[0].number] = true;
        palm_event_done(&event);
    }
    CHECK(seen[0] && seen[1] && seen[2]);
    peer_close(&a);
    peer_close(&b);
    peer_close(&c);
}

/* A peer that is on another host, though it has a socket here: nothing is kept of what it was offered. */
static void test_another_host(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t number;
    CHECK_OK(palm_node_link(a.node, palm_node_endpoint(b.node), 0, &number));
    palmi_link *link = link_of(&a, number);
    CHECK(link->local.out.ring && link->local.file >= 0);
    palm_hello hello = {.slot = PALM_SLOT_NONE, .bell = 5, .wake = 6, .ring = 7};
    palm_space_identity(b.space, &hello.identity);
    hello.identity.pid_namespace++;
    palmi_local_greeted(a.node, link, &hello);
    CHECK(!link->local.out.ring && link->local.file < 0 && link->local.refused);
    peer_close(&a);
    peer_close(&b);
}

/* What comes by the socket is missing for good: what is behind it comes all the same, and its sender is told. */
static void test_missing_from_the_socket(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t there = connect_to(&a, &b);
    b.node->patience_ms = 30;
    pthread_mutex_lock(&a.node->lock);
    link_of(&a, there)->seq++;
    pthread_mutex_unlock(&a.node->lock);
    send_numbers(&a, there, 0, 20);
    palm_event event;
    uint64_t began = palmi_now_ms();
    for (event.kind = PALM_EVENT_READY; event.kind == PALM_EVENT_READY;)
        CHECK_OK(palm_node_next(b.node, 10000, &event)); /* it wakes for that */
    CHECK(palmi_now_ms() - began < 9000 && event.envelope.records[0].number == 0);
    palm_event_done(&event);
    expect_numbers(&b, NULL, 1, 19);
    event = next_message(&a, &b);
    CHECK(event.envelope.records[0].form == PALM_LOST);
    palm_event_done(&event);
    CHECK_ERR(palm_node_next(a.node, 20, &event), PALM_EAGAIN);
    peer_close(&a);
    peer_close(&b);
}

int main(int argc, char **argv)
{
    peers_begin(argc, argv);
    test_what_the_dead_have_sent();
    test_the_way();
    test_who_wants_none(false);
    test_who_wants_none(true);
    test_order();
    test_order_for_a_slow_reader();
    test_a_look();
    test_two_by_socket();
    test_rings_hide_no_socket();
    test_what_is_waited_for_awake();
    test_nonsense_in_a_ring();
    test_another_s_envelope();
    test_numbers_that_fall();
    test_a_ring_without_a_mark();
    test_another_host();
    test_missing_from_the_socket();
    peers_end();
    return 0;
}
