/* SPDX-License-Identifier: BSD-3-Clause
 * Loaded before all else by bench/instructions.py: marks for callgrind, and a clock that tells the same time in each run. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

enum { TICK_NS = 100 };         /* between two readings: an envelope takes less than what is waited for anywhere */
enum { BEGAN_S = 1000000000 };

static __thread bool is_ours;   /* of the thread that is counted; others keep the time of the host */
static __thread uint64_t ticks;

int clock_gettime(clockid_t clock, struct timespec *t)
{
    if (!is_ours)
        return (int)syscall(SYS_clock_gettime, clock, t);
    uint64_t ns = ++ticks * TICK_NS;
    t->tv_sec = (time_t)(BEGAN_S + ns / 1000000000);
    t->tv_nsec = (long)(ns % 1000000000);
    return 0;
}

__attribute__((visibility("default"))) void counts_clock(bool ours)
{
    is_ours = ours;
}

__attribute__((visibility("default"))) void counts_begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

__attribute__((visibility("default"))) void counts_end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
