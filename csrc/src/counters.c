/* SPDX-License-Identifier: BSD-3-Clause */
#include "palm.h"

_Static_assert(sizeof(palm_counters) <= PALM_PAGE_BYTES, "the counters fit their page");

void palm_count_call(palm_function_counters *function, uint64_t ns)
{
    unsigned bucket = ns ? 64 - (unsigned)__builtin_clzll(ns) : 0;
    palm_count(&function->calls, 1);
    palm_count(&function->busy_ns, ns);
    palm_count(&function->histogram[bucket < PALM_HISTOGRAM ? bucket : PALM_HISTOGRAM - 1], 1);
}
