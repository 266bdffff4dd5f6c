/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Peers on other hosts, of whose death nobody tells: who closes its connection, or is silent for too long, is gone. Each sends
 * beats; such a one has the number of an envelope, so it shows too that the one before it was lost. */
#include "node_internal.h"

enum {
    LAST_WORDS_MS = 200, /* after our connection to a peer has broken: what it has sent before comes by another one */
    DRY_MS = 300,        /* since the socket was empty: all that has come until then has been read */
    DOUBTS = 10,         /* ticks: after a stop of this process libzmq's thread needs a moment to read what has come meanwhile */
};

/* TCP sends again after 0.2, 0.4, 0.8, ... s: what a cut of 3 s has lost comes 6.2 s after it began, at the latest. */
const palmi_patience palmi_remote_patience = {.beat_ms = 1000, .silence_ms = 10000, .answer_ms = 10000};

bool palmi_is_remote(const palmi_link *link) { return palmi_is_tcp(link->endpoint) && link->pidfd < 0; }

static void beat(palm_node *node, palmi_link *link, uint64_t now_ms)
{
    palm_batch *empty;
    if (now_ms - link->beat_ms < node->remote.beat_ms || palm_batch_new(&empty) != PALM_OK)
        return;
    link->beat_ms = now_ms;
    palmi_link_send(node, link, PALM_DATA, 0, 0, empty); /* of one frame, so that the link cannot break by it */
    palm_batch_free(empty);
}

/* Its process has died; or what was on its way is lost, and to have all of it repeated is what a death brings about. */
static bool is_broken(const palmi_link *link, uint64_t now_ms)
{
    return link->broken_ms && now_ms - link->broken_ms > LAST_WORDS_MS;
}

/* It has been silent for as long as we have listened to it. */
static bool is_silent(const palm_node *node, palmi_link *link, uint64_t now_ms, uint64_t dry_ms)
{
    bool listens = now_ms - dry_ms < DRY_MS;
    bool silent = link->state == PALM_LINK_READY ? listens && now_ms - link->heard_ms > node->remote.silence_ms
                                                 : now_ms - link->begun_ms > node->remote.answer_ms;
    link->doubts = silent ? link->doubts + 1 : 0;
    return link->doubts > DOUBTS;
}

void palmi_remote_tick(palm_node *node)
{
    uint64_t now_ms = palmi_now_ms();
    uint64_t dry_ms = atomic_load(&node->is_waiting) ? now_ms : atomic_load(&node->dry_ms);
    for (uint32_t i = node->links.n; i-- > 0;) {
        palmi_link *link = node->links.at[i];
        if (!palmi_is_remote(link))
            continue;
        if (is_broken(link, now_ms) || is_silent(node, link, now_ms, dry_ms))
            palmi_link_lose(node, link, 1);
        else if (link->state == PALM_LINK_READY)
            beat(node, link, now_ms);
    }
}

bool palmi_is_beat(const palm_envelope *e) { return e->kind == PALM_DATA && !e->handle && !e->n_records; }
