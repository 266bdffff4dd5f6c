/* SPDX-License-Identifier: BSD-3-Clause
 * The hand-shake: who a sender is, whether there is a link for it, and when that link is ready (docs/wire.md). */
#include "node_internal.h"

#include <string.h>
#include <unistd.h>

static bool text_fits(palm_text text)
{
    return text.size < PALMI_TEXT && !memchr(text.data, 0, text.size);
}

/* A pidfd of a peer that says it is on this host. */
static int process_of(const palm_node *node, const palm_identity *peer)
{
    return palm_space_same_host(node->space, peer) ? palmi_pidfd(peer->pid) : PALMI_NO_PIDFD;
}

/* A HELLO may come from anybody and costs a socket, so there are bounds: a living process of this host vouches for so many
 * nodes, since anybody can name one; all others are strangers, of whom the oldest from whom nothing but HELLOs has come
 * makes room for the next. */
enum { MAX_OF_A_PROCESS = 64, MAX_STRANGERS = 256 };

static bool has_voucher(const palm_node *node, const palm_identity *peer)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < node->links.n; i++)
        n += node->links.at[i]->pidfd >= 0 && node->links.at[i]->identity.pid == peer->pid;
    return n < MAX_OF_A_PROCESS;
}

static bool room_for_stranger(palm_node *node)
{
    palmi_link *idle = NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; i < node->links.n; i++) {
        palmi_link *link = node->links.at[i];
        n += link->stranger;
        if (link->stranger && !link->in_use && !idle)
            idle = link;
    }
    if (n < MAX_STRANGERS)
        return true;
    if (idle)
        palmi_link_lose(node, idle, 1);
    return idle != NULL;
}

/* A link for who has come by itself, or because a peer has named it. */
static palmi_link *link_for_newcomer(palm_node *node, const palm_identity *peer, const char *endpoint, int pidfd)
{
    palmi_link *link;
    bool stranger = pidfd < 0 || !has_voucher(node, peer);
    if ((stranger && !room_for_stranger(node)) || palmi_link_to(node, endpoint, &link))
        return NULL;
    link->stranger = stranger;
    link->named = false;
    return link;
}

/* The link to a sender that was not known. *dead: it died before we read this, so there is none, and none is needed. */
static palmi_link *link_of_new_sender(palm_node *node, uint64_t sender, const palm_hello *hello, bool *dead)
{
    char endpoint[PALMI_TEXT];
    memcpy(endpoint, hello->endpoint.data, hello->endpoint.size);
    endpoint[hello->endpoint.size] = 0;
    palmi_link *link = palmi_link_by_endpoint(node, endpoint);
    int pidfd = process_of(node, &hello->identity);
    *dead = pidfd == PALMI_DEAD;
    if (link && (link->peer || *dead)) { /* somebody else lives there now, or nobody */
        palmi_link_lose(node, link, 1);
        link = NULL;
    }
    if ((!link || link->named) && !*dead)
        link = link_for_newcomer(node, &hello->identity, endpoint, pidfd);
    if (!link) {
        if (pidfd >= 0)
            close(pidfd);
        return NULL;
    }
    link->peer = sender;
    palmi_link_watch(node, link, pidfd);
    return link;
}

static void attach(palm_node *node, palmi_link *link, const palm_hello *hello)
{
    uint32_t slot;
    if (link->slot != PALM_SLOT_UNKNOWN)
        return;
    link->identity = hello->identity;
    link->peer_word = hello->word;
    link->peer_tag = hello->tag;
    bool can = !node->frames && hello->identity.fd > 0 && palm_space_attach(node->space, &hello->identity, &slot) == PALM_OK;
    link->slot = can ? (int32_t)slot : PALM_SLOT_NONE;
}

/* Who has lost its link to us begins anew, under the sender that we know. Each time is answered, but not without end,
 * since what is sent to who does not read stays here. */
enum { MAX_BEGUN_ANEW = 16 };

static void begin_anew(palm_node *node, palmi_link *link, const palm_hello *hello)
{
    if (link->begun_anew == MAX_BEGUN_ANEW)
        return;
    link->begun_anew++;
    link->peer_word = hello->word;
    link->peer_tag = hello->tag;
    link->told = false;
    palmi_local_drop(node, link); /* its rings have gone with the link */
}

static void greet(palm_node *node, palmi_link *link, const palm_envelope *e)
{
    const palm_hello *hello = e->hello;
    if (e->seq == 1 && link->slot != PALM_SLOT_UNKNOWN)
        begin_anew(node, link, hello);
    attach(node, link, hello);
    palmi_local_greeted(node, link, hello);
    if (!link->told && palmi_link_hello(node, link) == PALM_OK)
        link->told = true;
    palmi_link_count(node, link);
    if (hello->slot == PALM_SLOT_UNKNOWN || link->state == PALM_LINK_READY)
        return;
    link->mapped = hello->slot >= 0 && link->has_word;
    link->state = PALM_LINK_READY;
    palmi_link_count(node, link);
    palmi_node_note(node, PALM_EVENT_READY, link->number, 0);
    if (palmi_link_flush(node, link))
        palmi_link_lose(node, link, 1);
}

/* A peer on another host that has held us for gone: what we have sent over its old link may have been lost, and it has
 * forgotten what we have at work there. */
static bool has_lost_us(const palmi_link *link, const palm_envelope *e)
{
    return palmi_is_remote(link) && e->seq == 1 && link->slot != PALM_SLOT_UNKNOWN;
}

bool palmi_hello_received(palm_node *node, const palm_envelope *e)
{
    const palm_hello *hello = e->hello;
    if (!text_fits(hello->endpoint) || !text_fits(hello->name) || !e->sender)
        return false;
    bool dead = false;
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_by_peer(node, e->sender);
    if (link && has_lost_us(link, e)) {
        palmi_link_lose(node, link, 1);
        link = NULL;
    }
    if (!link)
        link = link_of_new_sender(node, e->sender, hello, &dead);
    bool known = link != NULL;
    if (known && palmi_link_follow(node, link, e))
        greet(node, link, e);
    pthread_mutex_unlock(&node->lock);
    return known || dead;
}
