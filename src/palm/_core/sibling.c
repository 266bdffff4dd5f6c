/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "sibling.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where libc keeps the thread's id: the kernel writes the new one there, as in libc's fork, or else mutexes and raise()
   of the new process would use that of the old. */
static pid_t *tid_address(void)
{
    pid_t *at = NULL;
    if (prctl(PR_GET_TID_ADDRESS, &at) != 0 || !at || *at != (pid_t)syscall(SYS_gettid))
        return NULL;
    return at;
}

static long clone_for_parent(int32_t *told, pid_t *tid)
{
    unsigned long flags = CLONE_PARENT | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
#if defined(__x86_64__) && !defined(__ILP32__)
    return syscall(SYS_clone, flags, NULL, told, tid, NULL);
#elif defined(__aarch64__)
    return syscall(SYS_clone, flags, NULL, told, NULL, tid);
#else
    (void)flags, (void)told, (void)tid;
    errno = ENOSYS;
    return -1;
#endif
}

bool palm_sibling_possible(void)
{
#if (defined(__x86_64__) && !defined(__ILP32__)) || defined(__aarch64__)
    return tid_address() != NULL;
#else
    return false;
#endif
}

int32_t palm_sibling(int32_t *told)
{
    struct robust_list_head *robust = NULL; /* a fork does not inherit it; libc's registers it anew */
    size_t size = 0;
    pid_t *tid = tid_address();
    if (!tid) {
        errno = ENOSYS;
        return -1;
    }
    if (syscall(SYS_get_robust_list, 0, &robust, &size) != 0)
        return -1;
    long pid = clone_for_parent(told, tid);
    if (pid == 0 && robust)
        syscall(SYS_set_robust_list, robust, size);
    return (int32_t)pid;
}
