/* SPDX-License-Identifier: BSD-3-Clause
 * One arena: a sealed file in memory (sealed.c), sparse, of which most is addresses. */
#include "memory_limit.h"
#include "sealed.h"
#include "space_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

/* Addresses for a mapping, 2 MiB aligned, or NULL. */
static void *reserve(uint64_t size)
{
    uint8_t *p = mmap(NULL, size + PALMI_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint64_t before = palmi_round_up((uintptr_t)p, PALMI_HUGE) - (uintptr_t)p;
    if (before)
        munmap(p, before);
    munmap(p + before + size, PALMI_HUGE - before);
    return p + before;
}

static void *map_file(int fd, uint64_t at, uint64_t size, int protection)
{
    void *p = reserve(size);
    if (!p)
        return NULL;
    if (mmap(p, size, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, (off_t)at) == MAP_FAILED) {
        munmap(p, size);
        return NULL;
    }
    madvise(p, size, MADV_DONTDUMP); /* or a core dump is as large as all arenas that the process knows */
    return p;
}

static void *map_private(size_t size)
{
    palmi_memory_limit_reserve((int64_t)size);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p != MAP_FAILED)
        return p;
    palmi_memory_limit_reserve(-(int64_t)size);
    return NULL;
}

static void unmap_private(void *p, size_t size)
{
    munmap(p, size);
    palmi_memory_limit_reserve(-(int64_t)size);
}

static palm_err map_tables(palm_arena *arena)
{
    size_t coarse = arena->data_size / PALMI_HUGE, fine = arena->data_size / PALMI_UNIT;
    arena->blocks = map_private(PALMI_BLOCKS * sizeof *arena->blocks);
    arena->hint_bytes = (coarse + fine) * sizeof(uint32_t);
    arena->coarse = map_private(arena->hint_bytes);
    if (!arena->blocks || !arena->coarse)
        return PALM_ENOMEM;
    arena->fine = arena->coarse + coarse;
    return PALM_OK;
}

/* Takes the fd, also on failure. */
static palm_err arena_map(palm_space *space, int fd, uint64_t data_size, int protection, palm_arena **out)
{
    palm_arena *arena = calloc(1, sizeof *arena);
    if (!arena) {
        close(fd);
        return PALM_ENOMEM;
    }
    arena->space = space;
    arena->fd = fd;
    arena->data_size = data_size;
    void *head = map_file(fd, 0, PALMI_DATA_AT, PROT_READ | PROT_WRITE);
    arena->data = map_file(fd, PALMI_DATA_AT, data_size, protection);
    arena->head = head;
    if (!head || !arena->data || map_tables(arena)) {
        palmi_arena_destroy(arena);
        return PALM_ENOMEM;
    }
    arena->headers = (palmi_header *)((uint8_t *)head + PALMI_HEADERS_AT);
    madvise(arena->data, data_size, MADV_HUGEPAGE); /* has an effect where shmem_enabled is "advise" */
    *out = arena;
    return PALM_OK;
}

static bool random_id(uint64_t id[2])
{
    do
        if (getrandom(id, 16, 0) != 16)
            return false;
    while (!id[0] && !id[1]); /* 0 means "no arena" */
    return true;
}

palm_err palmi_arena_create(palm_space *space, uint64_t data_size, palm_arena **out)
{
    uint64_t id[2];
    if (!random_id(id))
        return PALM_ENOMEM;
    int fd = palmi_sealed_new(PALMI_DATA_AT + data_size);
    if (fd < 0)
        return PALM_ENOMEM;
    palm_arena *arena;
    palm_err err = arena_map(space, fd, data_size, PROT_READ | PROT_WRITE, &arena);
    if (err)
        return err;
    arena->id_hi = id[0];
    arena->id_lo = id[1];
    arena->owner = space->who;
    atomic_store_explicit(&arena->head->slot[0], space->who, memory_order_relaxed);
    /* Nobody knows of the arena before palm_space_identity has told the fd, so plain stores do. */
    arena->head->birth = (palmi_birth){PALMI_MAGIC, PALMI_LAYOUT, PALMI_SLOTS, PALMI_BLOCKS, PALM_PAGE_BYTES,
                                       id[0], id[1], PALMI_DATA_AT, data_size};
    *out = arena;
    return PALM_OK;
}

