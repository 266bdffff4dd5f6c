/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An envelope leaves, by ring or socket; arrays that it lends by descriptor, or in frames where the peer does not map our arena.
 * Nothing in here blocks: the socket's queue has no bound, since what is on its way is bounded by who may send at all (the
 * windows of jobs). */
#include "node_internal.h"
#include "runs.h"
#include "warm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------------------------------------------------- the head */

/* Sends one frame; on failure the message is closed. */
static palm_err send_frame(palmi_link *link, palmi_zmq_msg *msg, bool more)
{
    int flags = PALMI_ZMQ_DONTWAIT | (more ? PALMI_ZMQ_SNDMORE : 0);
    if (palmi_zmq_send(msg, link->socket, flags) >= 0)
        return PALM_OK;
    palm_err err = palmi_zmq_err();
    palmi_zmq.msg_close_(msg);
    return err;
}

/* Before it is sent: who sees a result has it in the counters too. */
static void count_sent(palm_node *node, const palm_envelope *e, uint64_t lent_bytes)
{
    palm_counters *c = node->counters;
    if (e->kind != PALM_DATA)
        return;
    palm_count(&c->messages_out, palmi_messages(e));
    palm_count(&c->bytes_out, e->body_size + lent_bytes);
    palm_count(e->n_parts ? &c->sent_frames : &c->sent_arena, e->n_blocks + e->n_parts);
    palm_count(&c->sent_inline, e->n_arrays - e->n_blocks - e->n_parts);
}

static palm_err send_by_socket(palmi_link *link, const palm_envelope *e, const uint8_t *head, size_t size, bool more)
{
    palmi_zmq_msg msg;
    if (palmi_zmq.msg_init_size_(&msg, size + e->body_size))
        return palmi_zmq_err();
    uint8_t *at = palmi_zmq.msg_data_(&msg);
    memcpy(at, head, size);
    if (e->body_size)
        memcpy(at + size, e->body, e->body_size);
    return send_frame(link, &msg, more);
}

static palm_err send_head(palm_node *node, palmi_link *link, const palm_envelope *e, uint64_t lent_bytes, bool more)
{
    const uint8_t *head;
    size_t size;
    palm_err err = palm_writer_head(node->writer, e, &head, &size);
    if (err)
        return err;
    count_sent(node, e, lent_bytes);
    bool by_ring = !more && e->kind != PALM_HELLO && palmi_local_send(link, e->seq, head, size, e->body, e->body_size);
    palm_count(by_ring ? &node->counters->by_ring : &node->counters->by_socket, 1);
    return by_ring ? PALM_OK : send_by_socket(link, e, head, size, more);
}

/* --------------------------------------------------------------------------------------------------- by descriptor */

static palm_err flight_room(palmi_link *link, uint32_t more)
{
    if (link->flight_first && link->flight.n + more > link->flight.room) {
        memmove(link->flight.at, link->flight.at + link->flight_first,
                (link->flight.n - link->flight_first) * sizeof *link->flight.at);
        link->flight.n -= link->flight_first;
        link->flight_first = 0;
    }
    return PALMI_GROW(link->flight, more);
}

enum { FEW_BLOCKS = 4 }; /* whose list is not worth an allocation */

/* By descriptor: the peer reads our memory; each block stays ours too until the peer has taken it (ARENA rule c). */
static palm_err transmit_blocks(palm_node *node, palmi_link *link, palm_envelope *e, const palm_batch *batch)
{
    palm_block few[FEW_BLOCKS] = {0};
    palm_block *blocks = batch->lent.n <= FEW_BLOCKS ? few : calloc(batch->lent.n, sizeof *blocks);
    if (!blocks)
        return PALM_ENOMEM;
    palm_err err = flight_room(link, batch->lent.n);
    for (uint32_t i = 0; i < batch->lent.n && !err; i++)
        err = palm_block_lend(batch->lent.at[i].arena, batch->lent.at[i].index, &blocks[i]);
    if (!err) {
        e->blocks = blocks;
        e->n_blocks = batch->lent.n;
        err = send_head(node, link, e, batch->lent_bytes, false);
    }
    if (!err)
        for (uint32_t i = 0; i < batch->lent.n; i++) {
            const palmi_lent *lent = &batch->lent.at[i];
            palm_block_hold(lent->arena, lent->index);
            link->flight.at[link->flight.n++] = (palmi_flight){lent->arena, e->seq, lent->index};
        }
    if (blocks != few)
        free(blocks);
    return err;
}

/* ------------------------------------------------------------------------------------------------------- by frames */

typedef struct part { /* what libzmq reads from, until it calls part_sent; a reference of its own */
    palm_arena *arena;
    uint32_t index;
} part;

static void part_sent(void *data, void *hint)
{
    (void)data;
    part *p = hint;
    palm_block_drop(p->arena, p->index);
    free(p);
}

/* The array's bytes straight from the block (R25: no user-space copy), which is held until libzmq is done. */
static palm_err send_part(palmi_link *link, const palmi_lent *lent, uint64_t start, uint64_t size, bool more)
{
    part *hint = malloc(sizeof *hint);
    if (!hint)
        return PALM_ENOMEM;
    *hint = (part){lent->arena, lent->index};
    palm_block_hold(lent->arena, lent->index);
    palmi_zmq_msg msg;
    if (palmi_zmq.msg_init_data_(&msg, (void *)(lent->first + start), size, part_sent, hint)) {
        palm_err err = palmi_zmq_err();
        part_sent(NULL, hint);
        return err;
    }
    return send_frame(link, &msg, more); /* a message that is closed calls part_sent too */
}

