/* SPDX-License-Identifier: BSD-3-Clause */
#include "palm.h"

#include <string.h>

_Static_assert(sizeof(palm_counters) <= PALM_PAGE_BYTES, "the counters fit their page");

void palm_count_call(palm_function_counters *function, uint64_t ns)
{
    unsigned bucket = ns ? 64 - (unsigned)__builtin_clzll(ns) : 0;
    palm_count(&function->calls, 1);
    palm_count(&function->busy_ns, ns);
    palm_count(&function->histogram[bucket < PALM_HISTOGRAM ? bucket : PALM_HISTOGRAM - 1], 1);
}

void palm_work_on(palm_at_work *work, const uint8_t job[16], uint32_t hop, uint32_t function, uint32_t together)
{
    memcpy(work->job, job, sizeof work->job);
    work->hop = hop;
    work->together = together;
    palm_gauge(&work->function, function);
}

/* The names in front that fit, each whole. */
static size_t whole_names(const char *servers, size_t size)
{
    size = size < PALM_WAITING_BYTES ? size : PALM_WAITING_BYTES - 1;
    while (size && servers[size - 1] != '\n')
        size--;
    return size;
}

void palm_wait_begin(palm_waiting *waiting, const char *servers, size_t size, uint64_t now_ns)
{
    palm_wait_end(waiting);
    size = whole_names(servers, size);
    /* release: who sees one of these bytes (acquire, in palm_wait_read) sees that since_ns was 0 before */
    for (size_t i = 0; i < size; i++)
        __atomic_store_n(&waiting->servers[i], servers[i], __ATOMIC_RELEASE);
    __atomic_store_n(&waiting->servers[size], 0, __ATOMIC_RELEASE);
    __atomic_store_n(&waiting->since_ns, now_ns, __ATOMIC_RELEASE); /* pairs with the first acquire in palm_wait_read */
}

void palm_wait_end(palm_waiting *waiting)
{
    palm_gauge(&waiting->since_ns, 0); /* the names stay, and say nothing */
}

bool palm_wait_read(const palm_waiting *waiting, palm_waiting *out)
{
    uint64_t since = __atomic_load_n(&waiting->since_ns, __ATOMIC_ACQUIRE);
    for (size_t i = 0; i < PALM_WAITING_BYTES; i++)
        out->servers[i] = __atomic_load_n(&waiting->servers[i], __ATOMIC_ACQUIRE);
    out->servers[PALM_WAITING_BYTES - 1] = 0; /* what the page says is not believed */
    out->since_ns = since;
    return since && __atomic_load_n(&waiting->since_ns, __ATOMIC_RELAXED) == since;
}

bool palm_work_read(const palm_at_work *work, palm_at_work *out)
{
    uint64_t since = __atomic_load_n(&work->since_ns, __ATOMIC_ACQUIRE); /* pairs with the release in palm_work_begin */
    memcpy(out, work, sizeof *out);
    out->since_ns = since;
    if (out->path_count > PALM_MAX_PATH)
        out->path_count = PALM_MAX_PATH;
    return since != 0;
}
