/* SPDX-License-Identifier: BSD-3-Clause
 * Waiting awake: what is marked meanwhile is seen, nothing is waited for where that does not pay or too many want to run, a wait
 * in vain is not repeated at once, and one beside somebody who computes for longer and longer not. */
#include "../src/spin.h"
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHORT_NS = 1000, LONG_NS = 10000000 };

static palmi_bell *bell_new(void)
{
    palmi_bell *bell = aligned_alloc(64, sizeof *bell);
    CHECK(bell);
    memset(bell, 0, sizeof *bell);
    return bell;
}

/* A file that says what /proc/loadavg would. */
static palmi_spin with_load(const char *load)
{
    palmi_spin spin = {.load = fileno(tmpfile()), .lone = true};
    CHECK(spin.load >= 0 && write(spin.load, load, strlen(load)) == (ssize_t)strlen(load));
    return spin;
}

static void *mark(void *arg)
{
    palmi_bell *bell = arg;
    atomic_fetch_or(&bell->marked[PALMI_RING_WORDS - 1], 1);
    return NULL;
}

static void test_a_mark_is_seen(void)
{
    palmi_bell *bell = bell_new();
    atomic_bool woken = false;
    palmi_spin spin = with_load("0.00 0.00 0.00 1/100 1\n");
    palmi_spin_slept(&spin, SHORT_NS);
    CHECK(!palmi_spin_wait(&spin, bell, &woken));
    for (int i = 0; i < 1000; i++) { /* whether it comes before, while it spins, or later: then there are waits in vain */
        pthread_t other;
        atomic_store(&bell->marked[PALMI_RING_WORDS - 1], 0);
        CHECK(!pthread_create(&other, NULL, mark, bell));
        while (!palmi_spin_wait(&spin, bell, &woken))
            continue;
        CHECK(atomic_load(&bell->marked[PALMI_RING_WORDS - 1]) == 1);
        CHECK(!pthread_join(other, NULL));
    }
    palmi_spin_close(&spin);
    free(bell);
}

static void test_who_is_woken_spins_no_more(void)
{
    palmi_bell *bell = bell_new();
    atomic_bool woken = true;
    palmi_spin spin = with_load("0.00 0.00 0.00 1/100 1\n");
    palmi_spin_slept(&spin, SHORT_NS);
    CHECK(palmi_spin_wait(&spin, bell, &woken));
    palmi_spin_close(&spin);
    free(bell);
}

/* How many of the next waits it passes over, before it sees what is marked all the time. */
static int passes(palmi_spin *spin)
{
    palmi_bell *bell = bell_new();
    atomic_bool woken = false;
    int n = 0;
    mark(bell);
    while (n < 1000 && !palmi_spin_wait(spin, bell, &woken))
        n++;
    free(bell);
    return n;
}

static void test_long_waits_are_slept(void)
{
    palmi_spin spin = with_load("0.00 0.00 0.00 1/100 1\n");
    CHECK(passes(&spin) == 1000); /* it knows nothing yet */
    palmi_spin_slept(&spin, LONG_NS);
    CHECK(passes(&spin) == 1000);
    palmi_spin_slept(&spin, SHORT_NS);
    CHECK(passes(&spin) == 0);
    palmi_spin_close(&spin);
    CHECK(passes(&spin) == 1000);
}

static void wait_in_vain(palmi_spin *spin)
{
    palmi_bell *bell = bell_new();
    atomic_bool woken = false;
    CHECK(!palmi_spin_wait(spin, bell, &woken));
    free(bell);
}

static void test_streams_are_slept_for(void)
{
    palmi_spin spin = with_load("0.00 0.00 0.00 1/100 1\n");
    spin.lone = false;
    palmi_spin_slept(&spin, SHORT_NS);
    CHECK(passes(&spin) == 1000);
    palmi_spin_close(&spin);
}

static void test_in_vain_is_not_repeated_at_once(void)
{
    static const char *const loads[] = {
        "0.00 0.00 0.00 1/100 1\n",      /* a core is free, but nothing comes */
        "0.00 0.00 0.00 99999/99999 1\n", /* none is */
        "", "no load", "0.00 0.00 0.00 /", "/",
    };
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
        palmi_spin spin = with_load(loads[i]);
        palmi_spin_slept(&spin, SHORT_NS);
        wait_in_vain(&spin);
        int passed = passes(&spin);
        CHECK(passed > 0 && passed < 1000);
        palmi_spin_close(&spin);
    }
}

static atomic_bool computes;

static void *compute(void *arg)
{
    (void)arg;
    while (atomic_load_explicit(&computes, memory_order_relaxed))
        continue;
    return NULL;
}

/* Who has our core for a whole time slice is not let have it for nothing again and again. */
static void test_who_computes_is_left_alone(void)
{
    cpu_set_t all, one;
    pthread_t other;
    CHECK(!sched_getaffinity(0, sizeof all, &all));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    CHECK(!sched_setaffinity(0, sizeof one, &one)); /* of this thread, and of those it starts */
    atomic_store(&computes, true);
    CHECK(!pthread_create(&other, NULL, compute, NULL));
    palmi_spin spin = with_load("0.00 0.00 0.00 2/100 1\n");
    palmi_spin_slept(&spin, SHORT_NS);
    int first = 0, passed = 0;
    for (int i = 0; i < 1000 && passed < 2 * first + 1; i++) {
        wait_in_vain(&spin);
        passed = passes(&spin);
        first = first ? first : passed;
    }
    CHECK(passed > 2 * first);
    atomic_store(&computes, false);
    CHECK(!pthread_join(other, NULL));
    CHECK(!sched_setaffinity(0, sizeof all, &all));
    palmi_spin_close(&spin);
}

static void test_the_real_load(void)
{
    palmi_spin spin;
    palmi_spin_open(&spin);
    CHECK(spin.load >= 0);
    spin.lone = true;
    palmi_spin_slept(&spin, SHORT_NS);
    wait_in_vain(&spin);
    palmi_spin_close(&spin);
}

int main(void)
{
    test_a_mark_is_seen();
    test_who_is_woken_spins_no_more();
    test_long_waits_are_slept();
    test_streams_are_slept_for();
    test_in_vain_is_not_repeated_at_once();
    test_who_computes_is_left_alone();
    test_the_real_load();
    return 0;
}
