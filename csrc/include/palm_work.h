/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_work.h: the message at work, as the page has it: written before a function is called, read by others
 * (counters.c).
 */
#ifndef PALM_WORK_H
#define PALM_WORK_H

#include "palm_counters.h"

#include <stdbool.h>
#include <stdint.h>

PALM_BEGIN_DECLS

/* 0 in a build that neither tracks nor repeats messages, to measure what that costs. */
#ifndef PALM_TRACKED
#define PALM_TRACKED 1
#endif
/* What the executions have in common that begin from now on; while none is under way. */
void palm_work_on(palm_at_work *work, const uint8_t job[16], uint32_t hop, uint32_t function, uint32_t together,
                  uint32_t client);
/* Pairs with the acquire by which the pulse reads it before it looks at since_ns again: if it has seen this store, it sees
 * too that the execution before has ended. */
static inline void palm_work_term(uint64_t *term, uint64_t value)
{
    __atomic_store_n(term, value, __ATOMIC_RELEASE);
}
/* What the next execution may take; before palm_work_begin. */
static inline void palm_work_terms(palm_at_work *work, uint32_t attempt, uint64_t limit_ns, uint64_t spent_ns,
                                   uint64_t deadline_ns)
{
    __atomic_store_n(&work->attempt, attempt, __ATOMIC_RELAXED);
    palm_work_term(&work->limit_ns, limit_ns);
    palm_work_term(&work->spent_ns, spent_ns);
    palm_work_term(&work->deadline_ns, deadline_ns);
}
/* The last one, by name, of several that are executed together; before palm_work_begin, which gets the first. */
static inline void palm_work_upto(palm_at_work *work, uint64_t number, const uint64_t *path, uint32_t n)
{
    palm_gauge(&work->last_number, number);
    for (uint32_t i = 0; i < n; i++)
        palm_gauge(&work->last_path[i], path[i]);
    __atomic_store_n(&work->last_path_count, n, __ATOMIC_RELAXED);
}
/* since_ns is stored last and cleared first, and nothing of the execution is moved out from between by the compiler. The
 * processor may: but of a process that was killed, all stores are seen that it came to, in their order. Path: at most
 * PALM_MAX_PATH components. */
static inline void palm_work_begin(palm_at_work *work, uint64_t number, const uint64_t *path, uint32_t n, uint64_t now_ns)
{
    if (!PALM_TRACKED)
        return;
    palm_work_term(&work->number, number);
    for (uint32_t i = 0; i < n; i++)
        palm_gauge(&work->path[i], path[i]);
    __atomic_store_n(&work->path_count, n, __ATOMIC_RELAXED);
    __atomic_store_n(&work->since_ns, now_ns, __ATOMIC_RELEASE); /* pairs with the acquire in palm_work_read */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline void palm_work_end(palm_at_work *work, bool completed)
{
    if (!PALM_TRACKED)
        return;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&work->since_ns, 0, __ATOMIC_RELEASE);
    palm_gauge(&work->completed, work->completed + completed); /* one thread writes: no exchange */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
/* A copy; false: idle, and only `completed` says anything. Exact if the process is dead; of one that lives, a glance.
 * What the page says is not believed: the counts of paths are within their bounds afterwards. */
bool palm_work_read(const palm_at_work *work, palm_at_work *out);
/* Nobody waits any more for the execution that began at `since_ns`, if it is still under way. The first time counts. */
void palm_work_unwanted(palm_at_work *work, uint64_t since_ns, uint64_t now_ns);
/* Whether the execution under way is to be ended, and its since_ns; for the pulse of its process. grace_ns: for what is
 * late or unwanted; UINT64_MAX: such are not ended. */
palm_end palm_work_judge(const palm_at_work *work, uint64_t now_ns, uint64_t realtime_ns, uint64_t grace_ns,
                         uint64_t *since_ns);

PALM_END_DECLS
#endif
