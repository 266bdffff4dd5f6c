/* SPDX-License-Identifier: BSD-3-Clause
 * What the processes of the kill test share with the one that starts and kills them: counters, and links to pass
 * offers through. The links stand for PALM's; what is tested is the space. */
#ifndef PALM_TESTS_KILL_BOARD_H
#define PALM_TESTS_KILL_BOARD_H
#include "palm.h"

#include <stdatomic.h>

enum { PEERS = 3, RING = 32, BLOCKS = 48, BYTES = 8192 };

typedef struct letter {
    palm_block offer;
    uint64_t seq, arena_hi, arena_lo; /* of the sender, with the word that tells it what has been taken */
    uint32_t word;
} letter;

/* A ring for each life of the receiver (two are enough), made new by the receiver for each life of the sender. */
typedef struct ring {
    _Atomic uint64_t receiver_life, sender_life;
    alignas(64) _Atomic uint64_t head;
    alignas(64) _Atomic uint64_t tail;
    letter letters[RING];
} ring;

typedef struct place { /* of one process; a process that dies is followed by another, its next life */
    _Atomic uint64_t life; /* whose life it is; moves on when the former one is dead and buried */
    _Atomic uint64_t open; /* the life whose identity this is */
    palm_identity identity;
    uint64_t who;
    _Atomic uint64_t sent, taken, stale, unreachable, checked, corrupt, conflicts, evacuated, swept;
    _Atomic uint64_t quiet; /* turns in which it had nothing in hand */
    _Atomic uint64_t out;   /* own blocks that have not come back */
} place;

typedef struct board {
    place places[PEERS];
    ring rings[PEERS][PEERS][2];
    _Atomic int drain, stop;
} board;

#endif
