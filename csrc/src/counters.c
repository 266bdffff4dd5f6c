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

bool palm_work_read(const palm_at_work *work, palm_at_work *out)
{
    uint64_t since = __atomic_load_n(&work->since_ns, __ATOMIC_ACQUIRE); /* pairs with the release in palm_work_begin */
    memcpy(out, work, sizeof *out);
    out->since_ns = since;
    if (out->path_count > PALM_MAX_PATH)
        out->path_count = PALM_MAX_PATH;
    return since != 0;
}
