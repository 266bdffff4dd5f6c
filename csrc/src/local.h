/* SPDX-License-Identifier: BSD-3-Clause
 * What a node and its links have to send by rings (ring.h) to processes of this host: files, mappings, and which ring is read
 * next. Whoever has none of it sends by its socket: all of it may be missing. */
#ifndef PALMI_LOCAL_H
#define PALMI_LOCAL_H

#include "batch.h"
#include "ring.h"
#include "spin.h"

struct palmi_link;

typedef struct palmi_door { /* a node's; the fields below `read_end` are guarded by node->receiving */
    palmi_bell *bell;       /* NULL: it reads no rings */
    int file;               /* the bell's */
    int read_end, write_end; /* of the pipe: readable when somebody wants the node */
    uint64_t marked[PALMI_RING_WORDS];
    uint32_t cursor;        /* the ring to be looked at first */
    uint32_t sleeps;        /* so far; the number of the last one */
    palmi_spin spin;        /* before a sleep */
    uint64_t waits_until_ms; /* what is next in some ring waits for what comes by the socket, so long at most; 0: none does */
    struct palmi_link *readers[PALMI_RINGS]; /* guarded by node->lock: who sends in which */
} palmi_door;

typedef struct palmi_local { /* a link's; guarded by node->lock */
    palmi_out out;
    int file;                /* of out.ring, until the peer has mapped it; else -1 */
    bool usable;             /* it has */
    bool refused;            /* it has not, and never will */
    palmi_in in;
    uint32_t number;         /* of in.ring: its place in readers */
    uint64_t seq;            /* of what was read last from in.ring */
    uint64_t waits_since_ms; /* what is next there waits for what comes by the socket; 0: it does not */
    bool dying;              /* the peer is dead, but has left something in in.ring */
    PALMI_VECTOR(palm_event) early; /* came by the socket, but what was sent before is in in.ring still */
    uint32_t early_first;
} palmi_local;

#endif
