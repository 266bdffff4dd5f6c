/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Receiving while a function runs: the thread that would receive has no time, and may hold the GIL. What has come is kept
 * in its order for palm_node_next; what ends the function's message is seen at once. */
#include "node_internal.h"
#include "palm_work.h"

#include <stdlib.h>
#include <string.h>

bool palmi_node_held(palm_node *node, palm_event *event)
{
    if (node->held_first == node->held.n)
        return false;
    *event = node->held.at[node->held_first++];
    palm_gauge(&node->counters->held, node->counters->held - event->envelope.n_records);
    if (node->held_first == node->held.n)
        node->held_first = node->held.n = 0;
    return true;
}

void palmi_node_drop_held(palm_node *node)
{
    palm_event event;
    while (palmi_node_held(node, &event))
        palm_event_done(&event);
    free(node->held.at);
}

enum { MOST_OF_A_BEAT = 1024 }; /* envelopes: the pulse has other duties, whatever peers send */

static void receive_all(palm_node *node)
{
    bool given;
    for (int i = 0; i < MOST_OF_A_BEAT && !PALMI_GROW(node->held, 1); i++) { /* without room, it stays in the socket */
        palm_event *event = &node->held.at[node->held.n];
        memset(event, 0, sizeof *event);
        if (palmi_receive(node, event, &given))
            return;
        node->held.n += given;
        palm_gauge(&node->counters->held, node->counters->held + (given ? event->envelope.n_records : 0));
    }
}

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE); /* pairs with the release in palm_work_term */
}

/* True of the end of this job, or of this input of it, if there is but one at work. */
static bool ends(const palm_event *event, const uint64_t job[2], uint64_t number, bool alone)
{
    const palm_envelope *e = &event->envelope;
    if ((e->kind != PALM_CANCEL && e->kind != PALM_FORGET) || !e->n_records)
        return false;
    const palm_record *r = &e->records[0];
    return r->form == PALM_BYTES && r->body_size == 2 * sizeof job[0] && !r->count &&
           (r->number == PALM_NO_NUMBER || (alone && r->number == number)) && !memcmp(e->body + r->body_at, job, r->body_size);
}

/* All that is held is looked through each time: the message that it ends may have begun since. */
static bool is_ended(const palm_node *node, const palm_at_work *work)
{
    uint64_t job[2] = {load(&work->job[0]), load(&work->job[1])};
    uint64_t number = load(&work->number);
    bool alone = __atomic_load_n(&work->together, __ATOMIC_ACQUIRE) <= 1; /* as load */
    for (uint32_t i = node->held_first; i < node->held.n; i++)
        if (ends(&node->held.at[i], job, number, alone))
            return true;
    return false;
}

static bool is_client_gone(palm_node *node, const palm_at_work *work)
{
    uint32_t client = __atomic_load_n(&work->client, __ATOMIC_ACQUIRE); /* as load */
    pthread_mutex_lock(&node->lock);
    bool gone = client && !palmi_link_get(node, client);
    pthread_mutex_unlock(&node->lock);
    return gone;
}

void palm_node_attend(palm_node *node, palm_at_work *work, uint64_t since_ns, uint64_t now_ns)
{
    if (pthread_mutex_trylock(&node->receiving))
        return; /* the function is over, or looks itself */
    palmi_node_look(node, 0);
    receive_all(node);
    bool unwanted = is_ended(node, work) || is_client_gone(node, work);
    if (unwanted && load(&work->since_ns) == since_ns) /* else it was another execution's name */
        palm_work_unwanted(work, since_ns, now_ns);
    pthread_mutex_unlock(&node->receiving);
}
