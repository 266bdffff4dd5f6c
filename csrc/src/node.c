/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A node: one PULL socket for all peers, its opening and closing, and the wait for its events. */
#include "node_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

enum { MOST_WAIT_MS = 5000 }; /* longer than a socket takes on any host that is not stuck */
enum { LOOK_EVERY = 16 }; /* messages between two looks at door and pidfds while something always comes */

/* ------------------------------------------------------------------------------------------------- open and close */

enum { DOOR, SOCKET, REFUSED }; /* keys in the epoll set; what belongs to a link has its number in it */

static palm_err bind_to(palm_node *node, const char *endpoint)
{
    char plain[PALMI_TCP_TEXT];
    size_t size = sizeof plain;
    bool with_keys = node->has_keys && palmi_is_tcp(endpoint);
    palm_err err = with_keys ? palmi_gate_enter(node->context) : PALM_OK;
    node->is_at_gate = with_keys && !err;
    if (!err && with_keys)
        err = palmi_curve_serve(node->pull, &node->keys);
    if (!err && with_keys)
        err = palmi_monitor_open(node, node->pull, PALMI_ZMQ_EVENT_HANDSHAKES_FAILED, REFUSED, &node->refused);
    if (err)
        return err;
    if (palmi_zmq_bind(node->pull, endpoint) || palmi_zmq.getsockopt_(node->pull, PALMI_ZMQ_LAST_ENDPOINT, plain, &size))
        return palmi_zmq_err();
    if (with_keys)
        palmi_curve_name(&node->keys, plain, node->endpoint, sizeof node->endpoint);
    else
        snprintf(node->endpoint, sizeof node->endpoint, "%s", plain);
    return PALM_OK;
}

static palm_err open_pull(palm_node *node, const char *endpoint)
{
    int unbounded = 0, no_linger = 0, handshake_ms = 5000;
    node->pull = palmi_zmq.socket_(node->context, PALMI_ZMQ_PULL);
    if (!node->pull)
        return palmi_zmq_err();
    if (palmi_zmq.setsockopt_(node->pull, PALMI_ZMQ_RCVHWM, &unbounded, sizeof unbounded) ||
        palmi_zmq.setsockopt_(node->pull, PALMI_ZMQ_LINGER, &no_linger, sizeof no_linger) ||
        palmi_zmq.setsockopt_(node->pull, PALMI_ZMQ_HANDSHAKE_IVL, &handshake_ms, sizeof handshake_ms))
        return palmi_zmq_err();
    return bind_to(node, endpoint);
}

static palm_err watch_socket(palm_node *node)
{
    int fd;
    size_t size = sizeof fd;
    struct epoll_event socket = {.events = EPOLLIN, .data.u64 = SOCKET};
    if (palmi_zmq.getsockopt_(node->pull, PALMI_ZMQ_FD, &fd, &size))
        return palmi_zmq_err();
    return epoll_ctl(node->watch, EPOLL_CTL_ADD, fd, &socket) ? (palm_err)(PALM_ESYS + errno) : PALM_OK;
}

static palm_err open_door(palm_node *node, bool rings, bool spins)
{
    struct epoll_event door = {.events = EPOLLIN, .data.u64 = DOOR};
    palm_err err = palmi_door_open(node, rings, spins);
    if (err)
        return err;
    node->watch = epoll_create1(EPOLL_CLOEXEC);
    if (node->watch < 0 || epoll_ctl(node->watch, EPOLL_CTL_ADD, node->door.read_end, &door))
        return (palm_err)(PALM_ESYS + errno);
    return PALM_OK;
}

/* libzmq leaves the socket's file behind (4.3.5 removes those alone that it has named itself). */
static void remove_file(const palm_node *node)
{
    if (!strncmp(node->endpoint, "ipc://", 6) && node->endpoint[6] == '/')
        unlink(node->endpoint + 6);
}

