/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_counters.h: the page in which a process counts, and says what it does (counters.c).
 */
#ifndef PALM_COUNTERS_H
#define PALM_COUNTERS_H

#include "palm_err.h"
#include "palm_limits.h"
#include "palm_memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

PALM_BEGIN_DECLS

/* Lies in the page (palm_space_page): written by its process with palm_count(), read by anybody. Totals since start,
 * but for gauges. Durations in ns. */
enum { PALM_MAX_FUNCTIONS = 64, PALM_HISTOGRAM = 40, PALM_NAME_BYTES = 64 };
typedef struct palm_function_counters {
    char name[PALM_NAME_BYTES];
    uint64_t calls, busy_ns;
    uint64_t histogram[PALM_HISTOGRAM]; /* of service times, of generators those of steps: bucket i counts those below
                                         * 2^i ns, the last all others */
} palm_function_counters;
/* The message at work, by name. Who has the page mapped reads it while we compute, or when this process has died: then
 * the name is that of the message that was running, if one was. Written by the one thread that runs functions. */
typedef struct palm_at_work {
    uint64_t since_ns;             /* CLOCK_MONOTONIC; 0: idle, and what follows up to `completed` says nothing */
    uint64_t number, function;
    uint64_t job[2];               /* its 16 bytes as they are */
    uint32_t hop;
    uint32_t together;             /* messages in this execution: of several, one cannot say which is to blame */
    uint32_t path_count;
    uint32_t attempt;              /* 1 at the first execution */
    uint64_t path[PALM_MAX_PATH];
    uint64_t limit_ns;             /* that this execution may take; 0: any time */
    uint64_t spent_ns;             /* of it, before since_ns: in former steps of a generator */
    uint64_t deadline_ns;          /* CLOCK_REALTIME; 0: none */
    uint32_t client;               /* the link to who waits for it; 0: none */
    uint32_t ended;                /* palm_end: why the process has ended itself */
    uint64_t ended_since;          /* since_ns of the execution for which it did */
    uint64_t unwanted_since;       /* since_ns of the execution that nobody waits for any more ... */
    uint64_t unwanted_ns;          /* ... and when that was seen, CLOCK_MONOTONIC; by the thread itself or the pulse */
    uint64_t completed;            /* executions that came to their end, and steps of generators; since start */
    uint64_t last_number;          /* of several together, which lie between two names: the first is above, the last ... */
    uint32_t last_path_count;      /* ... is this one; of one alone, these say nothing */
    uint64_t last_path[PALM_MAX_PATH];
} palm_at_work;
/* The peer that has left the most envelopes of ours where they came, of those on this host; as of the last beat. */
typedef struct palm_unread {
    uint64_t envelopes;
    int64_t pid;
} palm_unread;
/* That somebody in this process waits for room, and for which servers: their names, each with a newline behind it. */
enum { PALM_WAITING_BYTES = 504 };
typedef struct palm_waiting {
    uint64_t since_ns;             /* CLOCK_MONOTONIC; 0: nobody, and the names say nothing */
    char servers[PALM_WAITING_BYTES];
} palm_waiting;
/* A counter or histogram of the user's own. One thread writes at a time; `kind` last, when the name is there. */
enum { PALM_MAX_OWN = 32, PALM_OWN_BUCKETS = 42, PALM_OWN_LEAST = -20 };
typedef enum palm_own_kind { PALM_OWN_NONE = 0, PALM_OWN_COUNTER, PALM_OWN_HISTOGRAM } palm_own_kind;
typedef struct palm_own_counter {
    char name[PALM_NAME_BYTES];    /* ends with a 0 */
    uint64_t kind;                 /* palm_own_kind; those behind the first that is none are not in use */
    uint64_t count;                /* of values that were added */
    uint64_t sum;                  /* of these, the bits of a double */
    uint64_t histogram[PALM_OWN_BUCKETS]; /* bucket i: up to 2^(PALM_OWN_LEAST + i), and no less; the last: all above */
} palm_own_counter;
typedef enum palm_end {
    PALM_END_NONE = 0,
    PALM_END_OVERRUN,              /* it has taken longer than its limit */
    PALM_END_LATE,                 /* its deadline has passed, and the time of grace */
    PALM_END_UNWANTED              /* nobody waits for it any more, and the time of grace is over */
} palm_end;
typedef struct palm_counters {
    uint64_t messages_in, messages_out, bytes_in, bytes_out, bytes_copied;
    uint64_t batches, errors, retries, rejected, dropped;             /* rejected: envelopes; dropped: by slow branches */
    uint64_t queue_depth, in_flight, busy_ns;                         /* the first two are gauges */
    uint64_t backlog, held;                                           /* gauges: messages taken off the queue in advance,
                                                                        * by the server's loop and by the pulse */
    uint64_t sent_arena, sent_inline, sent_frames;                    /* arrays, by the way they left */
    uint64_t by_ring, by_socket;                                      /* envelopes sent, likewise */
    uint64_t links_ring, links_socket, links_tcp;                     /* gauges: links that stand, by what takes their envelopes */
    uint64_t copied_kept, copied_foreign, copied_thread;              /* arrays copied first: kept by the function, not
                                                                       * numpy's memory, made where the arena is not set */
    uint64_t alloc_arena, alloc_small, alloc_full;                    /* numpy's allocations where it is set */
    uint64_t idle_ns;                                                 /* slept while nothing came; of who serves alone ... */
    uint64_t serves_since_ns;                                         /* ... gauge: CLOCK_MONOTONIC; 0: does not */
    uint64_t sleeps_since_ns;                                         /* gauge likewise: idle_ns lacks what it has slept since; 0: it does not */
    uint64_t arena_in_use, arena_idle, mapped;                        /* gauges: bytes, of palm_space_stats, at the last beat */
    uint64_t pulse_ns;                                                /* gauge: CLOCK_MONOTONIC of the last beat */
    uint64_t gil_asked_ns, gil_had_ns;                                /* gauges likewise: when the pulse last asked whether a
                                                                       * function that runs for long holds the GIL, and
                                                                       * when a thread that has to take it for that had it */
    uint64_t stale, lost_links;
    palm_unread unread;
    palm_waiting waiting;
    palm_at_work at_work;
    palm_function_counters functions[PALM_MAX_FUNCTIONS];
    palm_own_counter own[PALM_MAX_OWN];
    palm_memory memory;
} palm_counters;
/* 0 in a build that counts nothing and has hardly a pulse, to measure what these cost. */
#ifndef PALM_COUNTED
#define PALM_COUNTED 1
#endif
static inline void palm_count(uint64_t *counter, uint64_t n)
{
    /* relaxed: a statistic; readers need no order between counters */
    if (PALM_COUNTED)
        __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}
