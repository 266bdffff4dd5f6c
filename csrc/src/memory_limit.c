/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The bound of this process's private memory: RLIMIT_DATA, which counts what is asked for, whether it is touched or not.
 * Tables of ours for the arenas of others take addresses for all that these may ever hold; that is added to the limit.
 * No lock: forked children and signal handlers come here too. */
#include "memory_limit.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static _Atomic uint64_t limit; /* 0: none */
static _Atomic uint64_t reserved, kept, room;

/* Each number is read anew until none has changed, so that the last one to set the limit sets the last sum: in one order for
 * all threads, as the atomics' default is. */
static uint64_t sum(void)
{
    uint64_t more = atomic_load(&room);
    uint64_t bytes = atomic_load(&limit) +
                     atomic_load(&reserved) + atomic_load(&kept);
    return more > UINT64_MAX - bytes ? UINT64_MAX : bytes + more;
}

static void apply(void)
{
    struct rlimit r;
    uint64_t bytes;
    if (!atomic_load(&limit) || getrlimit(RLIMIT_DATA, &r))
        return;
    do {
        bytes = sum();
        r.rlim_cur = bytes < r.rlim_max ? bytes : r.rlim_max;
        setrlimit(RLIMIT_DATA, &r);
    } while (bytes != sum());
}

/* Where malloc gets no more for its heap, it makes another one, of which it gives hardly anything back: 64 MiB asked for,
 * and not touched, after each failure. */
static void keep_to_one_heap(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
#endif
}

void palm_memory_limit_set(uint64_t bytes, uint64_t of_them_reserved)
{
    if (!atomic_load(&limit))
        keep_to_one_heap();
    atomic_store(&limit, bytes);
    atomic_store(&reserved, of_them_reserved);
    atomic_store(&kept, 0);
    apply();
}

void palm_memory_limit_keep(uint64_t bytes, uint64_t most)
{
    uint64_t had = atomic_load(&reserved);
    uint64_t more = bytes > had ? bytes - had : 0;
    atomic_store(&kept, more < most ? more : most);
    apply();
}

void palm_memory_limit_room(uint64_t bytes)
{
    atomic_store(&room, bytes);
    apply();
}

void palmi_memory_limit_reserve(int64_t bytes)
{
    atomic_fetch_add(&reserved, (uint64_t)bytes);
    apply();
}

/* The sixth number, in pages; without stdio. */
static uint64_t data_bytes(void)
{
    char text[256];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *at = text;
    for (int i = 0; i < 5 && at; i++)
        at = (at = strchr(at, ' ')) ? at + 1 : NULL;
    return at ? strtoull(at, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

uint64_t palm_memory_limit_had(void)
{
    uint64_t data = data_bytes(), ours = atomic_load(&reserved) + atomic_load(&kept);
    return data > ours ? data - ours : 0;
}
