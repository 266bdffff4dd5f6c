/* SPDX-License-Identifier: BSD-3-Clause
 * Envelopes between two processes of one host, in memory that both have mapped: a ring for each direction of a link, and a
 * bell for each node, by which those who put something into its rings wake it. Nothing in here makes or maps files
 * (local.c), knows links, or believes what the other side has written. */
#ifndef PALMI_RING_H
#define PALMI_RING_H

#include "palm_node.h"

#include <stdalign.h>
#include <stdatomic.h>

enum {
    PALMI_RING_BYTES = 8192 << 10, /* a ring holds so many; docs/decisions/links.md has what was tried */
    PALMI_RING_FIRST = 1024 << 10, /* of these are used, twice as many whenever that is full; what is beyond is never touched */
    PALMI_RING_MOST = 448 << 10,   /* of an envelope; larger ones take the socket */
    PALMI_RING_FRONT = 64 << 10,   /* beyond it, an empty ring begins anew at the front, where memory is warm; until that has
                                    * been read, there is as much room as has been left behind */
    PALMI_RING_LITTLE = 4 << 10,   /* of an envelope that is not one of a stream: with that room those behind it would not do */
    PALMI_RINGS = 512,            /* that a node reads from: the words in which they are marked are one cache line */
    PALMI_RING_WORDS = PALMI_RINGS / 64,
};

typedef struct palmi_label { /* of a file; written once, before anybody is told of it */
    uint64_t magic, id, detail;
} palmi_label;
#define PALMI_RING_MAGIC 0x31474E524D4C4150ull /* "PALMRNG1" */
#define PALMI_BELL_MAGIC 0x314C45424D4C4150ull /* "PALMBEL1" */

typedef struct palmi_ring {
    palmi_label label;                   /* id: a random number, which HELLO tells */
    _Atomic uint64_t reader;             /* 0, until the receiver has mapped it: then its number for it, plus 1 */
    alignas(64) _Atomic uint64_t head;   /* bytes ever put; the sender's */
    alignas(64) _Atomic uint64_t tail;   /* bytes ever taken; the receiver's */
    alignas(64) uint8_t bytes[PALMI_RING_BYTES];
} palmi_ring;

typedef struct palmi_bell {
    palmi_label label;                   /* id: of the node; detail: the inode of the pipe that wakes it */
    alignas(64) _Atomic uint32_t sleeping; /* 0: it is awake; else which sleep this is */
    alignas(64) _Atomic uint64_t marked[PALMI_RING_WORDS]; /* rings into which something was put */
} palmi_bell;

/* -------------------------------------------------------------------------------------------------------- sending */

typedef struct palmi_out { /* a sender's side; one thread at a time */
    palmi_ring *ring;
    palmi_bell *bell;      /* of the receiver */
    int wake;              /* the pipe that it sleeps on */
    uint32_t number;       /* the receiver's of this ring */
    uint32_t woken;        /* the sleep from which we have woken it */
    uint32_t doubled;      /* how often what is used of the ring has been */
    bool was_full;         /* since then */
    uint64_t head, tail;   /* what we have put; what was taken, as far as seen */
} palmi_out;

/* Where the next envelope's bytes go, or NULL: there is no room. To be ended, or it has not begun. */
uint8_t *palmi_ring_begin(palmi_out *out, uint64_t size);
void palmi_ring_end(palmi_out *out, uint64_t size, uint64_t seq);
/* Tells the receiver, and wakes it if it sleeps. */
void palmi_ring_call(palmi_out *out);

/* ------------------------------------------------------------------------------------------------------ receiving */

typedef struct palmi_in { /* a receiver's side; one thread at a time */
    palmi_ring *ring;
    uint64_t head, tail;
} palmi_in;

typedef struct palmi_letter { /* an envelope in a ring; the sender can still change its bytes */
    const uint8_t *bytes;
    uint32_t size;
    uint64_t seq;
} palmi_letter;

/* The oldest one. PALM_EAGAIN: it is empty; PALM_EMALFORMED: no ring any more, to be read no further. */
palm_err palmi_ring_peek(palmi_in *in, palmi_letter *out);
void palmi_ring_take(palmi_in *in, const palmi_letter *letter);

/* The sleep of this number, any but 0 and the last one, begins. False: something has been marked, so do not sleep. */
bool palmi_bell_sleep(palmi_bell *bell, uint32_t which);
void palmi_bell_rise(palmi_bell *bell);
/* Adds the rings that were marked since the last time. */
void palmi_bell_collect(palmi_bell *bell, uint64_t marked[PALMI_RING_WORDS]);

#endif
