/* SPDX-License-Identifier: BSD-3-Clause
 * What a process knows of shared memory: its own arena, those of others, and which of them an address belongs to. */
#include "space_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define RESERVATION 4                     /* addresses for each byte of the bound: blocks are never moved */
#define RESERVE_BEYOND (256ull << 30)     /* but no more than this: a process may map 448 arenas */
#define LEAST_ARENA (2 * PALMI_HUGE)
enum { SHARE_OF_MEMORY = 2, SHARE_OF_ADDRESSES = 4 };

/* ------------------------------------------------------------------------------------------------------ open, close */

/* RLIMIT_AS is set by batch systems: the arena leaves most of it to the program. RLIMIT_FSIZE counts for memfds too,
 * and its signal ends a process. */
static uint64_t reservation_limit(void)
{
    struct rlimit limit;
    uint64_t most = UINT64_MAX;
    if (!getrlimit(RLIMIT_AS, &limit) && limit.rlim_cur != RLIM_INFINITY)
        most = limit.rlim_cur / SHARE_OF_ADDRESSES;
    if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY) {
        uint64_t file = limit.rlim_cur > PALMI_DATA_AT ? limit.rlim_cur - PALMI_DATA_AT : 0;
        most = file < most ? file : most;
    }
    return most;
}

static uint64_t reservation_for(uint64_t bound)
{
    uint64_t most = bound > RESERVE_BEYOND ? bound : RESERVE_BEYOND;
    uint64_t wanted = bound <= most / RESERVATION ? bound * RESERVATION : most;
    uint64_t limit = reservation_limit();
    wanted = palmi_round_up(wanted < LEAST_ARENA ? LEAST_ARENA : wanted, PALMI_HUGE);
    return wanted <= limit ? wanted : limit & ~(PALMI_HUGE - 1);
}

/* Mapping may fail for want of addresses: half of them, down to the bound. */
static palm_err open_arena(palm_space *space, const palm_space_options *options)
{
    uint64_t bound = options->bound ? options->bound : space->bound.total / SHARE_OF_MEMORY;
    uint64_t size = reservation_for(bound > 1ull << 46 ? 1ull << 46 : bound);
    palm_err err = PALM_ENOMEM;
    while (size >= LEAST_ARENA) {
        err = palmi_arena_create(space, size, &space->own);
        if (!err || size / 2 < bound)
            break;
        size = palmi_round_up(size / 2, PALMI_HUGE);
    }
    if (err)
        return err;
    err = palmi_pool_open(space, bound < size ? bound : size, options);
    if (err) {
        palmi_arena_destroy(space->own);
        space->own = NULL;
        return err;
    }
    space->own_start = (uintptr_t)space->own->data;
    space->own_size = space->own->data_size;
    return PALM_OK;
}

static palm_err open_page(palm_space *space)
{
    space->page = aligned_alloc(PALM_ALIGN, PALM_PAGE_BYTES);
    if (!space->page)
        return PALM_ENOMEM;
    memset(space->page, 0, PALM_PAGE_BYTES);
    return PALM_OK;
}

static void destroy_space(palm_space *space)
{
    palmi_peers_close(space);
    palmi_bound_close(&space->bound);
    pthread_mutex_destroy(&space->lock);
    free(space->mapped);
    free(space->page);
    free(space);
}

static void destroy_own(palm_space *space)
{
    palmi_pool_close(space);
    palmi_arena_destroy(space->own);
    space->own = NULL;
}

palm_err palm_space_open(const palm_space_options *options, palm_space **out)
{
    static const palm_space_options defaults = {0};
    options = options ? options : &defaults;
    palm_space *space = calloc(1, sizeof *space);
    if (!space)
        return PALM_ENOMEM;
    pthread_mutex_init(&space->lock, NULL);
    space->no_arena = options->no_arena;
    space->now = palmi_now_ns();
    palmi_peers_open(space);
    palmi_bound_open(&space->bound);
    palm_err err = PALM_OK;
    if (space->no_arena || open_arena(space, options))
        err = open_page(space);
    if (!err)
        err = palmi_fork_watch(space);
    if (err) {
        if (space->own)
            destroy_own(space);
        destroy_space(space);
        return err;
    }
    *out = space;
    return PALM_OK;
}

/* Unlocks. Only one caller sees a closed space become empty, since nobody can take from it any more. */
void palmi_space_unlock(palm_space *space)
{
    bool empty = false;
    if (space->closed && !space->forked) {
        palmi_fork_tick(space);
        if (space->own && !space->own->held)
            destroy_own(space);
        for (uint32_t i = space->n_mapped; i--;)
            if (!space->mapped[i]->held) {
                palm_arena *arena = space->mapped[i];
                palmi_space_forget(space, arena);
                palmi_peers_detach(arena);
            }
        empty = !space->own && !space->n_mapped && !space->pins;
    }
    pthread_mutex_unlock(&space->lock);
    if (empty) {
        palmi_fork_unwatch(space);
        destroy_space(space);
    }
}

