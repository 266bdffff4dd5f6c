/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_memory.h: the bound of private memory (memory_limit.c), and what a process that dies of it leaves on its page
 * (memory.c).
 */
#ifndef PALM_MEMORY_H
#define PALM_MEMORY_H

#include "palm_decls.h"

#include <stdbool.h>
#include <stdint.h>

PALM_BEGIN_DECLS

/* Of a process whose private memory is bounded: bytes. Written by that process; `had` and `lacked` when it dies. */
typedef struct palm_memory {
    uint64_t limit;                /* 0: there is no bound, and the rest says nothing */
    uint64_t had;
    uint64_t lacked;               /* 1: it died for want of memory, as far as it can tell */
} palm_memory;
/* From now on a death by SIGABRT or SIGSEGV leaves there what the process had. */
void palm_memory_watch(palm_memory *memory, uint64_t limit);
/* The process is about to end. lacked: since it got no memory; else that is taken from how near to the limit it is. */
void palm_memory_ended(palm_memory *memory, bool lacked);
/* This process's private memory is bounded from now on, by so many bytes and those of which it has but the addresses. */
void palm_memory_limit_set(uint64_t limit, uint64_t reserved);
/* So many bytes are reserved by now: what malloc keeps of what it got back has come to them. No more than `most` are added
 * to the bound for that. */
void palm_memory_limit_keep(uint64_t reserved, uint64_t most);
/* And by so many more; UINT64_MAX: it is not bounded. */
void palm_memory_limit_room(uint64_t bytes);
/* What malloc has free goes back, of which the addresses stay, and count as before. */
void palm_memory_limit_trim(void);
/* What there is of that which is bounded. Signal handlers may call it. */
uint64_t palm_memory_limit_had(void);

PALM_END_DECLS
#endif
