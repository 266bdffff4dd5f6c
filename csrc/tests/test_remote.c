/* SPDX-License-Identifier: BSD-3-Clause
 * Peers over TCP: who is let in, and who is held for gone. */
#include "node_peers.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

static const char *const KEYS[][2] = {
    {"baff398bbba068f9dcfd2ff4b4b9fa62eb5a66a0d843ddb1e55d56bd899eca40", "2699738cfdfc8fbeebde62ca4506bdffb46e46ab078fdf6922039a2fc7325216"},
    {"23cfc17acf089af02453554bc04ea5d9524987352b3a239e94b011d28574a704", "2ce5148577f106f8ecfa608951734e6d977a20eff932223da7232385a81ee0c3"},
    {"5e6762d01a5993504b36a9238dc8cba2b4999e1e843d5889f1225f8977bf4e1f", "47633567e1f098ca2399e9b817c4fd11ec111e5caf6d54f40a94b3671a89bd54"},
};
enum { OURS, ANOTHERS, STRANGERS };

static void bytes_of(const char *hex, uint8_t bytes[PALM_KEY_BYTES])
{
    for (int i = 0; i < PALM_KEY_BYTES; i++)
        CHECK(sscanf(hex + 2 * i, "%2hhx", &bytes[i]) == 1);
}

static palm_keys keys_of(int who)
{
    palm_keys keys;
    bytes_of(KEYS[who][0], keys.public_key);
    bytes_of(KEYS[who][1], keys.secret_key);
    return keys;
}

static void allow(const int *who, uint32_t n)
{
    uint8_t keys[3][PALM_KEY_BYTES];
    for (uint32_t i = 0; i < n; i++)
        bytes_of(KEYS[who[i]][0], keys[i]);
    CHECK_OK(palm_gate_allow((const uint8_t(*)[PALM_KEY_BYTES])keys, n));
}

/* who -1: without keys. */
static peer tcp_open(int who)
{
    peer p;
    palm_keys keys = who < 0 ? (palm_keys){.public_key = {0}} : keys_of(who);
    palm_space_options options = {.bound = 64 << 20};
    CHECK_OK(palm_space_open(&options, &p.space));
    palm_node_options node = {
        .endpoint = "tcp://127.0.0.1:*", .keys = who < 0 ? NULL : &keys, .name = "tcp", .space = p.space, .frames = true};
    CHECK_OK(palm_node_open(&node, &p.node));
    p.node->remote = (palmi_patience){.beat_ms = 10, .silence_ms = 100, .answer_ms = 300};
    return p;
}

/* One test, of two peers. */
static void between(int one, int other, void (*test)(peer *a, peer *b))
{
    peer a = tcp_open(one), b = tcp_open(other);
    test(&a, &b);
    peer_close(&a);
    peer_close(&b);
}

static void locked(peer *p, void (*act)(palmi_link *))
{
    pthread_mutex_lock(&p->node->lock);
    for (uint32_t i = 0; i < p->node->links.n; i++)
        act(p->node->links.at[i]);
    pthread_mutex_unlock(&p->node->lock);
}

static void move_to_another_host(palmi_link *link)
{
    if (link->pidfd >= 0)
        close(link->pidfd);
    link->pidfd = -1;
}

static void skip_one(palmi_link *link) { link->seq++; }

static void tick(peer *p)
{
    palm_unread unread = {0};
    palm_node_tick(p->node, &unread);
}

static void pause_ms(int ms) { usleep((useconds_t)ms * 1000); }

/* As connect_to, also where the peer has connected before. */
static uint32_t ready_link(peer *from, peer *to)
{
    uint32_t link;
    palm_event event;
    CHECK_OK(palm_node_link(from->node, palm_node_endpoint(to->node), 0, &link));
    for (int i = 0; i < 1000 && palm_node_link_state(from->node, link, NULL) != PALM_LINK_READY; i++) {
        palm_node_next(from->node, 1, &event);
        palm_node_next(to->node, 1, &event);
    }
    CHECK(palm_node_link_state(from->node, link, NULL) == PALM_LINK_READY);
    return link;
}

static void connect_apart(peer *a, peer *b, uint32_t *from_a, uint32_t *from_b)
{
    palm_event event;
    *from_a = ready_link(a, b);
    *from_b = ready_link(b, a);
    locked(a, move_to_another_host);
    locked(b, move_to_another_host);
    while (palm_node_next(a->node, 5, &event) == PALM_OK || palm_node_next(b->node, 5, &event) == PALM_OK)
        ; /* who is ready */
}

