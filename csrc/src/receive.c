/* SPDX-License-Identifier: BSD-3-Clause
 * Receiving: what libzmq hands out, or a ring has, becomes an event, verified, with its blocks taken; or it is rejected and
 * counted. */
#include "node_internal.h"
#include "runs.h"
#include "warm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------------------------------------------- frames */

typedef struct piece { /* memory of a frame but the first */
    void *bytes;
    bool in_arena;
} piece;

struct palm_frames {
    atomic_uint holders;
    palm_space *space;
    uint32_t n_parts;
    uint8_t *head; /* behind the parts, in the same memory */
    piece parts[];
};

static bool piece_new(palm_space *space, uint64_t size, piece *out)
{
    out->bytes = palm_space_alloc(space, size, false);
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
    for (uint32_t i = 0; i < f->n_parts; i++)
        piece_free(f->space, &f->parts[i]);
    palmi_warm_give(f);
}

/* ----------------------------------------------------------------------------------------------------- from libzmq */

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
    palmi_zmq.msg_init_(msg);
    int got = r->n ? palmi_zmq_recv(msg, node->pull, PALMI_ZMQ_DONTWAIT)
                   : palmi_zmq.msg_recv_(msg, node->pull, PALMI_ZMQ_DONTWAIT); /* who waits has to hear of a signal */
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

/* ------------------------------------------------------------------------------------------------------- an event */

/* The first frame is copied, since libzmq aligns it to nothing (R22) and reuses what it shares with others. */
static palm_err frames_new(palm_space *space, const void *bytes, size_t size, uint32_t n_parts, palm_frames **out)
{
    size_t before = sizeof(palm_frames) + n_parts * sizeof(piece) + PALM_ALIGN;
    palm_frames *f = size <= SIZE_MAX - before ? palmi_warm_take(before + size) : NULL;
    if (!f)
        return PALM_ENOMEM;
    atomic_init(&f->holders, 1);
    f->space = space;
    f->n_parts = 0;
    f->head = (uint8_t *)(((uintptr_t)(f->parts + n_parts) + PALM_ALIGN - 1) & ~(uintptr_t)(PALM_ALIGN - 1));
    if (size)
        memcpy(f->head, bytes, size);
    *out = f;
    return PALM_OK;
}

