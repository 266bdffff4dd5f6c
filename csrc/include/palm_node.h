/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_node.h: a process on the wire: one door, links to peers, the loop (node.c, hello.c, receive.c, attend.c, link.c,
 * transmit.c).
 */
#ifndef PALM_NODE_H
#define PALM_NODE_H

#include "palm_batch.h"
#include "palm_counters.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

PALM_BEGIN_DECLS

/* A node is this process on the wire: one inbound socket, and a link to each peer it sends to. All calls but
 * palm_node_next are thread-safe; palm_node_next is for one thread at a time. */
typedef struct palm_node palm_node;
enum { PALM_KEY_BYTES = 32 };
typedef struct palm_keys { /* of CURVE */
    uint8_t public_key[PALM_KEY_BYTES], secret_key[PALM_KEY_BYTES];
} palm_keys;
typedef struct palm_node_options {
    const char *endpoint; /* "ipc:///path", "tcp://127.0.0.1:*": where to receive */
    const palm_keys *keys; /* with which TCP is encrypted, and there is no other; NULL: TCP is plain text. Copied */
    const char *name;     /* what peers see */
    palm_space *space;
    bool frames;          /* never offer blocks, always send frames: as between hosts */
    bool sockets;         /* no rings: all goes through libzmq. frames implies it */
    bool sleeping;        /* never wait awake for what is about to come in a ring */
    bool serves;          /* that its receiver waits counts as idle_ns of the process: at most one node of a process */
} palm_node_options;
palm_err palm_node_open(const palm_node_options *options, palm_node **out);
/* Whose public keys nodes of this process with keys let in, from now on; at first nobody's. */
palm_err palm_gate_allow(const uint8_t (*keys)[PALM_KEY_BYTES], uint32_t n);
/* No new work: calls return PALM_ECLOSED from now on, and so does a palm_node_next that waits. Again: no effect. */
void palm_node_shut(palm_node *node);
/* Shuts it; says BYE and waits, up to linger_ms, until peers have taken what was sent; frees. No other thread may be in a
 * call of this node or begin one: shut it first, and wait until they have left. *unsent: envelopes that were given up. */
void palm_node_close(palm_node *node, int linger_ms, uint32_t *unsent);
const char *palm_node_endpoint(const palm_node *node);
/* A pipe's end, without waiting: who writes a byte other than 0 there makes palm_node_next return PALM_EINTR, as a handler of
 * signals may, so that none is missed that comes just before a wait. */
int palm_node_door(const palm_node *node);
uint64_t palm_node_id(const palm_node *node);

/* A link to who receives at `endpoint`; returns at once, the same number for the same endpoint while it stands. What is
 * sent before the hand-shake is over waits, as long as the process `pid` of this host lives (0: not known): a server that
 * is busy with a function answers when that is over. */
palm_err palm_node_link(palm_node *node, const char *endpoint, int32_t pid, uint32_t *link);
/* The same to an endpoint that a peer has named. Of those that nobody has answered from, a node keeps 256: the oldest goes
 * when one more comes. */
palm_err palm_node_link_named(palm_node *node, const char *endpoint, int32_t pid, uint32_t *link);
typedef enum palm_link_state { PALM_LINK_GONE = 0, PALM_LINK_OPENING, PALM_LINK_READY } palm_link_state;
palm_link_state palm_node_link_state(palm_node *node, uint32_t link, bool *mapped);
/* Sends the content of the batch as one envelope, or a copy of it when the link is ready; never blocks. The batch is as it
 * was, to be cleared, or kept and sent again. PALM_ECLOSED: the link is gone. */
palm_err palm_node_send(palm_node *node, uint32_t link, palm_kind kind, uint32_t handle, uint16_t hop,
                        const palm_batch *batch);

