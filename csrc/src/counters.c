/* SPDX-License-Identifier: BSD-3-Clause */
#include "palm_space.h"
#include "palm_work.h"

#include <math.h>
#include <string.h>

_Static_assert(sizeof(palm_counters) <= PALM_PAGE_BYTES, "the counters fit their page");

static void count_times(palm_function_counters *function, uint64_t n, uint64_t ns)
{
    unsigned bucket = ns ? 64 - (unsigned)__builtin_clzll(ns) : 0;
    palm_tally(&function->busy_ns, n * ns);
    palm_tally(&function->histogram[bucket < PALM_HISTOGRAM ? bucket : PALM_HISTOGRAM - 1], n);
}

void palm_count_call(palm_function_counters *function, uint64_t ns)
{
    palm_count_calls(function, 1, ns);
}

void palm_count_calls(palm_function_counters *function, uint64_t n, uint64_t ns)
{
    palm_tally(&function->calls, n);
    count_times(function, n, ns);
}

void palm_count_step(palm_function_counters *function, uint64_t ns)
{
    count_times(function, 1, ns);
}

/* Which has this name, or the first that has none; NULL: others have all. */
static palm_own_counter *find_own(palm_counters *counters, const char *name, size_t size)
{
    for (uint32_t i = 0; i < PALM_MAX_OWN; i++) {
        palm_own_counter *own = &counters->own[i];
        if (!own->kind || (!memcmp(own->name, name, size) && !own->name[size]))
            return own;
    }
    return NULL;
}

static unsigned bucket_of(double value)
{
    int exponent;
    double half = frexp(value, &exponent); /* half * 2^exponent, 0.5 <= half < 1 */
    int i = exponent - (half == 0.5) - PALM_OWN_LEAST;
    return value <= 0 || i < 0 ? 0 : i < PALM_OWN_BUCKETS - 1 ? (unsigned)i : PALM_OWN_BUCKETS - 1;
}

static void add(uint64_t *bits, double value)
{
    double sum;
    memcpy(&sum, bits, sizeof sum);
    sum += value;
    uint64_t after;
    memcpy(&after, &sum, sizeof after);
    palm_gauge(bits, after);
}

palm_err palm_own_add(palm_counters *counters, palm_own_kind kind, const char *name, size_t size, double value)
{
    if (size >= PALM_NAME_BYTES)
        return PALM_EINVAL;
    palm_own_counter *own = find_own(counters, name, size);
    if (!own)
        return PALM_ELIMIT;
    if (!own->kind)
        memcpy(own->name, name, size); /* the page was zero at birth */
    else if (own->kind != kind)
        return PALM_EINVAL;
    add(&own->sum, value);
    palm_count(&own->histogram[isinf(value) && value > 0 ? PALM_OWN_BUCKETS - 1 : bucket_of(value)], 1);
    palm_count(&own->count, 1);
    __atomic_store_n(&own->kind, kind, __ATOMIC_RELEASE); /* pairs with the acquire in palm_own_read */
    return PALM_OK;
}

bool palm_own_read(const palm_counters *counters, uint32_t i, palm_own_counter *out)
{
    if (i >= PALM_MAX_OWN || !__atomic_load_n(&counters->own[i].kind, __ATOMIC_ACQUIRE))
        return false;
    memcpy(out, &counters->own[i], sizeof *out);
    out->name[PALM_NAME_BYTES - 1] = 0;
    return true;
}

void palm_work_on(palm_at_work *work, const uint8_t job[16], uint32_t hop, uint32_t function, uint32_t together,
                  uint32_t client)
{
    uint64_t halves[2];
    memcpy(halves, job, sizeof halves);
    palm_work_term(&work->job[0], halves[0]);
    palm_work_term(&work->job[1], halves[1]);
    work->hop = hop;
    __atomic_store_n(&work->together, together, __ATOMIC_RELEASE); /* as palm_work_term */
    __atomic_store_n(&work->client, client, __ATOMIC_RELEASE); /* as palm_work_term */
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
    if (out->last_path_count > PALM_MAX_PATH)
        out->last_path_count = PALM_MAX_PATH;
    return since != 0;
}

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE); /* pairs with the release in palm_work_term */
}

void palm_work_unwanted(palm_at_work *work, uint64_t since_ns, uint64_t now_ns)
{
    if (load(&work->unwanted_since) == since_ns)
        return;
    palm_gauge(&work->unwanted_ns, now_ns);
    __atomic_store_n(&work->unwanted_since, since_ns, __ATOMIC_RELEASE); /* pairs with the acquire in is_unwanted */
}

static bool is_unwanted(const palm_at_work *work, uint64_t since, uint64_t now_ns, uint64_t grace_ns)
{
    return __atomic_load_n(&work->unwanted_since, __ATOMIC_ACQUIRE) == since &&
           now_ns > load(&work->unwanted_ns) && now_ns - load(&work->unwanted_ns) > grace_ns;
}

palm_end palm_work_judge(const palm_at_work *work, uint64_t now_ns, uint64_t realtime_ns, uint64_t grace_ns,
                         uint64_t *since_ns)
{
    palm_end end = PALM_END_NONE;
    uint64_t since = __atomic_load_n(&work->since_ns, __ATOMIC_ACQUIRE); /* pairs with the release in palm_work_begin */
    uint64_t limit = load(&work->limit_ns), spent = load(&work->spent_ns), deadline = load(&work->deadline_ns);
    if (!since)
        return PALM_END_NONE;
    if (limit && now_ns > since && now_ns - since + spent > limit)
        end = PALM_END_OVERRUN;
    else if (is_unwanted(work, since, now_ns, grace_ns))
        end = PALM_END_UNWANTED;
    else if (deadline && realtime_ns > deadline && realtime_ns - deadline > grace_ns)
        end = PALM_END_LATE;
    *since_ns = since;
    return load(&work->since_ns) == since ? end : PALM_END_NONE; /* else they may have been another execution's */
}
