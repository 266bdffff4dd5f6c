/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A link is a PUSH socket to one peer, the references that the peer may not yet have taken over, and what waits for the
 * hand-shake. transmit.c sends. */
#include "node_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------ finding, opening */

/* Where in node->links the link with this number is, or would be. */
static uint32_t place_of(const palm_node *node, uint32_t number)
{
    uint32_t low = 0, high = node->links.n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (node->links.at[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

palmi_link *palmi_link_get(palm_node *node, uint32_t number)
{
    uint32_t place = place_of(node, number);
    return place < node->links.n && node->links.at[place]->number == number ? node->links.at[place] : NULL;
}

palmi_link *palmi_link_by_peer(palm_node *node, uint64_t peer)
{
    for (uint32_t i = 0; i < node->links.n; i++)
        if (node->links.at[i]->peer == peer)
            return node->links.at[i];
    return NULL;
}

palmi_link *palmi_link_by_endpoint(palm_node *node, const char *endpoint)
{
    for (uint32_t i = 0; i < node->links.n; i++)
        if (!strcmp(node->links.at[i]->endpoint, endpoint))
            return node->links.at[i];
    return NULL;
}

static palm_err add_link(palm_node *node, palmi_link *link)
{
    palm_err err = PALMI_GROW(node->links, 1);
    if (err)
        return err;
    node->links.at[node->links.n++] = link;
    link->number = ++node->last_link;
    return PALM_OK;
}

static palm_err open_socket(palm_node *node, palmi_link *link)
{
    int unbounded = 0, no_linger = 0, again_ms = 10, most_ms = palmi_is_tcp(link->endpoint) ? 1000 : 0; /* twice as long each time */
    char endpoint[PALMI_TCP_TEXT];
    link->socket = palmi_zmq.socket_(node->context, PALMI_ZMQ_PUSH);
    if (!link->socket)
        return palmi_zmq_err();
    palm_err err = palmi_curve_connect(link->socket, node->has_keys ? &node->keys : NULL, link->endpoint, endpoint);
    if (!err && (palmi_zmq.setsockopt_(link->socket, PALMI_ZMQ_SNDHWM, &unbounded, sizeof unbounded) ||
                 palmi_zmq.setsockopt_(link->socket, PALMI_ZMQ_LINGER, &no_linger, sizeof no_linger) ||
                 palmi_zmq.setsockopt_(link->socket, PALMI_ZMQ_RECONNECT_IVL, &again_ms, sizeof again_ms) ||
                 palmi_zmq.setsockopt_(link->socket, PALMI_ZMQ_RECONNECT_IVL_MAX, &most_ms, sizeof most_ms) ||
                 palmi_zmq_connect(link->socket, endpoint)))
        err = palmi_zmq_err();
    if (err)
        palmi_zmq.close_(link->socket);
    return err;
}

/* Before it can be ready. */
static palm_err watch_connection(palm_node *node, palmi_link *link)
{
    if (!palmi_is_tcp(link->endpoint))
        return PALM_OK;
    uint64_t key = PALMI_MONITOR_KEY + link->number;
    return palmi_monitor_open(node, link->socket, PALMI_ZMQ_EVENT_DISCONNECTED, key, &link->monitor);
}

static void claim_word(palm_node *node, palmi_link *link)
{
    link->has_word = !node->frames && palm_space_claim_word(node->space, &link->word) == PALM_OK;
    if (!link->has_word)
        return; /* tag 0 tells the peer to write nowhere */
    node->last_tag = node->last_tag % 0xffffff + 1;
    link->tag = node->last_tag;
}

palm_err palmi_link_to(palm_node *node, const char *endpoint, palmi_link **out)
{
    palmi_link *link = palmi_link_by_endpoint(node, endpoint);
    if (link) {
        *out = link;
        return PALM_OK;
    }
    if (strlen(endpoint) >= PALMI_TEXT)
        return PALM_ELIMIT;
    link = calloc(1, sizeof *link);
    if (!link)
        return PALM_ENOMEM;
    strcpy(link->endpoint, endpoint);
    link->state = PALM_LINK_OPENING;
    link->slot = PALM_SLOT_UNKNOWN;
    link->pidfd = link->local.file = -1;
    link->waiting_end = &link->waiting;
    link->begun_ms = link->heard_ms = palmi_now_ms();
    palm_err err = open_socket(node, link);
    if (err) {
        free(link);
        return err;
    }
    err = add_link(node, link);
    if (err) {
        palmi_zmq.close_(link->socket);
        free(link);
        return err;
    }
    claim_word(node, link);
    err = watch_connection(node, link);
    if (err) {
        palmi_link_close(node, link, 0);
        return err;
    }
    *out = link;
    return PALM_OK;
}

int palmi_pidfd(pid_t pid)
{
    if (pid <= 0)
        return PALMI_NO_PIDFD;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return pidfd >= 0 ? pidfd : errno == ESRCH ? PALMI_DEAD : PALMI_NO_PIDFD;
}

void palmi_link_watch(palm_node *node, palmi_link *link, int pidfd)
{
    if (pidfd < 0)
        return;
    if (link->pidfd >= 0) {
        close(pidfd);
        return;
    }
    link->pidfd = pidfd;
    struct epoll_event watched = {.events = EPOLLIN, .data.u64 = PALMI_PEER_KEY + link->number};
    epoll_ctl(node->watch, EPOLL_CTL_ADD, pidfd, &watched);
}

/* --------------------------------------------------------------------------------------------------------- closing */

static void drop_flight(palmi_link *link)
{
    for (uint32_t i = link->flight_first; i < link->flight.n; i++)
        palm_block_drop(link->flight.at[i].arena, link->flight.at[i].index);
    link->flight.n = link->flight_first = 0;
}

static void drop_waiting(palmi_link *link)
{
    while (link->waiting) {
        palmi_waiting *w = link->waiting;
        link->waiting = w->next;
        palm_batch_free(w->batch);
        free(w);
    }
    link->waiting_end = &link->waiting;
}

static void remove_link(palm_node *node, const palmi_link *link)
{
    uint32_t place = place_of(node, link->number);
    node->links.n--;
    memmove(node->links.at + place, node->links.at + place + 1, (node->links.n - place) * sizeof *node->links.at);
}

/* libzmq aborts the process if a connection breaks in the middle of a message in frames whose socket was closed without
 * linger (session_base_t::clean_pipes in 4.3.5, libzmq#3442). A peer that dies has its connections closed before it can be
 * waited for, so libzmq knows within this time. */
enum { UNTIL_BREAKS_ARE_KNOWN_MS = 200 };

static uint64_t *counter_of(palm_counters *c, palmi_way way)
{
    return way == PALMI_WAY_RING ? &c->links_ring : way == PALMI_WAY_TCP ? &c->links_tcp : &c->links_socket;
}

static void count_as(palm_node *node, palmi_link *link, palmi_way way)
{
    if (link->way != PALMI_WAY_NONE)
        palm_count(counter_of(node->counters, link->way), UINT64_MAX); /* one less */
    if (way != PALMI_WAY_NONE)
        palm_count(counter_of(node->counters, way), 1);
    link->way = way;
}

void palmi_link_count(palm_node *node, palmi_link *link)
{
    palmi_way plain = palmi_is_tcp(link->endpoint) ? PALMI_WAY_TCP : PALMI_WAY_SOCKET;
    bool stands = link->state == PALM_LINK_READY;
    count_as(node, link, !stands ? PALMI_WAY_NONE : link->local.usable ? PALMI_WAY_RING : plain);
}

void palmi_link_close(palm_node *node, palmi_link *link, int linger_ms)
{
    count_as(node, link, PALMI_WAY_NONE);
    if (link->has_sent_parts && linger_ms < UNTIL_BREAKS_ARE_KNOWN_MS)
        linger_ms = UNTIL_BREAKS_ARE_KNOWN_MS;
    palmi_monitor_close(node, link->socket, link->monitor);
    palmi_zmq.setsockopt_(link->socket, PALMI_ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    palmi_zmq.close_(link->socket);
    if (link->pidfd >= 0)
        close(link->pidfd); /* leaves the epoll set by itself */
    drop_waiting(link);
    drop_flight(link);
    palmi_local_drop(node, link);
    if (link->has_word)
        palm_space_return_word(node->space, link->word);
    remove_link(node, link);
    free(link->flight.at);
    free(link);
}

void palmi_link_lose(palm_node *node, palmi_link *link, uint32_t reason)
{
    palmi_node_note(node, PALM_EVENT_GONE, link->number, reason);
    palm_count(&node->counters->lost_links, reason ? 1 : 0);
    palmi_link_close(node, link, 0);
}

/* --------------------------------------------------------------------------------------------------------- sending */

void palmi_link_settle(palm_node *node, palmi_link *link)
{
    if (!link->has_word || link->taken == link->seq)
        return;
    uint64_t word = palm_space_taken(node->space, link->word);
    if (word >> PALMI_SEQ_BITS != link->tag) /* not written yet, or by the word's former reader */
        return;
    uint64_t taken = word & ((UINT64_C(1) << PALMI_SEQ_BITS) - 1);
    if (taken > link->seq || taken <= link->taken) /* the first is a lie: believe nothing */
        return;
    link->taken = taken;
    while (link->flight_first < link->flight.n && link->flight.at[link->flight_first].seq <= taken) {
        palmi_flight *f = &link->flight.at[link->flight_first++];
        palm_block_drop(f->arena, f->index);
    }
    if (link->flight_first == link->flight.n)
        link->flight_first = link->flight.n = 0;
}

palm_err palmi_link_flush(palm_node *node, palmi_link *link)
{
    palm_err err = PALM_OK;
    while (link->waiting && !err) {
        palmi_waiting *w = link->waiting;
        err = palmi_link_transmit(node, link, w->kind, w->handle, w->hop, w->batch);
        if (err)
            break;
        link->waiting = w->next;
        palm_batch_free(w->batch);
        free(w);
    }
    if (!link->waiting)
        link->waiting_end = &link->waiting;
    return err;
}

static palm_err wait_for_hello(palmi_link *link, palm_kind kind, uint32_t handle, uint16_t hop, const palm_batch *batch)
{
    palmi_waiting *w = calloc(1, sizeof *w);
    if (!w)
        return PALM_ENOMEM;
    w->kind = kind;
    w->handle = handle;
    w->hop = hop;
    palm_err err = palm_batch_new(&w->batch);
    if (!err)
        err = palmi_batch_copy(w->batch, batch);
    if (err) {
        palm_batch_free(w->batch);
        free(w);
        return err;
    }
    *link->waiting_end = w;
    link->waiting_end = &w->next;
    return PALM_OK;
}

/* ---------------------------------------------------------------------------------------------------- public calls */

static palm_err usable(const palm_node *node)
{
    if (palm_space_forked(node->space))
        return PALM_EFORK;
    return atomic_load(&node->closed) ? PALM_ECLOSED : PALM_OK;
}

enum { MAX_NAMED = 256 }; /* what peers may name costs a socket each */

static void make_room_for_named(palm_node *node)
{
    palmi_link *oldest = NULL;
    uint32_t n = 0;
    for (uint32_t i = node->links.n; i-- > 0;)
        if (node->links.at[i]->named) {
            oldest = node->links.at[i];
            n++;
        }
    if (n >= MAX_NAMED)
        palmi_link_lose(node, oldest, 1);
}

static palm_err link_to(palm_node *node, const char *endpoint, bool named, palmi_link **out)
{
    bool is_new = !palmi_link_by_endpoint(node, endpoint);
    if (is_new && named)
        make_room_for_named(node);
    palm_err err = palmi_link_to(node, endpoint, out);
    if (!err)
        (*out)->named = named && (is_new || (*out)->named);
    return err;
}

static palm_err find_link(palm_node *node, const char *endpoint, int32_t pid, bool named, uint32_t *out)
{
    palm_err err = usable(node);
    if (err)
        return err;
    pthread_mutex_lock(&node->lock);
    palmi_link *link;
    err = link_to(node, endpoint, named, &link);
    if (!err && !link->seq)
        err = palmi_link_hello(node, link);
    if (err == PALM_EAGAIN) /* refused already, so that libzmq has given up: as if that had come a moment later */
        err = PALM_OK;
    if (!err) {
        *out = link->number;
        link->in_use = true;
        int pidfd = link->pidfd < 0 ? palmi_pidfd(pid) : PALMI_NO_PIDFD;
        if (pidfd == PALMI_DEAD)
            palmi_link_lose(node, link, 1);
        else
            palmi_link_watch(node, link, pidfd);
    }
    pthread_mutex_unlock(&node->lock);
    return err;
}

palm_err palm_node_link(palm_node *node, const char *endpoint, int32_t pid, uint32_t *out)
{
    return find_link(node, endpoint, pid, false, out);
}

palm_err palm_node_link_named(palm_node *node, const char *endpoint, int32_t pid, uint32_t *out)
{
    return find_link(node, endpoint, pid, true, out);
}

palm_link_state palm_node_link_state(palm_node *node, uint32_t number, bool *mapped)
{
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_get(node, number);
    palm_link_state state = link ? link->state : PALM_LINK_GONE;
    if (mapped)
        *mapped = link && link->mapped;
    pthread_mutex_unlock(&node->lock);
    return state;
}

static palm_err transmit_or_lose(palm_node *node, palmi_link *link, palm_kind kind, uint32_t handle, uint16_t hop,
                                 const palm_batch *batch)
{
    palm_err err = palmi_link_transmit(node, link, kind, handle, hop, batch);
    if (!link->broken)
        return err;
    palmi_link_lose(node, link, 1);
    return PALM_ECLOSED;
}

palm_err palmi_link_send(palm_node *node, palmi_link *link, palm_kind kind, uint32_t handle, uint16_t hop,
                         const palm_batch *batch)
{
    if (link->state == PALM_LINK_READY)
        return transmit_or_lose(node, link, kind, handle, hop, batch);
    return wait_for_hello(link, kind, handle, hop, batch);
}

palm_err palm_node_send(palm_node *node, uint32_t number, palm_kind kind, uint32_t handle, uint16_t hop,
                        const palm_batch *batch)
{
    palm_err err = usable(node);
    if (err)
        return err;
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_get(node, number);
    err = link ? palmi_link_send(node, link, kind, handle, hop, batch) : PALM_ECLOSED;
    pthread_mutex_unlock(&node->lock);
    palmi_node_stir(node);
    return err;
}

bool palm_node_is_quiet(palm_node *node)
{
    bool quiet = true;
    pthread_mutex_lock(&node->lock);
    for (uint32_t i = 0; i < node->links.n; i++) {
        const palmi_link *link = node->links.at[i];
        quiet &= link->flight_first == link->flight.n && !palmi_is_remote(link);
    }
    pthread_mutex_unlock(&node->lock);
    return quiet;
}

void palm_node_tick(palm_node *node, palm_unread *unread)
{
    pthread_mutex_lock(&node->lock);
    for (uint32_t i = 0; i < node->links.n; i++) {
        palmi_link *link = node->links.at[i];
        palmi_link_settle(node, link);
        uint64_t n = link->seq > 1 ? link->seq - link->taken : 0; /* a HELLO alone is no work, and may never be told taken */
        if (link->has_word && link->mapped && n > unread->envelopes)
            *unread = (palm_unread){n, link->identity.pid};
    }
    palmi_remote_tick(node);
    pthread_mutex_unlock(&node->lock);
}
