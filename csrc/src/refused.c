/* SPDX-License-Identifier: BSD-3-Clause
 * Those whom libzmq has refused, since they have no key, or one that is not allowed: counted, and told in words. */
#include "node_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

palm_err palmi_refused_open(palm_node *node)
{
    char name[64];
    snprintf(name, sizeof name, "inproc://refused-%p", (void *)node);
    if (palmi_zmq.socket_monitor_(node->pull, name, PALMI_ZMQ_EVENT_HANDSHAKES_FAILED))
        return palmi_zmq_err();
    node->refused = palmi_zmq.socket_(node->context, PALMI_ZMQ_PAIR);
    return node->refused && !palmi_zmq.connect_(node->refused, name) ? PALM_OK : palmi_zmq_err();
}

void palmi_refused_close(palm_node *node)
{
    if (node->refused)
        palmi_zmq.close_(node->refused);
}

static void note(palm_node *node, uint16_t event)
{
    char who[160] = "";
    if (event == PALMI_ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        palmi_gate_refused(who, sizeof who);
    palm_count(&node->counters->rejected, 1);
    snprintf(node->rejected, sizeof node->rejected, "a connection %s",
             who[0] ? who : "without a key, or with another one for us than ours");
}

/* The first frame of a message of the monitor begins with the event. */
static bool next_event(palm_node *node, uint16_t *event, bool *first)
{
    palmi_zmq_msg msg;
    palmi_zmq.msg_init_(&msg);
    int got;
    do
        got = palmi_zmq.msg_recv_(&msg, node->refused, PALMI_ZMQ_DONTWAIT);
    while (got < 0 && palmi_zmq.errno_() == EINTR);
    *event = 0;
    if (got >= 0 && *first && palmi_zmq.msg_size_(&msg) >= sizeof *event)
        memcpy(event, palmi_zmq.msg_data_(&msg), sizeof *event);
    *first = got < 0 || !palmi_zmq.msg_more_(&msg);
    palmi_zmq.msg_close_(&msg);
    return got >= 0;
}

void palmi_refused_look(palm_node *node)
{
    uint16_t event;
    bool first = true;
    while (next_event(node, &event, &first))
        if (event & PALMI_ZMQ_EVENT_HANDSHAKES_FAILED)
            note(node, event);
}