/* What has come. */
typedef enum palm_event_kind {
    PALM_EVENT_MESSAGE = 1, /* envelope of any kind but HELLO and BYE */
    PALM_EVENT_READY,       /* the link can be used */
    PALM_EVENT_GONE,        /* the peer has said BYE (reason 0), or is dead (1) */
    PALM_EVENT_WAKE,        /* palm_node_wake() was called */
    PALM_EVENT_STOP         /* palm_node_stop() was called, or the owner is gone */
} palm_event_kind;
typedef struct palm_frames palm_frames; /* the memory of what came in one message; counted */
typedef struct palm_taken { palm_arena *arena; const uint8_t *first; uint32_t index; palm_err err; } palm_taken;
typedef struct palm_run { uint32_t first, count; uint32_t array; } palm_run; /* records; form ARRAY: the array that they are rows of */
typedef struct palm_event {
    palm_event_kind kind;
    uint32_t link;             /* the link to the sender */
    uint32_t reason;
    palm_envelope envelope;    /* valid until palm_event_done. Has a record for each message of a run; where that is of form
                                * ARRAY, they name arrays behind the n_arrays that were sent: rows, of which those of one
                                * dimension less than 1 are numpy's scalars (PALM_ARRAY_SCALAR) */
    palm_run *runs;            /* which records these are, in order */
    uint32_t n_runs;
    palm_frames *frames;       /* holds body and parts */
    palm_taken *blocks;        /* envelope.n_blocks; err says which could not be taken */
    const uint8_t **parts;     /* envelope.n_parts; 64-byte aligned */
    palm_text *dtypes;         /* what envelope.dtypes points to */
    void *unrolled;            /* memory of runs and of what they have become */
} palm_event;
/* Waits up to timeout_ms for an event; PALM_EAGAIN: none came. PALM_EINTR: look for signals, call again (a signal just
 * before the wait is not seen by it: wait 50 ms at a time where Ctrl-C matters). Malformed messages are counted, reported by palm_node_rejected and dropped in here. */
palm_err palm_node_next(palm_node *node, int timeout_ms, palm_event *event);
/* Gives back what the event holds: frames that nobody else holds, one reference of each block. */
void palm_event_done(palm_event *event);
/* Adds message i of an event to a batch as it is, and of those that follow in its run as many as there is room for, up to
 * `most` in all; *n: how many that were. PALM_EAGAIN: its arrays can neither be copied from the body nor be lent again. */
palm_err palm_batch_relay(palm_batch *batch, const palm_event *event, uint32_t i, uint32_t most, uint32_t *n);
/* An event of one frame that came by no link: the inverse of palm_batch_pack, checked like any other. It has a copy of the
 * bytes; palm_event_done(event) ends it. PALM_EMALFORMED too: the frame names blocks or parts. */
palm_err palm_event_unpack(const void *frame, size_t size, palm_event *event);
void palm_frames_hold(palm_frames *frames);
void palm_frames_drop(palm_frames *frames);
void palm_node_wake(palm_node *node); /* any thread, signal handlers too */
void palm_node_stop(palm_node *node); /* likewise */
/* Why the last message was rejected, for a rate-limited log; the count is counters->rejected. */
const char *palm_node_rejected(palm_node *node);
/* What a pulse does for a node: gives back blocks that peers have taken. *unread: replaced if a peer of this node has left
 * more. */
void palm_node_tick(palm_node *node, palm_unread *unread);
/* Nothing is on its way that the pulse would have to see to soon. */
bool palm_node_is_quiet(palm_node *node);
/* What the node does from now on is told to a pulse by its eventfd `bell`, while *rests (an atomic_bool). */
void palm_node_rest(palm_node *node, const void *rests, int bell);
/* While a function runs, nobody is in palm_node_next: the pulse receives what has come, to be given out later, and sees
 * whether the execution that began at `since_ns` is unwanted: by a CANCEL or FORGET, or since its client is gone. */
void palm_node_attend(palm_node *node, palm_at_work *work, uint64_t since_ns, uint64_t now_ns);

PALM_END_DECLS
#endif
