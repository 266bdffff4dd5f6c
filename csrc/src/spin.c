/* SPDX-License-Identifier: BSD-3-Clause
 * When it waits awake: if the last wait was short, so a peer answers at once. If no more threads want to run on this host than
 * this process has cores, as the kernel counts them, it spins. If some more do, it lets all others have its core between any
 * two looks, as long as they have it for moments only: those who wait for each other, and the one at work. Whoever has it for
 * longer computes: then it sleeps, and does not try again soon. (A count of our own, in a page that all share, would be wrong
 * after each death, and would not know of others' processes.) */
#include "spin.h"
#include "clock.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SPIN_NS = 150000,   /* the time in which a message passes through some processes that share two cores */
    SHORT_NS = 250000,  /* a sleep of so long would have been that of a spin: some 50 us was falling asleep and waking */
    GLANCES = 256,      /* at the bell between two moments in which others may run: some 12 us, in which most answers come */
    FEW = 16,           /* where others want our core */
    LOOK_EVERY = 256,   /* glances between two looks at the load, which takes 2 us; half of them before the first one */
    THREADS_A_CORE = 3, /* that want to run: with more, who is at work waits too long for those that let it */
    TURN_NS = 500000,   /* who has our core for longer computes: a time slice is some ms, a message takes microseconds */
    PASSES = 4,         /* waits after one in which it has spun in vain */
    HITS = 256,         /* waits that have paid for a time slice: each saves some 10 us */
    MAX_DOUBLED = 10,   /* times that these are doubled where somebody computes: so a time slice is lost once in 4096 waits */
};

typedef enum load { FREE, SHARED, CROWDED } load;

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
static load look_at_load(const palmi_spin *spin)
{
    char text[64];
    cpu_set_t mine;
    ssize_t got = pread(spin->load, text, sizeof text - 1, 0);
    if (got <= 0 || sched_getaffinity(0, sizeof mine, &mine))
        return CROWDED;
    text[got] = '\0';
    const char *slash = strchr(text, '/');
    while (slash && slash > text && slash[-1] >= '0' && slash[-1] <= '9')
        slash--;
    long running = slash ? strtol(slash, NULL, 10) : 0, cores = CPU_COUNT(&mine);
    if (running <= 0)
        return CROWDED;
    return running <= cores ? FREE : running <= THREADS_A_CORE * cores ? SHARED : CROWDED;
}

static bool is_marked(const palmi_bell *bell)
{
    uint64_t any = 0;
    for (int i = 0; i < PALMI_RING_WORDS; i++)
        any |= atomic_load_explicit(&bell->marked[i], memory_order_relaxed); /* who reads the ring acquires its head */
    return any;
}

static bool glance(const palmi_bell *bell, const atomic_bool *woken, int n)
{
    for (int i = 0; i < n; i++) {
        if (is_marked(bell) || atomic_load_explicit(woken, memory_order_relaxed))
            return true;
        pause_cpu();
    }
    return false;
}

/* How long others have had our core. */
static uint64_t give_way(void)
{
    uint64_t began = palmi_now_ns();
    sched_yield();
    return palmi_now_ns() - began;
}

static bool spin_until(palmi_spin *spin, const palmi_bell *bell, const atomic_bool *woken, uint64_t end)
{
    int n = spin->shares ? FEW : GLANCES, since_look = LOOK_EVERY / 2;
    load load = FREE;
    do {
        spin->shares = load == SHARED;
        if (glance(bell, woken, n))
            return true;
        since_look += n;
        if (since_look >= LOOK_EVERY) {
            since_look = 0;
            load = look_at_load(spin);
        }
        if (load == CROWDED)
            return false;
        if (load == SHARED)
            n = FEW;
        spin->hogged = give_way() > TURN_NS;
        spin->shares = true;
        if (glance(bell, woken, 1))
            return true;
    } while (!spin->hogged && palmi_now_ns() < end);
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
    spin->hogged = false;
    bool seen = spin_until(spin, bell, woken, palmi_now_ns() + SPIN_NS);
    if (spin->hogged) {
        spin->hits = 0;
        spin->doubled += spin->doubled < MAX_DOUBLED;
        spin->passes = (uint32_t)PASSES << spin->doubled;
    } else if (!seen) {
        spin->passes = PASSES;
    } else if (++spin->hits >= HITS) {
        spin->doubled = 0;
    }
    return seen;
}

void palmi_spin_slept(palmi_spin *spin, uint64_t slept_ns)
{
    spin->pays = slept_ns < SHORT_NS;
}
