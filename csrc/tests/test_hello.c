/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Hand-shakes with those who die before they are over, and with those who write envelopes by hand.
 * Arguments: those of peers_begin. */
#include "node_peers.h"

#include <sys/wait.h>

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
            palm_event_done(&event);
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
        palm_event_done(&event);
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

int main(int argc, char **argv)
{
    peers_begin(argc, argv);
    test_death_before_the_hand_shake();
    test_dead_before_its_hello_is_read();
    test_strangers(0);
    test_strangers(getpid());
    test_strangers_in_use();
    test_named_links();
    test_gaps_without_end();
    peers_end();
    return 0;
}