/* Anything that is to come out of the node within `ms`, with its pulse. */
static bool comes(peer *p, int ms, palm_event *event)
{
    for (int i = 0; i < ms; i++) {
        tick(p);
        if (palm_node_next(p->node, 1, event) == PALM_OK)
            return true;
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------------- who comes in */

static void send_hi(peer *from, peer *to)
{
    palm_batch *batch;
    palm_record *record;
    CHECK_OK(palm_batch_new(&batch));
    uint32_t link = ready_link(from, to);
    CHECK_OK(palm_batch_record(batch, PALM_DROP, 1, &record));
    CHECK_OK(palm_node_send(from->node, link, PALM_DATA, 7, 0, batch));
    palm_event event = next_message(to, from);
    CHECK(event.envelope.handle == 7);
    palm_event_done(&event);
    palm_batch_free(batch);
}

static void test_let_in(peer *a, peer *b)
{
    allow((int[]){OURS, ANOTHERS}, 2);
    char begin[100];
    snprintf(begin, sizeof begin, "tcp://%s@127.0.0.1:", KEYS[OURS][0]);
    CHECK(!strncmp(palm_node_endpoint(a->node), begin, strlen(begin)));
    send_hi(a, b);
    send_hi(b, a);
    CHECK(a->node->counters->rejected == 0);
}

/* A link on which nothing can come; until the other side has said why. */
static void expect_refused(peer *from, const char *endpoint, peer *by, const char *why)
{
    uint32_t link;
    palm_event event;
    uint64_t before = by->node->counters->rejected;
    CHECK_OK(palm_node_link(from->node, endpoint, 0, &link));
    for (int i = 0; i < 1000 && by->node->counters->rejected == before; i++) {
        CHECK(!comes(by, 1, &event) || event.kind == PALM_EVENT_WAKE); /* whoever serves is woken, to say so */
        CHECK_ERR(palm_node_next(from->node, 1, &event), PALM_EAGAIN);
    }
    CHECK(by->node->counters->rejected > before);
    CHECK(strstr(palm_node_rejected(by->node), why));
    CHECK(!by->node->links.n && palm_node_link_state(from->node, link, NULL) == PALM_LINK_OPENING);
}

static void test_refused(void)
{
    allow((int[]){OURS}, 1);
    peer a = tcp_open(OURS), stranger = tcp_open(STRANGERS), plain = tcp_open(-1);
    char endpoint[PALMI_TEXT];
    const char *at = strchr(palm_node_endpoint(a.node), '@') + 1;
    snprintf(endpoint, sizeof endpoint, "127.0.0.1, whose key %s is not allowed", KEYS[STRANGERS][0]);
    expect_refused(&stranger, palm_node_endpoint(a.node), &a, endpoint);
    snprintf(endpoint, sizeof endpoint, "tcp://%s@%s", KEYS[ANOTHERS][0], at); /* who thinks that we are somebody else */
    peer mistaken = tcp_open(OURS);
    expect_refused(&mistaken, endpoint, &a, "another one for us");
    snprintf(endpoint, sizeof endpoint, "tcp://%s", at);
    expect_refused(&plain, endpoint, &a, "without a key");
    peer_close(&mistaken);
    peer_close(&stranger);
    peer_close(&plain);
    peer_close(&a);
}

/* Nothing goes in plain text by mistake. */
static void test_keys_or_none(peer *a, peer *plain)
{
    uint32_t link;
    CHECK_ERR(palm_node_link(a->node, palm_node_endpoint(plain->node), 0, &link), PALM_EKEY);
    CHECK_ERR(palm_node_link(a->node, "tcp://0123@127.0.0.1:5555", 0, &link), PALM_EKEY);
    CHECK_ERR(palm_node_link(plain->node, palm_node_endpoint(a->node), 0, &link), PALM_EKEY);
}

/* --------------------------------------------------------------------------------------------------------- who is gone */

static void test_beats(peer *a, peer *b)
{
    uint32_t from_a, from_b;
    palm_event event;
    connect_apart(a, b, &from_a, &from_b);
    for (int i = 0; i < 100; i++) { /* for longer than a silence may last */
        tick(a);
        CHECK(!comes(b, 5, &event));
        CHECK_ERR(palm_node_next(a->node, 1, &event), PALM_EAGAIN);
    }
    CHECK(b->node->counters->batches == 0);
    locked(a, skip_one); /* the last envelope is lost: the next beat shows it */
    pause_ms(20);
    tick(a);
    CHECK(!comes(b, 20, &event));
    event = next_message(a, NULL);
    CHECK(event.link == from_a && event.envelope.records[0].form == PALM_LOST);
    palm_event_done(&event);
}

/* Who does not listen hears nothing: that says nothing of the peer. */
static void test_silence(peer *a, peer *b)
{
    uint32_t from_a, from_b;
    palm_event event;
    connect_apart(a, b, &from_a, &from_b);
    CHECK_ERR(palm_node_next(b->node, 1, &event), PALM_EAGAIN);
    pause_ms(400); /* no longer dry, and silent for long */
    for (int i = 0; i < 100; i++)
        tick(b);
    CHECK(palm_node_link_state(b->node, from_b, NULL) == PALM_LINK_READY);
    for (int i = 0; i < 100 && comes(a, 1, &event); i++)
        palm_event_done(&event);
    tick(a); /* it lives: a beat goes */
    for (int i = 0; i < 5; i++)
        CHECK(!comes(b, 1, &event));
    CHECK(palm_node_link_state(b->node, from_b, NULL) == PALM_LINK_READY);
    CHECK(comes(b, 2000, &event) && event.kind == PALM_EVENT_GONE && event.link == from_b && event.reason == 1);
}

static void test_no_answer(void)
{
    peer a = tcp_open(OURS), b = tcp_open(OURS);
    char endpoint[PALMI_TEXT];
    uint32_t link;
    palm_event event;
    snprintf(endpoint, sizeof endpoint, "%s", palm_node_endpoint(b.node));
    peer_close(&b);
    CHECK_OK(palm_node_link(a.node, endpoint, 0, &link));
    CHECK(comes(&a, 5000, &event) && event.kind == PALM_EVENT_GONE && event.link == link);
    peer_close(&a);
}

/* Who has held us for gone, and comes again, has forgotten what it was told: so it is gone for us, too. */
static void test_gone_for_one(peer *a, peer *b)
{
    uint32_t from_a, from_b;
    connect_apart(a, b, &from_a, &from_b);
    pthread_mutex_lock(&a->node->lock);
    palmi_link_close(a->node, palmi_link_get(a->node, from_a), 0);
    pthread_mutex_unlock(&a->node->lock);
    CHECK_OK(palm_node_link(a->node, palm_node_endpoint(b->node), 0, &from_a));
    palm_event event = next(b, NULL);
    CHECK(event.kind == PALM_EVENT_GONE && event.link == from_b && event.reason == 1);
    CHECK(expect(a, b, PALM_EVENT_READY).link == from_a);
}

static void serve_until_killed(int tell)
{
    peer b = tcp_open(OURS);
    char endpoint[PALMI_TEXT];
    palm_event event;
    snprintf(endpoint, sizeof endpoint, "%s", palm_node_endpoint(b.node));
    CHECK(write(tell, endpoint, sizeof endpoint) == sizeof endpoint);
    for (;;)
        palm_node_next(b.node, 1000, &event);
}

/* A broken connection says at once what silence says in the end. The first test, since there is a fork in it. */
static void test_killed(void)
{
    int told[2];
    char endpoint[PALMI_TEXT];
    palm_event event;
    uint32_t link;
    CHECK(!pipe(told));
    pid_t child = fork();
    if (!child)
        serve_until_killed(told[1]);
    CHECK(read(told[0], endpoint, sizeof endpoint) == sizeof endpoint);
    peer a = tcp_open(OURS);
    a.node->remote.silence_ms = 1000000;
    CHECK_OK(palm_node_link(a.node, endpoint, 0, &link));
    CHECK(expect(&a, NULL, PALM_EVENT_READY).link == link);
    locked(&a, move_to_another_host);
    CHECK(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
    CHECK(comes(&a, 5000, &event) && event.kind == PALM_EVENT_GONE && event.link == link && event.reason == 1);
    peer_close(&a);
    close(told[0]);
    close(told[1]);
}

/* What libzmq would say of a connection that breaks after its link was closed must not hold up all others. */
static void test_links_that_break_when_closed(void)
{
    peer a = tcp_open(OURS);
    for (int i = 0; i < 100; i++) {
        peer b = tcp_open(OURS);
        uint32_t link = ready_link(&a, &b);
        peer_close(&b); /* which libzmq sees at some moment of what follows */
        usleep((useconds_t)i * 5);
        pthread_mutex_lock(&a.node->lock);
        palmi_link_close(a.node, palmi_link_get(a.node, link), 0);
        pthread_mutex_unlock(&a.node->lock);
    }
    peer_close(&a);
}

int main(int argc, char **argv)
{
    const char *missing;
    if (argc < 2 || !argv[1][0])
        return SKIPPED;
    CHECK_OK(palm_zmq_load(argv[1], &missing));
    if (!palm_zmq_has("curve"))
        return SKIPPED;
    allow((int[]){OURS}, 1);
    test_killed();
    between(OURS, ANOTHERS, test_let_in);
    test_refused();
    between(OURS, -1, test_keys_or_none);
    between(OURS, OURS, test_beats);
    between(OURS, OURS, test_silence);
    test_no_answer();
    between(OURS, OURS, test_gone_for_one);
    test_links_that_break_when_closed();
    return 0;
}
