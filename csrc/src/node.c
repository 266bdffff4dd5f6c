/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Receiving: one PULL socket for all peers, the hand-shake, and the events that palm_node_next gives out. */
#include "node_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_EVERY = 16 }; /* messages between two looks at bell and pidfds while the socket never runs dry */

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --------------------------------------------------------------------------------------------------------- frames */

typedef struct piece { /* memory of one frame */
    void *bytes;
    bool in_arena;
} piece;

struct palm_frames {
    atomic_uint holders;
    palm_space *space;
    uint32_t n_parts;
    piece head, parts[];
};

static bool piece_new(palm_space *space, uint64_t size, bool arena, piece *out)
{
    out->bytes = arena ? palm_space_alloc(space, size, false) : NULL;
    out->in_arena = out->bytes != NULL;
    if (!out->bytes)
        out->bytes = aligned_alloc(PALM_ALIGN, (size + PALM_ALIGN) & ~(uint64_t)(PALM_ALIGN - 1));
    return out->bytes != NULL;
}

static void piece_free(palm_space *space, piece *p)
{
    if (p->in_arena)
        palm_space_free(space, p->bytes);
    else
        free(p->bytes);
}

void palm_frames_hold(palm_frames *f)
{
    atomic_fetch_add_explicit(&f->holders, 1, memory_order_relaxed); /* a holder exists: nothing to order */
}

void palm_frames_drop(palm_frames *f)
{
    /* release: our reads are over; acquire: so are everybody's, before the memory is freed */
    if (!f || atomic_fetch_sub_explicit(&f->holders, 1, memory_order_acq_rel) != 1)
        return;
    piece_free(f->space, &f->head);
    for (uint32_t i = 0; i < f->n_parts; i++)
        piece_free(f->space, &f->parts[i]);
    free(f);
}

/* ------------------------------------------------------------------------------------------------- open and close */

static palm_err open_pull(palm_node *node, const char *endpoint)
{
    int unbounded = 0, no_linger = 0, handshake_ms = 5000;
    size_t size = sizeof node->endpoint;
    node->pull = palmi_zmq.socket_(node->context, PALMI_ZMQ_PULL);
    if (!node->pull)
        return palmi_zmq_err();
    if (palmi_zmq.setsockopt_(node->pull, PALMI_ZMQ_RCVHWM, &unbounded, sizeof unbounded) ||
        palmi_zmq.setsockopt_(node->pull, PALMI_ZMQ_LINGER, &no_linger, sizeof no_linger) ||
        palmi_zmq.setsockopt_(node->pull, PALMI_ZMQ_HANDSHAKE_IVL, &handshake_ms, sizeof handshake_ms) ||
        palmi_zmq.bind_(node->pull, endpoint) ||
        palmi_zmq.getsockopt_(node->pull, PALMI_ZMQ_LAST_ENDPOINT, node->endpoint, &size))
        return palmi_zmq_err();
    return PALM_OK;
}

enum { BELL, SOCKET }; /* keys in the epoll set; peers have PALMI_PEER_KEY + the number of their link */

static palm_err watch_socket(palm_node *node)
{
    int fd;
    size_t size = sizeof fd;
    struct epoll_event socket = {.events = EPOLLIN, .data.u64 = SOCKET};
    if (palmi_zmq.getsockopt_(node->pull, PALMI_ZMQ_FD, &fd, &size))
        return palmi_zmq_err();
    return epoll_ctl(node->watch, EPOLL_CTL_ADD, fd, &socket) ? (palm_err)(PALM_ESYS + errno) : PALM_OK;
}

static palm_err open_bell(palm_node *node)
{
    struct epoll_event bell = {.events = EPOLLIN, .data.u64 = BELL};
    node->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    node->watch = epoll_create1(EPOLL_CLOEXEC);
    if (node->bell < 0 || node->watch < 0 || epoll_ctl(node->watch, EPOLL_CTL_ADD, node->bell, &bell))
        return (palm_err)(PALM_ESYS + errno);
    return PALM_OK;
}