/* In a forked child the arena stays: arrays in it may be in use, and the parent's slots are not ours to give back. */
void palm_space_close(palm_space *space)
{
    pthread_mutex_lock(&space->lock);
    if (!space->forked && !space->closed) {
        space->closed = true;
        /* release: nothing is recycled from here on, and peers treat the arena like that of a dead owner */
        if (space->own)
            atomic_store_explicit(&space->own->head->slot[0], 0, memory_order_release);
        palmi_fork_close(space);
    }
    palmi_space_unlock(space);
}

bool palm_space_has_arena(const palm_space *space) { return space->own_size != 0; }
bool palm_space_forked(const palm_space *space) { return space->forked; }

bool palm_space_owns(const palm_space *space, const void *p)
{
    return (uintptr_t)p - space->own_start < space->own_size;
}

/* -------------------------------------------------------------------------------------------------- registry of arenas */

static uint32_t first_behind(const palm_space *space, const void *p)
{
    uint32_t low = 0, high = space->n_mapped;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((uintptr_t)space->mapped[middle]->data <= (uintptr_t)p)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

palm_err palmi_space_remember(palm_space *space, palm_arena *arena)
{
    if (space->n_mapped == space->room_mapped) {
        uint32_t room = space->room_mapped ? 2 * space->room_mapped : 8;
        palm_arena **more = realloc(space->mapped, room * sizeof *more);
        if (!more)
            return PALM_ENOMEM;
        space->mapped = more;
        space->room_mapped = room;
    }
    uint32_t at = first_behind(space, arena->data);
    memmove(&space->mapped[at + 1], &space->mapped[at], (space->n_mapped - at) * sizeof *space->mapped);
    space->mapped[at] = arena;
    space->n_mapped++;
    return PALM_OK;
}

void palmi_space_forget(palm_space *space, palm_arena *arena)
{
    uint32_t at = first_behind(space, arena->data) - 1;
    memset(space->recent, 0, sizeof space->recent);
    space->n_mapped--;
    memmove(&space->mapped[at], &space->mapped[at + 1], (space->n_mapped - at) * sizeof *space->mapped);
}

static bool has_id(const palm_arena *arena, uint64_t id_hi, uint64_t id_lo)
{
    return arena->id_hi == id_hi && arena->id_lo == id_lo && arena->fd >= 0;
}

/* Evacuated arenas are not found: more of their blocks can come only through another process's fd. */
palm_arena *palmi_space_find(palm_space *space, uint64_t id_hi, uint64_t id_lo)
{
    if (space->own && has_id(space->own, id_hi, id_lo))
        return space->own;
    palm_arena **recent = &space->recent[id_lo % PALMI_RECENT];
    if (*recent && has_id(*recent, id_hi, id_lo))
        return *recent;
    for (uint32_t i = 0; i < space->n_mapped; i++)
        if (has_id(space->mapped[i], id_hi, id_lo))
            return *recent = space->mapped[i];
    return NULL;
}

/* The arena whose data has p. */
static palm_arena *arena_at(const palm_space *space, const void *p)
{
    if (space->own && palm_space_owns(space, p))
        return space->own;
    uint32_t behind = first_behind(space, p);
    palm_arena *arena = behind ? space->mapped[behind - 1] : NULL;
    return arena && (uintptr_t)p - (uintptr_t)arena->data < arena->data_size ? arena : NULL;
}

palm_err palm_space_hold(palm_space *space, const void *p, size_t n, palm_arena **arena, uint32_t *index,
                         const void **first, size_t *size)
{
    palm_err err = PALM_EINVAL;
    pthread_mutex_lock(&space->lock);
    palm_arena *of = arena_at(space, p);
    uint32_t found = of ? palmi_arena_at(of, p) : PALMI_NONE;
    if (space->forked) {
        err = PALM_EFORK;
    } else if (found != PALMI_NONE) {
        const palmi_block *b = &of->blocks[found];
        uint64_t behind = b->size - (uint64_t)((const uint8_t *)p - (of->data + b->at));
        if (n <= behind) {
            palmi_block_hold(of, found);
            *arena = of;
            *index = found;
            *first = of->data + b->at;
            *size = b->size;
            err = PALM_OK;
        }
    }
    pthread_mutex_unlock(&space->lock);
    return err;
}

/* ------------------------------------------------------------------------------------------------------- housekeeping */

void palm_space_tick(palm_space *space, uint64_t now_ns)
{
    pthread_mutex_lock(&space->lock);
    if (!space->forked && !space->closed) {
        space->now = now_ns;
        palmi_fork_tick(space);
        palmi_orphans_tick(space);
        if (space->own) {
            palmi_sweep(space);
            palmi_collect(space, PALMI_BLOCKS);
        }
        palmi_peers_tidy(space);
        if (space->own)
            palmi_pool_trim(space);
    }
    palmi_space_unlock(space);
}

void palm_space_get_stats(palm_space *space, palm_space_stats *out)
{
    pthread_mutex_lock(&space->lock);
    *out = space->stats;
    out->arena_bound = space->pool.bound;
    out->arena_in_use = space->pool.committed - space->pool.idle_bytes;
    out->arena_idle = space->pool.idle_bytes;
    out->blocks_lent = space->pool.lent.count;
    out->peers = space->n_mapped;
    pthread_mutex_unlock(&space->lock);
}
