/* SPDX-License-Identifier: BSD-3-Clause
 * Arenas whose owner is dead. What is mapped stays valid and unchanged, and nobody recycles it; but one held block
 * keeps the whole memfd. So what is not used is unmapped, and little that is used is copied to private pages at the
 * same addresses. Nobody punches an orphan: the survivors cannot agree on who may. */
#include "space_internal.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVACUATE_MOST (64ull << 20)
#define EVACUATE_A_TICK (8ull << 20) /* takes 7 ms, under the lock */
enum { EVACUATE_SHARE = 16 };

/* Only what has pages: reading a hole would allocate them. */
static void copy_pages(const palm_arena *arena, const palmi_block *b, uint8_t *copy)
{
    off_t start = (off_t)(PALMI_DATA_AT + b->at), end = start + (off_t)b->size, at = start;
    while (at < end) {
        off_t from = lseek(arena->fd, at, SEEK_DATA), to = from < 0 ? -1 : lseek(arena->fd, from, SEEK_HOLE);
        if (from < 0 || to < 0 || from >= end)
            return;
        to = to < end ? to : end;
        memcpy(copy + (from - start), arena->data + b->at + (from - start), (size_t)(to - from));
        at = to;
    }
}

/* Readers never notice: mremap replaces the pages in one step by others with the same content. */
static bool evacuate_block(palm_arena *arena, palmi_block *b)
{
    uint8_t *copy = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return false;
    copy_pages(arena, b, copy);
    if (mprotect(copy, b->size, PROT_READ) ||
        mremap(copy, b->size, b->size, MREMAP_MAYMOVE | MREMAP_FIXED, arena->data + b->at) == MAP_FAILED) {
        munmap(copy, b->size);
        return false;
    }
    b->evacuated = true;
    arena->space->stats.evacuated++;
    return true;
}

static uint64_t held_bytes(const palm_arena *arena)
{
    uint64_t sum = 0;
    uint32_t left = arena->held;
    for (uint32_t i = 0; left && i < PALMI_BLOCKS; i++)
        if (arena->blocks[i].refs) {
            left--;
            sum += arena->blocks[i].size;
        }
    return sum;
}

static bool is_worth_it(const palm_arena *arena)
{
    struct stat s;
    uint64_t held = held_bytes(arena);
    return held <= EVACUATE_MOST && !fstat(arena->fd, &s) && held <= (uint64_t)s.st_blocks * 512 / EVACUATE_SHARE &&
           sysconf(_SC_PAGESIZE) == PALMI_UNIT; /* else a block's border may lie within a page */
}

/* No memory behind what nobody holds; the addresses stay ours, so that no other arena comes to lie among them. */
static void let_go_between(palm_arena *arena, uint64_t from, uint64_t to)
{
    if (from < to)
        mmap(arena->data + from, to - from, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void palmi_orphans_let_go(palm_arena *arena, uint32_t index)
{
    const palmi_block *b = &arena->blocks[index];
    let_go_between(arena, b->at, b->at + b->size);
}

static palmi_block *next_held(palm_arena *arena, uint64_t from)
{
    palmi_block *next = NULL;
    uint32_t left = arena->held;
    for (uint32_t i = 0; left && i < PALMI_BLOCKS; i++) {
        palmi_block *b = &arena->blocks[i];
        left -= b->refs != 0;
        if (b->refs && b->at >= from && (!next || b->at < next->at))
            next = b;
    }
    return next;
}

/* All that is held lies in private copies: the memfd goes, and with the last process that does so, its memory. */
static void let_go_of_memfd(palm_arena *arena)
{
    uint64_t from = 0;
    for (palmi_block *b; (b = next_held(arena, from)); from = b->at + b->size)
        let_go_between(arena, from, b->at);
    let_go_between(arena, from, arena->data_size);
    munmap(arena->head, PALMI_DATA_AT);
    arena->head = NULL;
    arena->headers = NULL;
    close(arena->fd);
    arena->fd = -1;
}

/* A block that is let go of and taken again between two ticks shows the copy: it has the same content. */
static void evacuate_some(palm_arena *arena)
{
    uint64_t copied = 0;
    uint32_t left = arena->held;
    for (uint32_t i = 0; left && i < PALMI_BLOCKS; i++) {
        palmi_block *b = &arena->blocks[i];
        if (!b->refs)
            continue;
        left--;
        if (b->evacuated)
            continue;
        if (copied >= EVACUATE_A_TICK || !evacuate_block(arena, b))
            return;
        copied += b->size;
    }
    let_go_of_memfd(arena);
}

static void look_after(palm_space *space, palm_arena *arena)
{
    if (!arena->held) {
        palmi_space_forget(space, arena);
        palmi_peers_detach(arena);
    } else if (arena->fd >= 0 && is_worth_it(arena)) {
        evacuate_some(arena);
    }
}

static bool is_orphan(palm_space *space, const palm_arena *arena)
{
    /* relaxed: an owner that closes its arena while it lives says so here; it recycles nothing any more */
    return arena->fd < 0 || !atomic_load_explicit(&arena->head->slot[0], memory_order_relaxed) ||
           palmi_peers_dead(space, arena->owner);
}

void palmi_orphans_tick(palm_space *space)
{
    for (uint32_t i = space->n_mapped; i--;) /* backwards: the arena looked at may go */
        if (is_orphan(space, space->mapped[i]))
            look_after(space, space->mapped[i]);
}