static void ring(palm_node *node)
{
    uint64_t one = 1;
    ssize_t written = write(node->bell, &one, sizeof one); /* full means that it rings already */
    (void)written;
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
        palmi_zmq.close_(node->pull);
    }
    if (node->context)
        palmi_zmq_context_drop();
    if (node->bell >= 0)
        close(node->bell);
    if (node->watch >= 0)
        close(node->watch);
    palm_reader_free(node->reader);
    palm_writer_free(node->writer);
    pthread_mutex_destroy(&node->lock);
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
    node->pid = getpid();
    node->bell = node->watch = -1;
    snprintf(node->name, sizeof node->name, "%s", options->name ? options->name : "");
    pthread_mutex_init(&node->lock, NULL);
    palm_err err = getrandom(&node->id, sizeof node->id, 0) == sizeof node->id ? PALM_OK : (palm_err)(PALM_ESYS + errno);
    node->id |= 1; /* 0 means: not known */
    if (!err)
        err = palm_reader_new(&node->reader);
    if (!err)
        err = palm_writer_new(&node->writer);
    if (!err)
        err = open_bell(node);
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
    ring(node);
}

void palm_node_close(palm_node *node, int linger_ms, uint32_t *unsent)
{
    *unsent = 0;
    if (node->pid != getpid())
        return; /* libzmq must not be touched in a child; the memory is the child's copy */
    palm_node_shut(node);
    pthread_mutex_lock(&node->lock);
    say_bye(node);
    uint64_t end = now_ms() + (uint64_t)(linger_ms < 0 ? 0 : linger_ms);
    while (!all_taken(node) && now_ms() < end) {
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
    ring(node);
}

void palm_node_stop(palm_node *node)
{
    atomic_store(&node->stopped, true);
    ring(node);
}

/* ----------------------------------------------------------------------------------------------------- hand-shake */

void palmi_node_note(palm_node *node, palm_event_kind kind, uint32_t link, uint32_t reason)
{
    if (node->notes_first == node->notes.n)
        node->notes_first = node->notes.n = 0;
    if (node->notes.n == node->notes.room) {
        uint32_t room = node->notes.room ? 2 * node->notes.room : 16;
        palmi_note *at = realloc(node->notes.at, room * sizeof *at);
        if (!at)
            return; /* the link is gone all the same: the next send says so */
        node->notes.at = at;
        node->notes.room = room;
    }
    node->notes.at[node->notes.n++] = (palmi_note){kind, link, reason};
    ring(node);
}

static bool text_fits(palm_text text)
{
    return text.size < PALMI_TEXT && !memchr(text.data, 0, text.size);
}

/* A pidfd of a peer that says it is on this host. */
static int process_of(const palm_node *node, const palm_identity *peer)
{
    palm_identity me;
    palm_space_identity(node->space, &me);
    bool here = !memcmp(me.boot_id, peer->boot_id, sizeof me.boot_id) && me.pid_namespace == peer->pid_namespace;
    return here ? palmi_pidfd(peer->pid) : PALMI_NO_PIDFD;
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

static void begin_anew(palmi_link *link, const palm_hello *hello)
{
    if (link->begun_anew == MAX_BEGUN_ANEW)
        return;
    link->begun_anew++;
    link->peer_word = hello->word;
    link->peer_tag = hello->tag;
    link->told = false;
}

enum { MAX_GAPS = 100 }; /* of which a peer is told: it may never read that */

/* Says to who has sent it that something has not arrived (docs/wire.md, 8). False: the link is lost by that. */
static bool report_gap(palm_node *node, palmi_link *link)
{
    palm_batch *batch;
    palm_record *record;
    if (link->gaps == MAX_GAPS || palm_batch_new(&batch) != PALM_OK)
        return true;
    link->gaps++;
    palm_err err = palm_batch_record(batch, PALM_LOST, UINT64_MAX, &record);
    if (!err)
        err = palmi_link_send(node, link, PALM_DATA, 0, 0, batch);
    palm_batch_free(batch);
    return err != PALM_ECLOSED;
}

/* False: the link is lost. A HELLO with number 1 begins anew: its sender knows that what it had sent may be lost. */
static bool follow(palm_node *node, palmi_link *link, const palm_envelope *e)
{
    bool gap = link->heard && e->seq != link->heard + 1 && !(e->kind == PALM_HELLO && e->seq == 1);
    link->heard = e->seq;
    return !gap || report_gap(node, link);
}

static void greet(palm_node *node, palmi_link *link, const palm_envelope *e)
{
    const palm_hello *hello = e->hello;
    if (e->seq == 1 && link->slot != PALM_SLOT_UNKNOWN)
        begin_anew(link, hello);
    attach(node, link, hello);
    if (!link->told && palmi_link_hello(node, link) == PALM_OK)
        link->told = true;
    if (hello->slot == PALM_SLOT_UNKNOWN || link->state == PALM_LINK_READY)
        return;
    link->mapped = hello->slot >= 0 && link->has_word;
    link->state = PALM_LINK_READY;
    palmi_node_note(node, PALM_EVENT_READY, link->number, 0);
    if (palmi_link_flush(node, link))
        palmi_link_lose(node, link, 1);
}

static bool on_hello(palm_node *node, const palm_envelope *e)
{
    const palm_hello *hello = e->hello;
    if (!text_fits(hello->endpoint) || !text_fits(hello->name) || !e->sender)
        return false;
    bool dead = false;
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_by_peer(node, e->sender);
    if (!link)
        link = link_of_new_sender(node, e->sender, hello, &dead);
    bool known = link != NULL;
    if (known && follow(node, link, e))
        greet(node, link, e);
    pthread_mutex_unlock(&node->lock);
    return known || dead;
}

/* ------------------------------------------------------------------------------------------------------ receiving */

typedef struct raw { /* a message as libzmq gave it */
    palmi_zmq_msg msgs[1 + PALM_MAX_PARTS];
    uint32_t n;
    bool too_many;
} raw;

static void raw_free(raw *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        palmi_zmq.msg_close_(&r->msgs[i]);
    r->n = 0;
}

/* One frame into the next place, or into the bin when there are too many. */
static palm_err raw_frame(palm_node *node, raw *r, bool *more)
{
    palmi_zmq_msg bin;
    r->too_many = r->n == 1 + PALM_MAX_PARTS;
    palmi_zmq_msg *msg = r->too_many ? &bin : &r->msgs[r->n];
    int got;
    palmi_zmq.msg_init_(msg);
    do
        got = palmi_zmq.msg_recv_(msg, node->pull, PALMI_ZMQ_DONTWAIT);
    while (got < 0 && r->n && palmi_zmq.errno_() == EINTR);
    if (got < 0) {
        palm_err err = palmi_zmq_err();
        palmi_zmq.msg_close_(msg);
        return err;
    }
    *more = palmi_zmq.msg_more_(msg);
    if (r->too_many)
        palmi_zmq.msg_close_(msg);
    else
        r->n++;
    return PALM_OK;
}

/* libzmq delivers all frames of a message or none, so only the first can be missing. */
static palm_err raw_receive(palm_node *node, raw *r)
{
    bool more = true, too_many = false;
    palm_err err = PALM_OK;
    r->n = 0;
    while (more && !err) {
        err = raw_frame(node, r, &more);
        too_many |= r->too_many;
    }
    r->too_many = too_many;
    if (err)
        raw_free(r);
    return err;
}

static bool reject(palm_node *node, const char *why, palm_err err)
{
    palm_count(&node->counters->rejected, 1);
    snprintf(node->rejected, sizeof node->rejected, "%s%s%s", why, err ? ": " : "", err ? palm_strerror(err) : "");
    return false;
}

/* The first frame is copied, since libzmq aligns it to nothing (R22) and reuses what it shares with others. */
static palm_err frames_new(palm_space *space, const void *bytes, size_t size, uint32_t n_parts, palm_frames **out)
{
    palm_frames *f = calloc(1, sizeof *f + n_parts * sizeof f->parts[0]);
    if (!f)
        return PALM_ENOMEM;
    if (!piece_new(space, size, false, &f->head)) {
        free(f);
        return PALM_ENOMEM;
    }
    if (size)
        memcpy(f->head.bytes, bytes, size);
    atomic_init(&f->holders, 1);
    f->space = space;
    *out = f;
    return PALM_OK;
}

/* Parts go to the arena where there is room, so that they can be handed on from here without another copy. */
static palm_err copy_parts(palm_node *node, raw *r, palm_frames *f)
{
    for (uint32_t i = 1; i < r->n; i++) {
        uint64_t size = palmi_zmq.msg_size_(&r->msgs[i]);
        if (!piece_new(node->space, size, true, &f->parts[i - 1]))
            return PALM_ENOMEM;
        f->n_parts = i;
        memcpy(f->parts[i - 1].bytes, palmi_zmq.msg_data_(&r->msgs[i]), size);
    }
    return PALM_OK;
}

static palm_err part_pointers(palm_event *event)
{
    palm_frames *f = event->frames;
    if (!f->n_parts)
        return PALM_OK;
    event->parts = calloc(f->n_parts, sizeof *event->parts);
    if (!event->parts)
        return PALM_ENOMEM;
    for (uint32_t i = 0; i < f->n_parts; i++)
        event->parts[i] = f->parts[i].bytes;
    return PALM_OK;
}

static palm_err take_blocks(palm_node *node, palm_event *event)
{
    const palm_envelope *e = &event->envelope;
    if (!e->n_blocks)
        return PALM_OK;
    event->blocks = calloc(e->n_blocks, sizeof *event->blocks);
    if (!event->blocks)
        return PALM_ENOMEM;
    for (uint32_t i = 0; i < e->n_blocks; i++) {
        palm_taken *t = &event->blocks[i];
        const void *first = NULL;
        t->err = palm_space_take(node->space, &e->blocks[i], &t->arena, &t->index, &first);
        t->first = first;
        palm_count(&node->counters->stale, t->err ? 1 : 0);
    }
    return PALM_OK;
}

/* The reader's list of dtypes is good until its next message, but the event may be kept for longer. */
static palm_err own_dtypes(palm_event *event)
{
    uint32_t n = event->envelope.n_dtypes;
    if (!n)
        return PALM_OK;
    event->dtypes = malloc(n * sizeof *event->dtypes);
    if (!event->dtypes)
        return PALM_ENOMEM;
    memcpy(event->dtypes, event->envelope.dtypes, n * sizeof *event->dtypes);
    event->envelope.dtypes = event->dtypes;
    return PALM_OK;
}

/* After this the sender may let go of what the envelope names. */
static void tell_taken(palm_node *node, palmi_link *link, uint64_t seq)
{
    if (link->slot >= 0 && link->peer_tag)
        palm_space_set_taken(node->space, link->identity.arena_hi, link->identity.arena_lo, link->peer_word,
                             (uint64_t)link->peer_tag << PALMI_SEQ_BITS | seq);
}

/* True: *event is to be given out. */
static bool accept_from(palm_node *node, palm_event *event)
{
    const palm_envelope *e = &event->envelope;
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_by_peer(node, e->sender);
    bool wanted = false;
    if (!link) {
        reject(node, "from a sender that has not said HELLO", PALM_OK);
    } else if (follow(node, link, e)) {
        palm_err err = take_blocks(node, event);
        event->link = link->number;
        link->in_use = true;
        tell_taken(node, link, e->seq);
        if (e->kind == PALM_BYE)
            palmi_link_lose(node, link, 0);
        else
            wanted = err ? reject(node, "dropped", err) : true;
    }
    pthread_mutex_unlock(&node->lock);
    return wanted;
}

static void count_received(palm_node *node, const palm_envelope *e)
{
    palm_counters *c = node->counters;
    if (e->kind != PALM_DATA)
        return;
    uint64_t bytes = e->body_size;
    for (uint32_t i = 0; i < e->n_arrays; i++)
        bytes += e->arrays[i].place == PALM_IN_BODY ? 0 : e->arrays[i].size;
    palm_count(&c->batches, 1);
    palm_count(&c->messages_in, e->n_records);
    palm_count(&c->bytes_in, bytes);
}

static bool decode(palm_node *node, raw *r, palm_event *event)
{
    uint64_t sizes[PALM_MAX_PARTS];
    if (r->too_many)
        return reject(node, "more frames than PALM_MAX_PARTS", PALM_OK);
    for (uint32_t i = 1; i < r->n; i++)
        sizes[i - 1] = palmi_zmq.msg_size_(&r->msgs[i]);
    palm_err err = frames_new(node->space, palmi_zmq.msg_data_(&r->msgs[0]), palmi_zmq.msg_size_(&r->msgs[0]), r->n - 1,
                              &event->frames);
    if (err)
        return reject(node, "dropped", err);
    err = palm_reader_read(node->reader, event->frames->head.bytes, palmi_zmq.msg_size_(&r->msgs[0]), sizes, r->n - 1,
                           &event->envelope);
    if (err)
        return reject(node, "not an envelope", err);
    if (event->envelope.kind == PALM_HELLO)
        return on_hello(node, &event->envelope) ? false : reject(node, "HELLO that cannot be answered", PALM_OK);
    err = copy_parts(node, r, event->frames);
    if (!err)
        err = part_pointers(event);
    if (!err)
        err = own_dtypes(event);
    if (err)
        return reject(node, "dropped", err);
    if (!accept_from(node, event))
        return false;
    count_received(node, &event->envelope);
    event->kind = PALM_EVENT_MESSAGE;
    return true;
}

void palm_event_done(palm_node *node, palm_event *event)
{
    (void)node;
    if (event->blocks)
        for (uint32_t i = 0; i < event->envelope.n_blocks; i++)
            if (!event->blocks[i].err)
                palm_block_drop(event->blocks[i].arena, event->blocks[i].index);
    free(event->blocks);
    free(event->parts);
    free(event->dtypes);
    palm_frames_drop(event->frames);
    memset(event, 0, sizeof *event);
}

static palm_err read_packed(palm_reader *reader, const void *frame, size_t size, palm_event *event)
{
    palm_err err = frames_new(NULL, frame, size, 0, &event->frames);
    if (!err)
        err = palm_reader_read(reader, event->frames->head.bytes, size, NULL, 0, &event->envelope);
    if (!err && (event->envelope.kind != PALM_DATA || event->envelope.n_blocks))
        err = PALM_EMALFORMED;
    return err ? err : own_dtypes(event);
}

palm_err palm_event_unpack(const void *frame, size_t size, palm_event *event)
{
    palm_reader *reader;
    memset(event, 0, sizeof *event);
    palm_err err = palm_reader_new(&reader);
    if (err)
        return err;
    err = read_packed(reader, frame, size, event);
    palm_reader_free(reader); /* the texts that dtypes names lie in the frame */
    if (err)
        palm_event_done(NULL, event);
    else
        event->kind = PALM_EVENT_MESSAGE;
    return err;
}

/* -------------------------------------------------------------------------------------------------------- waiting */

/* Waits up to ms for the socket, the bell or a death. Of the socket, this says that something may have come: libzmq's fd
 * is readable while its mailbox has commands, and a receive that found nothing has emptied that, so no wake-up is lost. */
static palm_err look(palm_node *node, int ms)
{
    struct epoll_event ready[16];
    int n = epoll_wait(node->watch, ready, 16, ms);
    if (n < 0)
        return errno == EINTR ? PALM_EINTR : (palm_err)(PALM_ESYS + errno);
    node->since_look = 0;
    for (int i = 0; i < n; i++) {
        uint64_t rings;
        if (ready[i].data.u64 == SOCKET)
            continue;
        if (ready[i].data.u64 == BELL) {
            ssize_t got = read(node->bell, &rings, sizeof rings);
            (void)got;
            continue;
        }
        pthread_mutex_lock(&node->lock);
        palmi_link *link = palmi_link_get(node, (uint32_t)(ready[i].data.u64 - PALMI_PEER_KEY));
        if (link)
            palmi_link_lose(node, link, 1);
        pthread_mutex_unlock(&node->lock);
    }
    return PALM_OK;
}

static bool next_note(palm_node *node, palm_event *event)
{
    if (atomic_load(&node->stopped) && !node->stop_told) {
        node->stop_told = true;
        event->kind = PALM_EVENT_STOP;
        return true;
    }
    if (atomic_exchange(&node->woken, false)) {
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

static palm_err receive_one(palm_node *node, palm_event *event, bool *given)
{
    raw r;
    *given = false;
    palm_err err = raw_receive(node, &r);
    if (err)
        return err;
    *given = decode(node, &r, event);
    if (!*given)
        palm_event_done(node, event);
    raw_free(&r);
    return PALM_OK;
}

palm_err palm_node_next(palm_node *node, int timeout_ms, palm_event *event)
{
    uint64_t end = now_ms() + (uint64_t)timeout_ms;
    memset(event, 0, sizeof *event);
    if (palm_space_forked(node->space))
        return PALM_EFORK;
    for (;;) {
        bool given;
        if (atomic_load(&node->closed))
            return PALM_ECLOSED;
        if (++node->since_look > LOOK_EVERY)
            look(node, 0);
        if (next_note(node, event))
            return PALM_OK;
        palm_err err = receive_one(node, event, &given);
        if (given)
            return PALM_OK;
        if (err && err != PALM_EAGAIN)
            return err;
        uint64_t now = now_ms();
        if (err && now < end)
            err = look(node, (int)(end - now));
        else if (now >= end) {
            look(node, 0);
            return next_note(node, event) ? PALM_OK : PALM_EAGAIN;
        }
        if (err && err != PALM_EAGAIN)
            return err;
    }
}