/* Parts go to the arena where there is room, so that they can be handed on from here without another copy. */
static palm_err copy_parts(palm_node *node, raw *r, palm_frames *f)
{
    for (uint32_t i = 1; i < r->n; i++) {
        uint64_t size = palmi_zmq.msg_size_(&r->msgs[i]);
        if (!piece_new(node->space, size, &f->parts[i - 1]))
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

bool palmi_link_follow(palm_node *node, palmi_link *link, const palm_envelope *e)
{
    bool gap = link->heard && e->seq != link->heard + 1 && !(e->kind == PALM_HELLO && e->seq == 1);
    link->heard = e->seq;
    if (link->pidfd < 0)
        link->heard_ms = palmi_now_ms();
    link->local.waits_since_ms = 0; /* it goes on */
    return !gap || report_gap(node, link);
}

/* True: *event is to be given out. */
static bool accept_from(palm_node *node, palm_event *event, bool by_socket)
{
    const palm_envelope *e = &event->envelope;
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_link_by_peer(node, e->sender);
    bool wanted = false;
    if (!link) {
        reject(node, "from a sender that has not said HELLO", PALM_OK);
    } else if (by_socket && palmi_local_precedes(node, link, e->seq)) {
        if (!palmi_local_keep_early(link, event))
            reject(node, "dropped", PALM_ENOMEM);
    } else if (palmi_link_follow(node, link, e)) {
        palm_err err = take_blocks(node, event);
        event->link = link->number;
        link->in_use = true;
        tell_taken(node, link, e->seq);
        if (e->kind == PALM_BYE)
            palmi_link_lose(node, link, 0);
        else if (!palmi_is_beat(e))
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

static bool give(palm_node *node, palm_event *event, bool by_socket)
{
    if (!accept_from(node, event, by_socket))
        return false;
    palm_err err = palmi_unroll(event); /* not of strangers: it takes more memory than has come */
    if (err)
        return reject(node, "dropped", err);
    count_received(node, &event->envelope);
    node->door.spin.lone = !by_socket && event->envelope.n_records <= 1;
    event->kind = PALM_EVENT_MESSAGE;
    return true;
}

/* ------------------------------------------------------------------------------------------------ from the socket */

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
    err = palm_reader_read(node->reader, event->frames->head, palmi_zmq.msg_size_(&r->msgs[0]), sizes, r->n - 1,
                           &event->envelope);
    if (err)
        return reject(node, "not an envelope", err);
    if (event->envelope.kind == PALM_HELLO)
        return palmi_hello_received(node, &event->envelope) ? false : reject(node, "HELLO that cannot be answered", PALM_OK);
    err = copy_parts(node, r, event->frames);
    if (!err)
        err = part_pointers(event);
    if (!err)
        err = own_dtypes(event);
    return err ? reject(node, "dropped", err) : give(node, event, true);
}

static palm_err receive_by_socket(palm_node *node, palm_event *event, bool *given)
{
    raw r;
    if (!node->socket_ready && !node->door.waits_until_ms)
        return PALM_EAGAIN;
    palm_err err = raw_receive(node, &r);
    node->socket_ready = err != PALM_EAGAIN; /* what came before libzmq said so may have taken the signal of the next along */
    if (err == PALM_EAGAIN)
        atomic_store_explicit(&node->dry_ms, palmi_now_ms(), memory_order_relaxed); /* a glance for remote.c */
    if (err)
        return err;
    node->ring_was_last = false;
    *given = decode(node, &r, event);
    raw_free(&r);
    return PALM_OK;
}

/* ------------------------------------------------------------------------------------------------------ from a ring */

/* The next envelope of any ring is copied, since its sender can still change it; who that should be, and its number. Or what
 * has come by the socket before, and is next now: then *sender is 0. */
static palm_err take_next(palm_node *node, palm_event *event, bool is_dry, palmi_letter *letter, uint64_t *sender)
{
    pthread_mutex_lock(&node->lock);
    palmi_link *link = palmi_local_next(node, letter, is_dry);
    palm_err err = link ? PALM_OK : PALM_EAGAIN;
    if (link && !letter->bytes)
        *event = palmi_local_take_early(link);
    else if (link)
        err = frames_new(node->space, letter->bytes, letter->size, 0, &event->frames);
    if (!err && letter->bytes) {
        *sender = link->peer;
        palmi_local_took(link, letter);
    }
    pthread_mutex_unlock(&node->lock);
    return err;
}

static bool decode_letter(palm_node *node, const palmi_letter *letter, uint64_t sender, palm_event *event)
{
    palm_envelope *e = &event->envelope;
    palm_err err = palm_reader_read(node->reader, event->frames->head, letter->size, NULL, 0, e);
    if (err)
        return reject(node, "not an envelope", err);
    if (e->sender != sender || e->seq != letter->seq || e->kind == PALM_HELLO)
        return reject(node, "in a ring that is another's", PALM_OK);
    err = own_dtypes(event);
    return err ? reject(node, "dropped", err) : give(node, event, false);
}

static palm_err receive_by_ring(palm_node *node, palm_event *event, bool is_dry, bool *given)
{
    palmi_letter letter;
    uint64_t sender = 0;
    palm_err err = node->door.bell ? take_next(node, event, is_dry, &letter, &sender) : PALM_EAGAIN;
    if (err)
        return err;
    node->ring_was_last = true;
    *given = letter.bytes ? decode_letter(node, &letter, sender, event) : give(node, event, false);
    node->door.spin.lone &= letter.bytes != NULL; /* else it came by the socket, of which no bell tells */
    return PALM_OK;
}

/* ------------------------------------------------------------------------------------------------------- from both */

/* By turns, if both have something: a ring that never runs dry must not hide a peer on another host. */
static palm_err receive(palm_node *node, palm_event *event, bool *given)
{
    palm_err err = node->ring_was_last ? receive_by_socket(node, event, given) : PALM_EAGAIN;
    if (err == PALM_EAGAIN)
        err = receive_by_ring(node, event, false, given);
    if (err == PALM_EAGAIN)
        err = receive_by_socket(node, event, given);
    if (err == PALM_EAGAIN && node->door.waits_until_ms)
        err = receive_by_ring(node, event, true, given);
    return err;
}

palm_err palmi_receive(palm_node *node, palm_event *event, bool *given)
{
    *given = false;
    palm_err err = receive(node, event, given);
    if (!*given)
        palm_event_done(event);
    return err;
}

void palm_event_done(palm_event *event)
{
    if (event->blocks)
        for (uint32_t i = 0; i < event->envelope.n_blocks; i++)
            if (!event->blocks[i].err)
                palm_block_drop(event->blocks[i].arena, event->blocks[i].index);
    free(event->blocks);
    free(event->parts);
    free(event->dtypes);
    palmi_warm_give(event->unrolled);
    palm_frames_drop(event->frames);
    memset(event, 0, sizeof *event);
}

static palm_err read_packed(palm_reader *reader, const void *frame, size_t size, palm_event *event)
{
    palm_err err = frames_new(NULL, frame, size, 0, &event->frames);
    if (!err)
        err = palm_reader_read(reader, event->frames->head, size, NULL, 0, &event->envelope);
    if (!err && (event->envelope.kind != PALM_DATA || event->envelope.n_blocks))
        err = PALM_EMALFORMED;
    if (!err)
        err = own_dtypes(event);
    return err ? err : palmi_unroll(event);
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
        palm_event_done(event);
    else
        event->kind = PALM_EVENT_MESSAGE;
    return err;
}
