/* SPDX-License-Identifier: BSD-3-Clause
 * When it spins: if the last wait was short, so a peer answers at once, and if no more threads want to run on this host than
 * there are cores for this process, as the kernel counts them. A count of our own, in a page that all share, would be
 * wrong after each death, and would not know of others' processes. */
#include "spin.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SPIN_NS = 50000,        /* what a sleep costs: to spin for as long at most doubles what a wait costs at worst */
    SHORT_NS = 2 * SPIN_NS, /* a sleep of so long would have been that of a spin: half of it was falling asleep and waking */
    GLANCES = 64,           /* at the bell between two looks at the clock, which let others run: some 3 us */
    LAPS = 4,               /* of glances for each look at the load, which takes 2 us; the first one after half of them */
    PASSES = 32,            /* waits after one in which it has spun in vain: what that costs is little among so many */
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

void palmi_spin_open(palmi_spin *spin)
{
    *spin = (palmi_spin){.load = open("/proc/loadavg", O_RDONLY | O_CLOEXEC)};
}

void palmi_spin_close(palmi_spin *spin)
{
    if (spin->load >= 0)
        close(spin->load);
    spin->load = -1;
}

/* "0.20 0.18 0.12 RUNNING/ALL LAST", of which RUNNING has us in it. */
static bool is_core_free(const palmi_spin *spin)
{
    char text[64];
    cpu_set_t mine;
    ssize_t got = pread(spin->load, text, sizeof text - 1, 0);
    if (got <= 0)
        return false;
    text[got] = '\0';
    const char *slash = strchr(text, '/');
    while (slash && slash > text && slash[-1] >= '0' && slash[-1] <= '9')
        slash--;
    long running = slash ? strtol(slash, NULL, 10) : 0;
    return running > 0 && !sched_getaffinity(0, sizeof mine, &mine) && running <= CPU_COUNT(&mine);
}

static bool is_marked(const palmi_bell *bell)
{
    uint64_t any = 0;
    for (int i = 0; i < PALMI_RING_WORDS; i++)
        any |= atomic_load_explicit(&bell->marked[i], memory_order_relaxed); /* who reads the ring acquires its head */
    return any;
}

static bool glance(const palmi_bell *bell, const atomic_bool *woken)
{
    for (int i = 0; i < GLANCES; i++) {
        if (is_marked(bell) || atomic_load_explicit(woken, memory_order_relaxed))
            return true;
        pause_cpu();
    }
    return false;
}

bool palmi_spin_wait(palmi_spin *spin, const palmi_bell *bell, const atomic_bool *woken)
{
    if (!spin->pays || !spin->lone || spin->load < 0)
        return false;
    if (spin->passes) {
        spin->passes--;
        return false;
    }
    uint64_t end = now_ns() + SPIN_NS;
    int lap = 0;
    do {
        if (lap++ % LAPS == LAPS / 2 && !is_core_free(spin)) /* most answers come before it pays to ask */
            break;
        if (glance(bell, woken))
            return true;
        sched_yield(); /* whoever is to answer may wait for this very core */
    } while (now_ns() < end);
    spin->passes = PASSES;
    return false;
}

void palmi_spin_slept(palmi_spin *spin, uint64_t slept_ns)
{
    spin->pays = slept_ns < SHORT_NS;
}