/* The same where one thread alone writes: a few ns instead of ten, which is much for a message. */
static inline void palm_tally(uint64_t *counter, uint64_t n)
{
    if (PALM_COUNTED)
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
static inline uint64_t palm_seen(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}
static inline void palm_gauge(uint64_t *gauge, uint64_t value)
{
    __atomic_store_n(gauge, value, __ATOMIC_RELAXED);
}
/* By the one thread that runs functions. */
void palm_count_call(palm_function_counters *function, uint64_t ns);
void palm_count_calls(palm_function_counters *function, uint64_t n, uint64_t ns); /* n of them, ns each */
/* A step of a generator, whose call has been counted when it was made. */
void palm_count_step(palm_function_counters *function, uint64_t ns);
/* Adds a value to the one of this name, which it makes if there is none; name: `size` bytes, no 0 among them. PALM_EINVAL:
 * the name has too many bytes, or is that of the other kind; PALM_ELIMIT: there are PALM_MAX_OWN. */
palm_err palm_own_add(palm_counters *counters, palm_own_kind kind, const char *name, size_t size, double value);
/* A copy of number i; false: there are not so many. What the page says is not believed: the name ends with a 0. */
bool palm_own_read(const palm_counters *counters, uint32_t i, palm_own_counter *out);
/* One thread at a time. Names that do not fit whole are left out. */
void palm_wait_begin(palm_waiting *waiting, const char *servers, size_t size, uint64_t now_ns);
void palm_wait_end(palm_waiting *waiting);
/* A copy, which ends with a 0; false: nobody waits, or the wait has changed meanwhile. */
bool palm_wait_read(const palm_waiting *waiting, palm_waiting *out);

PALM_END_DECLS
#endif
