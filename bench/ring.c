/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Round trips in C between two processes that spin over shared memory: what the machine can do where each has a core.
 *
 *   ring
 *
 * Reads lines "N SIZE" (64 at most) and answers each with the median of N round trips in ns. */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, GLANCES = 1000 };

typedef struct slot { /* of one direction: `turn` counts the messages that were put */
    _Alignas(64) _Atomic uint64_t turn;
    _Alignas(64) char bytes[MOST];
} slot;

typedef struct shared {
    slot there, back;
    _Alignas(64) _Atomic uint64_t size;
} shared;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put(slot *s, uint64_t turn, const char *bytes, size_t size)
{
    memcpy(s->bytes, bytes, size);
    atomic_store_explicit(&s->turn, turn, memory_order_release);
}

static void get(slot *s, uint64_t turn, char *bytes, size_t size)
{
    for (unsigned i = 1; atomic_load_explicit(&s->turn, memory_order_acquire) != turn; i++)
        if (i % GLANCES == 0)
            sched_yield(); /* the other one may wait for this core */
    memcpy(bytes, s->bytes, size);
}

static void echo(shared *s)
{
    char bytes[MOST];
    for (uint64_t turn = 1;; turn++) {
        get(&s->there, turn, bytes, atomic_load(&s->size));
        put(&s->back, turn, bytes, atomic_load(&s->size));
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void measure(shared *s, size_t n, size_t size)
{
    uint64_t *took = malloc(n * sizeof *took);
    char bytes[MOST] = "";
    if (!took)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        uint64_t began = now_ns();
        put(&s->there, i + 1, bytes, size);
        get(&s->back, i + 1, bytes, size);
        took[i] = now_ns() - began;
    }
    qsort(took, n, sizeof *took, by_value);
    printf("%llu\n", (unsigned long long)took[n / 2]);
    fflush(stdout);
    free(took);
}

int main(void)
{
    unsigned long long n, size;
    shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        return 1;
    while (scanf("%llu %llu", &n, &size) == 2) {
        if (!n || size > MOST)
            return 1;
        memset(s, 0, sizeof *s);
        atomic_store(&s->size, size);
        pid_t other = fork(); /* anew each time: between the rounds nobody spins */
        if (other == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            echo(s);
        }
        if (other < 0)
            return 1;
        measure(s, n, size);
        kill(other, SIGKILL);
        waitpid(other, NULL, 0);
    }
    return 0;
}