static void node_free(palm_node *node)
{
    if (node->pull) {
        remove_file(node);
        palmi_monitor_close(node, node->pull, node->refused);
        palmi_zmq.close_(node->pull);
    }
    if (node->is_at_gate)
        palmi_gate_leave();
    if (node->context)
        palmi_zmq_context_drop();
    palmi_door_close(node);
    if (node->watch >= 0)
        close(node->watch);
    palm_reader_free(node->reader);
    palm_writer_free(node->writer);
    palmi_node_drop_held(node);
    pthread_mutex_destroy(&node->lock);
    pthread_mutex_destroy(&node->receiving);
    free(node->links.at);
    free(node->notes.at);
    free(node);
}

palm_err palm_node_open(const palm_node_options *options, palm_node **out)
{
    palm_node *node = calloc(1, sizeof *node);
    if (!node)
        return PALM_ENOMEM;
    node->space = options->space;
    node->counters = palm_space_page(options->space);
    node->frames = options->frames;
    node->has_keys = options->keys != NULL;
    if (options->keys)
        node->keys = *options->keys;
    node->serves = options->serves;
    node->pid = getpid();
    node->door.read_end = node->door.write_end = node->door.file = node->door.spin.load = node->watch = -1;
    node->socket_ready = true;
    node->patience_ms = MOST_WAIT_MS;
    node->remote = palmi_remote_patience;
    snprintf(node->name, sizeof node->name, "%s", options->name ? options->name : "");
    pthread_mutex_init(&node->lock, NULL);
    pthread_mutex_init(&node->receiving, NULL);
    palm_err err = getrandom(&node->id, sizeof node->id, 0) == sizeof node->id ? PALM_OK : (palm_err)(PALM_ESYS + errno);
    node->id |= 1; /* 0 means: not known */
    if (!err)
        err = palm_reader_new(&node->reader);
    if (!err)
        err = palm_writer_new(&node->writer);
    if (!err)
        err = open_door(node, !options->frames && !options->sockets, !options->sleeping);
    if (!err)
        err = palmi_zmq_context(&node->context);
    if (!err)
        err = open_pull(node, options->endpoint);
    if (!err)
        err = watch_socket(node);
    if (err) {
        node_free(node);
        return err;
    }
    if (node->serves)
        palm_gauge(&node->counters->serves_since_ns, palmi_now_ns());
    *out = node;
    return PALM_OK;
}

static bool all_taken(palm_node *node)
{
    bool all = true;
    for (uint32_t i = 0; i < node->links.n; i++) {
        palmi_link *link = node->links.at[i];
        palmi_link_settle(node, link);
        all &= link->flight_first == link->flight.n;
    }
    return all;
}

static void say_bye(palm_node *node)
{
    palm_batch *empty;
    if (palm_batch_new(&empty) != PALM_OK)
        return;
    for (uint32_t i = 0; i < node->links.n; i++)
        if (node->links.at[i]->state == PALM_LINK_READY)
            palmi_link_transmit(node, node->links.at[i], PALM_BYE, 0, 0, empty);
    palm_batch_free(empty);
}

static void close_links(palm_node *node, int linger_ms, uint32_t *unsent)
{
    while (node->links.n) {
        palmi_link *link = node->links.at[node->links.n - 1];
        for (palmi_waiting *w = link->waiting; w; w = w->next)
            ++*unsent;
        *unsent += link->flight.n - link->flight_first;
        palmi_link_close(node, link, link->state == PALM_LINK_READY ? linger_ms : 0);
    }
}

void palm_node_shut(palm_node *node)
{
    atomic_store(&node->closed, true);
    palmi_door_ring(node);
}

void palm_node_close(palm_node *node, int linger_ms, uint32_t *unsent)
{
    *unsent = 0;
    if (node->pid != getpid())
        return; /* libzmq must not be touched in a child; the memory is the child's copy */
    palm_node_shut(node);
    pthread_mutex_lock(&node->lock);
    say_bye(node);
    uint64_t end = palmi_now_ms() + (uint64_t)(linger_ms < 0 ? 0 : linger_ms);
    while (!all_taken(node) && palmi_now_ms() < end) {
        pthread_mutex_unlock(&node->lock);
        struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
        pthread_mutex_lock(&node->lock);
    }
    close_links(node, linger_ms, unsent);
    pthread_mutex_unlock(&node->lock);
    node_free(node);
}