static bool birth_is_right(const palmi_birth *b, uint64_t file_size)
{
    return b->magic == PALMI_MAGIC && b->layout == PALMI_LAYOUT && b->slots == PALMI_SLOTS &&
           b->blocks == PALMI_BLOCKS && b->page_bytes == PALM_PAGE_BYTES && b->data_at == PALMI_DATA_AT &&
           b->data_size && b->data_size % PALMI_HUGE == 0 && file_size > PALMI_DATA_AT &&
           b->data_size == file_size - PALMI_DATA_AT;
}

/* Only the id says that this is the arena meant. */
int palmi_arena_open_file(int32_t pid, int32_t fd, int flags, uint64_t id_hi, uint64_t id_lo, palmi_birth *birth)
{
    uint64_t bytes;
    int file = palmi_sealed_open(pid, fd, flags, &bytes);
    if (file < 0)
        return -1;
    if (pread(file, birth, sizeof *birth, 0) != (ssize_t)sizeof *birth || !birth_is_right(birth, bytes) ||
        birth->id_hi != id_hi || birth->id_lo != id_lo) {
        close(file);
        return -1;
    }
    return file;
}

palm_err palmi_arena_open(palm_space *space, int32_t pid, int32_t fd, uint64_t id_hi, uint64_t id_lo, palm_arena **out)
{
    palmi_birth birth;
    palm_arena *arena;
    int file = palmi_arena_open_file(pid, fd, O_RDWR, id_hi, id_lo, &birth);
    if (file < 0 || arena_map(space, file, birth.data_size, PROT_READ, &arena))
        return PALM_EUNREACHABLE;
    arena->id_hi = id_hi;
    arena->id_lo = id_lo;
    /* relaxed: set at birth; 0 if the owner has closed the arena meanwhile, and then it counts as dead */
    arena->owner = atomic_load_explicit(&arena->head->slot[0], memory_order_relaxed);
    arena->slot = PALMI_NONE;
    *out = arena;
    return PALM_OK;
}

void palmi_arena_destroy(palm_arena *arena)
{
    if (arena->head)
        munmap(arena->head, PALMI_DATA_AT);
    if (arena->data)
        munmap(arena->data, arena->data_size);
    if (arena->blocks)
        unmap_private(arena->blocks, PALMI_BLOCKS * sizeof *arena->blocks);
    if (arena->coarse)
        unmap_private(arena->coarse, arena->hint_bytes);
    if (arena->fd >= 0)
        close(arena->fd);
    free(arena);
}

static bool block_has(const palmi_block *b, uint64_t at)
{
    return at >= b->at && at - b->at < b->size;
}

/* A mapped block that was here before its owner gathered addresses: when it is taken again, it has to be noted again. */
static void forget_former(palm_arena *arena, uint32_t hint, uint32_t index, uint64_t at)
{
    palmi_block *former = hint && hint - 1 != index ? &arena->blocks[hint - 1] : NULL;
    if (former && !former->refs && block_has(former, at))
        former->size = 0;
}

/* Blocks of PALMI_HUGE or more start at a multiple of it, so that there is one of them at most in each 2 MiB, and
 * noting a large block costs 1 entry for 512 pages. Hints are never removed: palmi_arena_at checks them. */
void palmi_arena_note(palm_arena *arena, uint32_t index)
{
    const palmi_block *b = &arena->blocks[index];
    uint64_t unit = b->size >= PALMI_HUGE ? PALMI_HUGE : PALMI_UNIT;
    uint32_t *hints = b->size >= PALMI_HUGE ? arena->coarse : arena->fine;
    for (uint64_t i = b->at / unit; i <= (b->at + b->size - 1) / unit; i++) {
        forget_former(arena, hints[i], index, i * unit);
        hints[i] = index + 1;
    }
}

static uint32_t check_hint(const palm_arena *arena, uint32_t hint, uint64_t at)
{
    if (!hint)
        return PALMI_NONE;
    const palmi_block *b = &arena->blocks[hint - 1];
    return b->refs && block_has(b, at) ? hint - 1 : PALMI_NONE;
}

uint32_t palmi_arena_at(const palm_arena *arena, const void *p)
{
    uint64_t at = (uint64_t)((uintptr_t)p - (uintptr_t)arena->data);
    if (at >= arena->data_size)
        return PALMI_NONE;
    uint32_t index = check_hint(arena, arena->coarse[at / PALMI_HUGE], at);
    return index != PALMI_NONE ? index : check_hint(arena, arena->fine[at / PALMI_UNIT], at);
}
