/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What libzmq tells of connections by TCP: those that it has refused, since they have no key, or one that is not allowed, are
 * counted; when that of a link breaks is noted, for remote.c. */
#include "node_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

static int fd_of(void *socket)
{
    int fd;
    size_t size = sizeof fd;
    return palmi_zmq.getsockopt_(socket, PALMI_ZMQ_FD, &fd, &size) ? -1 : fd;
}

/* The first frame of what a monitor says begins with the event. Until it has found nothing, libzmq signals nothing more. */
static bool next_event(void *monitor, uint16_t *event, bool *first)
{
    palmi_zmq_msg msg;
    palmi_zmq.msg_init_(&msg);
    int got = palmi_zmq_recv(&msg, monitor, PALMI_ZMQ_DONTWAIT);
    *event = 0;
    if (got >= 0 && *first && palmi_zmq.msg_size_(&msg) >= sizeof *event)
        memcpy(event, palmi_zmq.msg_data_(&msg), sizeof *event);
    *first = got < 0 || !palmi_zmq.msg_more_(&msg);
    palmi_zmq.msg_close_(&msg);
    return got >= 0;
}

palm_err palmi_monitor_open(palm_node *node, void *socket, int events, uint64_t key, void **out)
{
    int unbounded = 0; /* else libzmq's thread would wait, and with it all sockets, until we have read what it says */
    char name[64];
    snprintf(name, sizeof name, "inproc://monitor-%p", socket);
    if (palmi_zmq_monitor(socket, name, events))
        return palmi_zmq_err();
    void *monitor = palmi_zmq.socket_(node->context, PALMI_ZMQ_PAIR);
    if (!monitor)
        return palmi_zmq_err();
    palm_err err = PALM_OK;
    if (palmi_zmq.setsockopt_(monitor, PALMI_ZMQ_RCVHWM, &unbounded, sizeof unbounded) || palmi_zmq_connect(monitor, name))
        err = palmi_zmq_err();
    struct epoll_event watched = {.events = EPOLLIN, .data.u64 = key};
    if (!err && epoll_ctl(node->watch, EPOLL_CTL_ADD, fd_of(monitor), &watched))
        err = (palm_err)(PALM_ESYS + errno);
    if (err) {
        palmi_zmq.socket_monitor_(socket, NULL, 0);
        palmi_zmq.close_(monitor);
        return err;
    }
    uint16_t event;
    bool first = true;
    while (next_event(monitor, &event, &first))
        ; /* nothing has happened yet */
    *out = monitor;
    return PALM_OK;
}

void palmi_monitor_close(palm_node *node, void *socket, void *monitor)
{
    if (!monitor)
        return;
    palmi_zmq.socket_monitor_(socket, NULL, 0); /* before there is nobody to whom libzmq's thread could say anything */
    epoll_ctl(node->watch, EPOLL_CTL_DEL, fd_of(monitor), NULL); /* libzmq closes it only later */
    palmi_zmq.close_(monitor);
}

static void note_refused(palm_node *node, uint16_t event)
{
    char who[160] = "";
    if (event == PALMI_ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        palmi_gate_refused(who, sizeof who);
    palm_count(&node->counters->rejected, 1);
    snprintf(node->rejected, sizeof node->rejected, "a connection %s",
             who[0] ? who : "without a key, or with another one for us than ours");
    atomic_store(&node->woken, true); /* whoever serves is to say so now, not after the next one */
}

void palmi_monitor_refused(palm_node *node)
{
    uint16_t event;
    bool first = true;
    while (next_event(node->refused, &event, &first))
        if (event & PALMI_ZMQ_EVENT_HANDSHAKES_FAILED)
            note_refused(node, event);
}

void palmi_monitor_link(palmi_link *link)
{
    uint16_t event;
    bool first = true, broken = false;
    while (next_event(link->monitor, &event, &first))
        broken |= event == PALMI_ZMQ_EVENT_DISCONNECTED;
    if (broken && link->state == PALM_LINK_READY)
        link->broken_ms = palmi_now_ms();
}