const char *palm_node_endpoint(const palm_node *node) { return node->endpoint; }
uint64_t palm_node_id(const palm_node *node) { return node->id; }
const char *palm_node_rejected(palm_node *node) { return node->rejected; }

void palm_node_wake(palm_node *node)
{
    atomic_store(&node->woken, true);
    palmi_door_ring(node);
}

void palm_node_stop(palm_node *node)
{
    atomic_store(&node->stopped, true);
    palmi_door_ring(node);
}

/* -------------------------------------------------------------------------------------------------------- waiting */

static void peer_died(palm_node *node, uint32_t number)
{
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_get(node, number);
    if (link && palmi_local_dies(node, link))
        epoll_ctl(node->watch, EPOLL_CTL_DEL, link->pidfd, NULL);
    else if (link)
        palmi_link_lose(node, link, 1);
    pthread_mutex_unlock(&node->lock);
}

static void connection_changed(palm_node *node, uint32_t number)
{
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_get(node, number);
    if (link)
        palmi_monitor_link(link);
    pthread_mutex_unlock(&node->lock);
}

static void attend_to(palm_node *node, uint64_t key)
{
    if (key == SOCKET)
        node->socket_ready = true;
    else if (key == DOOR)
        node->signalled |= palmi_door_answer(node);
    else if (key == REFUSED)
        palmi_monitor_refused(node);
    else if (key >= PALMI_MONITOR_KEY)
        connection_changed(node, (uint32_t)(key - PALMI_MONITOR_KEY));
    else
        peer_died(node, (uint32_t)(key - PALMI_PEER_KEY));
}

/* Milliseconds until then, but no more than `most`. */
static int until(uint64_t then_ms, int most)
{
    uint64_t now = palmi_now_ms();
    return then_ms <= now ? 1 : then_ms - now < (uint64_t)most ? (int)(then_ms - now) : most;
}

static int wait_awake(palm_node *node, struct epoll_event *ready, int n, int ms)
{
    palmi_door *door = &node->door;
    palmi_bell *bell = ms ? door->bell : NULL;
    if (!bell)
        return epoll_wait(node->watch, ready, n, ms);
    if (door->waits_until_ms)
        ms = until(door->waits_until_ms, ms);
    if (palmi_spin_wait(&door->spin, bell, &node->woken))
        return 0;
    door->sleeps = door->sleeps % UINT32_MAX + 1;
    uint64_t began = palmi_now_ns();
    int got = epoll_wait(node->watch, ready, n, palmi_bell_sleep(bell, door->sleeps) ? ms : 0);
    palmi_bell_rise(bell);
    palmi_spin_slept(&door->spin, palmi_now_ns() - began);
    return got;
}

/* Waits up to ms for the socket, the door or a death. Of the socket, this says that something may have come: libzmq's fd
 * is readable while its mailbox has commands, and a receive that found nothing has emptied that, so no wake-up is lost. */
palm_err palmi_node_look(palm_node *node, int ms)
{
    struct epoll_event ready[16];
    atomic_store(&node->is_waiting, ms > 0);
    int n = wait_awake(node, ready, 16, ms);
    atomic_store(&node->is_waiting, false);
    if (n < 0)
        return errno == EINTR ? PALM_EINTR : (palm_err)(PALM_ESYS + errno);
    for (int i = 0; i < n; i++)
        attend_to(node, ready[i].data.u64);
    return PALM_OK;
}

void palmi_node_note(palm_node *node, palm_event_kind kind, uint32_t link, uint32_t reason)
{
    if (node->notes_first == node->notes.n)
        node->notes_first = node->notes.n = 0;
    if (PALMI_GROW(node->notes, 1))
        return; /* the link is gone all the same: the next send says so */
    node->notes.at[node->notes.n++] = (palmi_note){kind, link, reason};
    palmi_door_ring(node);
}