/* What goes in frames: the larger lent arrays each in one of its own, little ones in the body, which is a copy then. */
typedef struct framed {
    palm_array *arrays; /* as the receiver sees them; the batch's body follows in the same memory, and the little ones behind it */
    uint8_t *body;
    uint64_t body_size, bytes; /* of the frames */
    uint32_t n, lent[PALM_MAX_PARTS];
    uint64_t starts[PALM_MAX_PARTS], sizes[PALM_MAX_PARTS];
} framed;

static uint64_t most_body(const palm_batch *batch)
{
    uint64_t size = batch->body_size;
    for (uint32_t i = 0; i < batch->arrays.n; i++)
        if (batch->arrays.at[i].size <= PALM_LITTLE_PART)
            size += PALM_ALIGN + batch->arrays.at[i].size;
    return size;
}

static void add_little(framed *f, const palm_batch *batch, palm_array *a)
{
    uint64_t at = palmi_batch_aligned(f->body_size);
    memset(f->body + f->body_size, 0, at - f->body_size);
    memcpy(f->body + at, batch->lent.at[a->source].first + a->start, a->size);
    f->body_size = at + a->size;
    a->place = PALM_IN_BODY;
    a->source = 0;
    a->start = at;
}

static void add_part(framed *f, palm_array *a)
{
    f->lent[f->n] = a->source;
    f->starts[f->n] = a->start;
    f->sizes[f->n] = a->size;
    f->bytes += a->size;
    a->place = PALM_IN_PART;
    a->source = f->n++;
    a->start = 0;
}

/* Of a record, what is in the body lies in the order of its arrays (docs/wire.md, 9): behind the last that was there already. */
static void add_record(framed *f, const palm_batch *batch, const palm_record *r)
{
    palm_array *arrays = f->arrays + r->array_at;
    uint32_t behind = r->array_count;
    while (behind && arrays[behind - 1].place == PALM_IN_BLOCK)
        behind--;
    for (uint32_t i = 0; i < r->array_count; i++)
        if (arrays[i].place == PALM_IN_BLOCK && i >= behind && arrays[i].size <= PALM_LITTLE_PART)
            add_little(f, batch, &arrays[i]);
        else if (arrays[i].place == PALM_IN_BLOCK)
            add_part(f, &arrays[i]);
}

static palm_err framed_new(const palm_batch *batch, framed *f)
{
    uint64_t arrays_size = palmi_batch_aligned(batch->arrays.n * sizeof *f->arrays);
    f->n = 0;
    f->bytes = 0;
    f->body_size = batch->body_size;
    f->arrays = palmi_warm_take(arrays_size + most_body(batch));
    if (!f->arrays)
        return PALM_ENOMEM;
    f->body = (uint8_t *)f->arrays + arrays_size;
    memcpy(f->arrays, batch->arrays.at, batch->arrays.n * sizeof *f->arrays);
    if (batch->body_size)
        memcpy(f->body, batch->body, batch->body_size);
    for (uint32_t i = 0; i < batch->records.n; i++)
        add_record(f, batch, &batch->records.at[i]);
    return PALM_OK;
}

static palm_err transmit_frames(palm_node *node, palmi_link *link, palm_envelope *e, const palm_batch *batch)
{
    framed f;
    palm_err err = batch->lent.n > PALM_MAX_PARTS ? PALM_ELIMIT : framed_new(batch, &f);
    if (err)
        return err;
    e->arrays = f.arrays;
    e->body = f.body;
    e->body_size = f.body_size;
    e->parts = f.sizes;
    e->n_parts = f.n;
    link->has_sent_parts |= f.n > 0;
    err = send_head(node, link, e, f.bytes, f.n > 0);
    for (uint32_t i = 0; i < f.n && !err; i++) {
        err = send_part(link, &batch->lent.at[f.lent[i]], f.starts[i], f.sizes[i], i + 1 < f.n);
        link->broken = err != PALM_OK;
    }
    palmi_warm_give(f.arrays);
    return err;
}

/* ------------------------------------------------------------------------------------------------------------ both */

palm_err palmi_link_transmit(palm_node *node, palmi_link *link, palm_kind kind, uint32_t handle, uint16_t hop,
                             const palm_batch *batch)
{
    palm_envelope e;
    palmi_batch_envelope(batch, &e);
    e.kind = (uint16_t)kind;
    e.hop = hop;
    e.handle = handle;
    e.sender = node->id;
    e.seq = link->seq + 1;
    palm_err err = link->mapped || !batch->lent.n ? transmit_blocks(node, link, &e, batch) : PALM_EUNREACHABLE;
    if (err == PALM_EUNREACHABLE) /* there, or here: what we hold of an orphaned arena may have become a private copy */
        err = transmit_frames(node, link, &e, batch);
    if (err)
        return err;
    link->seq++;
    if (link->flight_first < link->flight.n) /* else it gains nothing, and the word is in the peer's cache */
        palmi_link_settle(node, link);
    return PALM_OK;
}

palm_err palmi_link_hello(palm_node *node, palmi_link *link)
{
    palm_hello hello = {.slot = link->slot, .word = link->word, .tag = link->tag};
    palm_space_identity(node->space, &hello.identity);
    if (node->frames)
        hello.identity.fd = 0;
    hello.endpoint = (palm_text){node->endpoint, (uint32_t)strlen(node->endpoint)};
    hello.name = (palm_text){node->name, (uint32_t)strlen(node->name)};
    palmi_local_hello(node, link, &hello);
    palm_envelope e = {.kind = PALM_HELLO, .sender = node->id, .seq = link->seq + 1, .hello = &hello};
    palm_err err = send_head(node, link, &e, 0, false);
    if (!err)
        link->seq++;
    return err;
}
