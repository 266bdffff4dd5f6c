/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PALMI_SPILL_H
#define PALMI_SPILL_H
#include <stdint.h>

/* A pipe into which this process prints, and that another one has to read. Where nobody reads, whoever prints would wait
 * for ever, with the GIL perhaps; so the process empties it itself, and says in the pipe how many lines that cost. */
typedef struct palmi_spill {
    int fd;        /* both ends, without O_NONBLOCK on anybody else's: opened anew through /proc/self/fd */
    unsigned full; /* beats in which there was no room */
    uint64_t lost; /* lines of which the pipe does not tell yet */
    uint64_t mark; /* of one that is being read back, as far as it was read */
    int in_mark;   /* 1: behind its first byte, 2: behind both */
} palmi_spill;

enum { PALMI_SPILL_PATIENCE = 10 }; /* beats for which nobody may read, the first time */

void palmi_spill_beat(palmi_spill *spill);
/* At once: for who is about to print itself, and must not wait. */
void palmi_spill_empty(palmi_spill *spill);
#endif