static bool next_note(palm_node *node, palm_event *event)
{
    if (atomic_load(&node->stopped) && !node->stop_told) {
        node->stop_told = true;
        event->kind = PALM_EVENT_STOP;
        return true;
    }
    if (atomic_load(&node->woken) && atomic_exchange(&node->woken, false)) {
        event->kind = PALM_EVENT_WAKE;
        return true;
    }
    pthread_mutex_lock(&node->lock);
    bool any = node->notes_first < node->notes.n;
    if (any) {
        palmi_note *note = &node->notes.at[node->notes_first++];
        *event = (palm_event){.kind = note->kind, .link = note->link, .reason = note->reason};
    }
    pthread_mutex_unlock(&node->lock);
    return any;
}

enum { NOT_GIVEN = 1024 }; /* envelopes in a row that are nobody's business: a HELLO, a beat, what is rejected */

static palm_err last_look(palm_node *node, palm_event *event)
{
    bool given = false;
    palmi_node_look(node, 0);
    palm_err err = node->socket_ready ? PALM_OK : PALM_EAGAIN;
    for (int i = 0; !given && !next_note(node, event); i++) {
        if (err || i == NOT_GIVEN)
            return err ? err : PALM_EAGAIN;
        err = palmi_receive(node, event, &given);
    }
    return PALM_OK;
}

/* palmi_node_look by who has nothing to do meanwhile. */
static palm_err sleep_until(palm_node *node, uint64_t end_ms, uint64_t now_ms)
{
    if (!node->serves)
        return palmi_node_look(node, (int)(end_ms - now_ms));
    uint64_t began = palmi_now_ns();
    palm_gauge(&node->counters->sleeps_since_ns, began);
    palm_err err = palmi_node_look(node, (int)(end_ms - now_ms));
    palm_gauge(&node->counters->sleeps_since_ns, 0);
    palm_count(&node->counters->idle_ns, palmi_now_ns() - began);
    return err;
}

static palm_err next(palm_node *node, int timeout_ms, palm_event *event)
{
    uint64_t end = palmi_now_ms() + (uint64_t)timeout_ms;
    for (;;) {
        bool given;
        if (atomic_load(&node->closed))
            return PALM_ECLOSED;
        if (++node->since_look > LOOK_EVERY) {
            node->since_look = 0;
            palmi_node_look(node, 0);
        }
        if (node->signalled) {
            node->signalled = false;
            return PALM_EINTR;
        }
        if (next_note(node, event) || palmi_node_held(node, event))
            return PALM_OK;
        palm_err err = palmi_receive(node, event, &given);
        if (given)
            return PALM_OK;
        if (err && err != PALM_EAGAIN)
            return err;
        uint64_t now = palmi_now_ms();
        if (err && now < end)
            err = sleep_until(node, end, now);
        else if (now >= end)
            return last_look(node, event);
        if (err && err != PALM_EAGAIN)
            return err;
    }
}

palm_err palm_node_next(palm_node *node, int timeout_ms, palm_event *event)
{
    memset(event, 0, sizeof *event);
    if (palm_space_forked(node->space))
        return PALM_EFORK;
    pthread_mutex_lock(&node->receiving);
    palm_err err = next(node, timeout_ms, event);
    pthread_mutex_unlock(&node->receiving);
    if (!err)
        palmi_node_stir(node);
    return err;
}

int palm_node_door(const palm_node *node) { return node->door.write_end; }

void palm_node_rest(palm_node *node, const void *rests, int bell)
{
    node->rest = (palmi_rest){rests, bell};
}

void palmi_node_stir(const palm_node *node)
{
    uint64_t one = 1;
    if (!node->rest.rests || !atomic_load_explicit(node->rest.rests, memory_order_relaxed))
        return; /* a pulse that begins to rest in this moment sees it when it beats again */
    ssize_t written = write(node->rest.bell, &one, sizeof one);
    (void)written;
}
