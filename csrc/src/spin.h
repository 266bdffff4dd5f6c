/* SPDX-License-Identifier: BSD-3-Clause
 * Waiting awake for what a ring is about to have, where the host has a core to spare for that: to put a process to sleep and
 * wake it again takes 35 to 60 us, to see a word change in shared memory 0.1 us. */
#ifndef PALMI_SPIN_H
#define PALMI_SPIN_H

#include "ring.h"

typedef struct palmi_spin { /* a node's; who receives alone uses it */
    int load;               /* /proc/loadavg; -1: it does not spin */
    bool pays;              /* the last wait was short enough */
    bool lone;              /* what came last was a message alone */
    bool shares;            /* others want our core: who answered last had waited for it, or the load says so */
    bool hogged;            /* when it let others have our core last, somebody computed */
    uint8_t doubled;        /* how often that has been so, without many waits between that paid */
    uint16_t hits;          /* waits that have paid since then */
    uint32_t passes;        /* so many waits before it tries again */
} palmi_spin;

void palmi_spin_open(palmi_spin *spin);
void palmi_spin_close(palmi_spin *spin);
/* True: something is marked in the bell, or *woken is set. False: it has spun in vain, or there is no core to spare. */
bool palmi_spin_wait(palmi_spin *spin, const palmi_bell *bell, const atomic_bool *woken);
/* It has slept so long: that says whether to spin the next time. */
void palmi_spin_slept(palmi_spin *spin, uint64_t slept_ns);

#endif
