/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PALM_SIBLING_H
#define PALM_SIBLING_H

#include <stdbool.h>
#include <stdint.h>

/* False where the system cannot do it, or does not tell what libc's own fork would tell the kernel. */
bool palm_sibling_possible(void);

/* Forks this process, which has to have one thread, for its parent: that one is the parent of the new process too, gets
   its SIGCHLD and can wait for it. The pid, 0 in the new process, or -1 with errno. The pid is stored to `*told` before
   the new process runs; once this one is dead, `*told` is final. Handlers of pthread_atfork are not called. */
int32_t palm_sibling(int32_t *told);

#endif
