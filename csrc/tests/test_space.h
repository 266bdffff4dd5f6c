/* SPDX-License-Identifier: BSD-3-Clause
 * What the tests of the space have in common. */
#ifndef PALM_TESTS_TEST_SPACE_H
#define PALM_TESTS_TEST_SPACE_H
#include "check.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define SECOND 1000000000ull

static inline palm_space *open_space(uint64_t bound)
{
    palm_space *space;
    palm_space_options options = {.bound = bound};
    CHECK_OK(palm_space_open(&options, &space));
    return space;
}

static inline palm_space_stats stats(palm_space *space)
{
    palm_space_stats s;
    palm_space_get_stats(space, &s);
    return s;
}

static inline uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static inline void fill(void *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n / 8; i++)
        ((uint64_t *)p)[i] = seed + i;
}

static inline bool is_filled(const void *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n / 8; i++)
        if (((const uint64_t *)p)[i] != seed + i)
            return false;
    return true;
}

static inline bool is_zero(const void *p, size_t n)
{
    const uint8_t *bytes = p;
    return !bytes[0] && !memcmp(bytes, bytes + 1, n - 1);
}

typedef struct held { palm_arena *arena; uint32_t index; const void *first; } held;

static inline held hold(palm_space *space, const void *p, size_t n)
{
    held h;
    size_t size;
    CHECK_OK(palm_space_hold(space, p, n, &h.arena, &h.index, &h.first, &size));
    return h;
}

static inline void drop(held h) { palm_block_drop(h.arena, h.index); }

/* An offer of an own block; the caller's reference stays. */
static inline palm_block offer_of(palm_space *space, const void *p)
{
    palm_block offer;
    held h = hold(space, p, 1);
    CHECK_OK(palm_block_lend(h.arena, h.index, &offer));
    drop(h);
    return offer;
}

static inline held take(palm_space *space, const palm_block *offer)
{
    held h;
    CHECK_OK(palm_space_take(space, offer, &h.arena, &h.index, &h.first));
    return h;
}

static inline void check_take(palm_space *space, palm_block offer, palm_err wanted)
{
    held h;
    palm_err err = palm_space_take(space, &offer, &h.arena, &h.index, &h.first);
    CHECK_ERR(err, wanted);
}
#endif
