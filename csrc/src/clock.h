/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PALMI_CLOCK_H
#define PALMI_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Monotonic. */
static inline uint64_t palmi_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t palmi_now_ms(void)
{
    return palmi_now_ns() / 1000000;
}

#endif
