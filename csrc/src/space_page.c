/* SPDX-License-Identifier: BSD-3-Clause
 * The page of counters: read by others while its process computes. */
#include "space_internal.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

void *palm_space_page(const palm_space *space)
{
    return space->own ? space->own->head->page : space->page;
}

palm_err palm_page_open(const palm_identity *of, const void **page)
{
    palm_identity here = {0};
    palmi_birth birth;
    palmi_peers_host(here.boot_id, &here.pid_namespace);
    if (!palmi_peers_reachable(&here, of))
        return PALM_EUNREACHABLE;
    int fd = palmi_arena_open_file(of->pid, of->fd, O_RDONLY, of->arena_hi, of->arena_lo, &birth);
    if (fd < 0)
        return PALM_EUNREACHABLE;
    const uint8_t *head = mmap(NULL, sizeof(palmi_head), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (head == MAP_FAILED)
        return PALM_EUNREACHABLE;
    *page = head + offsetof(palmi_head, page);
    return PALM_OK;
}

void palm_page_close(const void *page)
{
    if (page)
        munmap((uint8_t *)(uintptr_t)page - offsetof(palmi_head, page), sizeof(palmi_head));
}
