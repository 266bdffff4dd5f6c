/* SPDX-License-Identifier: BSD-3-Clause
 * Own blocks: where they are, which are free. A block keeps its addresses and its header for good, so that what was
 * warm stays warm here and in every consumer's page table; addresses are gathered only when they run out. Nothing
 * here touches shared memory, but for data that trimming gives back. */
#include "poison.h"
#include "space_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum {
    COLLECT_SOME = 64,   /* lent blocks looked at for an allocation that finds no idle one: 7.5 ns each */
    LARGER_CLASSES = 4,  /* how much larger a block may be where fresh pages are not to be had: one doubling */
};
#define FLOOR_DEFAULT (64ull << 20)
#define IDLE_NS_DEFAULT 5000000000ull
#define SWEEP_EVERY_NS 10000000ull

/* ----------------------------------------------------------------------------------------------------------- lists */

static void list_insert(palmi_block *blocks, palmi_list *list, int which, uint32_t index, bool front)
{
    palmi_links *links = &blocks[index].links[which];
    links->prev = front ? PALMI_NONE : list->last;
    links->next = front ? list->first : PALMI_NONE;
    *(links->prev == PALMI_NONE ? &list->first : &blocks[links->prev].links[which].next) = index;
    *(links->next == PALMI_NONE ? &list->last : &blocks[links->next].links[which].prev) = index;
    list->count++;
}

static void list_remove(palmi_block *blocks, palmi_list *list, int which, uint32_t index)
{
    palmi_links *links = &blocks[index].links[which];
    *(links->prev == PALMI_NONE ? &list->first : &blocks[links->prev].links[which].next) = links->next;
    *(links->next == PALMI_NONE ? &list->last : &blocks[links->next].links[which].prev) = links->prev;
    list->count--;
}

static const palmi_list empty_list = {PALMI_NONE, PALMI_NONE, 0};

palm_err palmi_pool_open(palm_space *space, uint64_t bound, const palm_space_options *options)
{
    palmi_pool *pool = &space->pool;
    for (int c = 0; c < PALMI_CLASSES; c++)
        pool->idle[c] = empty_list;
    pool->aged = pool->lent = pool->spare = empty_list;
    pool->bound = bound;
    pool->floor = options->floor ? options->floor : FLOOR_DEFAULT < bound / 8 ? FLOOR_DEFAULT : bound / 8;
    pool->idle_ns = options->idle_ns ? options->idle_ns : IDLE_NS_DEFAULT;
    /* Between two blocks there is at most one extent. */
    pool->extents = malloc((PALMI_BLOCKS + 1) * sizeof *pool->extents);
    if (!pool->extents)
        return PALM_ENOMEM;
    pool->extents[0] = (palmi_extent){0, space->own->data_size};
    pool->n_extents = 1;
    return PALM_OK;
}

void palmi_pool_close(palm_space *space)
{
    palmi_pool *pool = &space->pool;
    for (uint32_t i = 0; i < pool->n_headers; i++)
        if (space->own->blocks[i].size)
            PALMI_UNPOISON(space->own->data + space->own->blocks[i].at, space->own->blocks[i].size);
    free(pool->extents);
    pool->extents = NULL;
}

/* ---------------------------------------------------------------------------------------------------- size classes */

/* Four to the doubling: 16, 20, 24, 28, 32, 40, ... KiB. What a block has too much is addresses, not memory. */
static uint32_t size_class(uint64_t n, uint64_t *size)
{
    n = palmi_round_up(n ? n : 1, PALMI_UNIT);
    *size = n;
    if (n == PALMI_UNIT)
        return 0;
    unsigned power = 63 - (unsigned)__builtin_clzll(n - 1); /* 2^power < n <= 2^(power + 1) */
    uint64_t quarter = (1ull << power) / 4;
    uint64_t quarters = (n - (1ull << power) + quarter - 1) / quarter;
    *size = palmi_round_up((1ull << power) + quarters * quarter, PALMI_UNIT);
    return (power - 12) * 4 + (uint32_t)quarters;
}

static uint64_t fresh_bytes(const palmi_block *b, uint64_t n)
{
    uint64_t touched = palmi_round_up(n ? n : 1, PALMI_UNIT);
    return touched > b->warm ? touched - b->warm : 0;
}

/* May the first n bytes of this block be touched? If so, they count from now on. */
static bool commit(palm_space *space, palmi_block *b, uint64_t n)
{
    palmi_pool *pool = &space->pool;
    uint64_t fresh = fresh_bytes(b, n);
    if (!fresh)
        return true;
    if (fresh > pool->bound || pool->committed > pool->bound - fresh || !palmi_bound_admits(&space->bound, fresh))
        return false;
    pool->committed += fresh;
    b->warm += fresh;
    return true;
}

/* --------------------------------------------------------------------------------------------------- finding a block */

static void leave_idle(palm_space *space, uint32_t index)
{
    palmi_pool *pool = &space->pool;
    palmi_block *blocks = space->own->blocks, *b = &blocks[index];
    list_remove(blocks, &pool->idle[b->size_class], PALMI_BY_CLASS, index);
    if (b->warm) {
        list_remove(blocks, &pool->aged, PALMI_BY_AGE, index);
        pool->idle_bytes -= b->warm;
    }
    PALMI_UNPOISON(space->own->data + b->at, b->size);
}

static void enter_idle(palm_space *space, uint32_t index)
{
    palmi_pool *pool = &space->pool;
    palmi_block *blocks = space->own->blocks, *b = &blocks[index];
    b->place = PALMI_IDLE;
    b->idle_since = space->now;
    list_insert(blocks, &pool->idle[b->size_class], PALMI_BY_CLASS, index, b->warm != 0);
    if (b->warm) {
        list_insert(blocks, &pool->aged, PALMI_BY_AGE, index, false);
        pool->idle_bytes += b->warm;
    }
    PALMI_POISON(space->own->data + b->at, b->size);
}

static uint32_t take_idle(palm_space *space, uint32_t class, uint64_t n)
{
    uint32_t index = space->pool.idle[class].first;
    if (index == PALMI_NONE)
        return PALMI_NONE;
    palmi_block *b = &space->own->blocks[index];
    leave_idle(space, index);
    if (commit(space, b, n))
        return index;
    enter_idle(space, index);
    return PALMI_NONE;
}

/* Where fresh pages are not to be had: a block that has its pages already, of a class not much larger. */
static uint32_t take_larger(palm_space *space, uint32_t class, uint64_t n)
{
    for (uint32_t c = class + 1; c <= class + LARGER_CLASSES && c < PALMI_CLASSES; c++) {
        uint32_t index = take_idle(space, c, n);
        if (index != PALMI_NONE)
            return index;
    }
    return PALMI_NONE;
}

static bool take_addresses(palmi_pool *pool, uint64_t size, uint64_t *at)
{
    uint64_t align = size >= PALMI_HUGE ? PALMI_HUGE : PALMI_UNIT;
    for (uint32_t i = 0; i < pool->n_extents; i++) {
        palmi_extent *e = &pool->extents[i];
        uint64_t start = palmi_round_up(e->at, align);
        if (start <= e->end && size <= e->end - start) {
            *at = start;
            e->at = start + size; /* what alignment skips is found again when addresses are gathered */
            return true;
        }
    }
    return false;
}

static uint32_t take_header(palm_space *space)
{
    palmi_pool *pool = &space->pool;
    uint32_t index = pool->spare.first;
    if (index != PALMI_NONE)
        list_remove(space->own->blocks, &pool->spare, PALMI_BY_CLASS, index);
    else if (pool->n_headers < PALMI_BLOCKS)
        index = pool->n_headers++;
    return index;
}

static void spare_header(palm_space *space, uint32_t index)
{
    palmi_block *b = &space->own->blocks[index];
    b->place = PALMI_SPARE;
    b->size = 0;
    list_insert(space->own->blocks, &space->pool.spare, PALMI_BY_CLASS, index, true);
}

/* A block where none was: its pages are fresh, and zero. */
static uint32_t take_fresh(palm_space *space, uint32_t class, uint64_t size, uint64_t n)
{
    uint32_t index = take_header(space);
    if (index == PALMI_NONE)
        return PALMI_NONE;
    palmi_block *b = &space->own->blocks[index];
    b->warm = 0;
    b->size_class = (uint8_t)class;
    if (!commit(space, b, n))
        goto fail;
    if (!take_addresses(&space->pool, size, &b->at)) {
        space->pool.committed -= b->warm;
        goto fail;
    }
    b->size = size;
    palmi_arena_note(space->own, index);
    return index;
fail:
    b->warm = 0;
    spare_header(space, index);
    return PALMI_NONE;
}

/* ------------------------------------------------------------------------------------------------ gathering addresses */

static int by_address(const void *a, const void *b)
{
    const palmi_extent *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static void retire_cold(palm_space *space)
{
    for (uint32_t i = 0; i < space->pool.n_headers; i++)
        if (space->own->blocks[i].place == PALMI_IDLE && !space->own->blocks[i].warm) {
            leave_idle(space, i);
            spare_header(space, i);
        }
}

/* Addresses or headers have run out: blocks without pages give theirs back, and neighbours become one. The reservation
 * is four times the bound, so most of it is cold then. At most once a tick: it looks at every block. */
static bool gather_addresses(palm_space *space)
{
    palmi_pool *pool = &space->pool;
    if (pool->reclaimed)
        return false;
    pool->reclaimed = true;
    retire_cold(space);
    palmi_extent *extents = pool->extents;
    uint32_t used = 0, n = 0;
    for (uint32_t i = 0; i < pool->n_headers; i++)
        if (space->own->blocks[i].size)
            extents[used++] = (palmi_extent){space->own->blocks[i].at, space->own->blocks[i].at + space->own->blocks[i].size};
    qsort(extents, used, sizeof *extents, by_address);
    uint64_t end = 0;
    for (uint32_t i = 0; i < used; i++) { /* n <= i: what is overwritten has been read */
        palmi_extent block = extents[i];
        if (block.at > end)
            extents[n++] = (palmi_extent){end, block.at};
        end = block.end;
    }
    if (end < space->own->data_size)
        extents[n++] = (palmi_extent){end, space->own->data_size};
    pool->n_extents = n;
    return n != 0;
}

/* -------------------------------------------------------------------------------------------------------- allocation */

static bool sweep_is_due(palm_space *space)
{
    return palmi_now_ns() - space->swept_at >= SWEEP_EVERY_NS;
}

static uint32_t find_block(palm_space *space, uint64_t n)
{
    uint64_t size;
    uint32_t class = size_class(n, &size), index = take_idle(space, class, n);
    if (index == PALMI_NONE && space->pool.lent.count) {
        palmi_collect(space, COLLECT_SOME);
        index = take_idle(space, class, n);
    }
    if (index == PALMI_NONE)
        index = take_fresh(space, class, size, n);
    if (index == PALMI_NONE)
        index = take_larger(space, class, n);
    if (index == PALMI_NONE && space->pool.lent.count && sweep_is_due(space)) {
        palmi_sweep(space);
        palmi_collect(space, PALMI_BLOCKS);
        index = take_idle(space, class, n);
    }
    if (index == PALMI_NONE && gather_addresses(space))
        index = take_fresh(space, class, size, n);
    return index;
}

static void *alloc_locked(palm_space *space, size_t n, uint64_t *dirty)
{
    if (!space->own || space->closed || space->forked)
        return NULL;
    uint64_t committed = space->pool.committed;
    uint32_t index = n <= space->own->data_size ? find_block(space, n) : PALMI_NONE;
    if (index == PALMI_NONE) {
        space->stats.allocs_full++;
        return NULL;
    }
    palmi_block *b = &space->own->blocks[index];
    b->place = PALMI_HELD;
    b->lent = false;
    *dirty = b->warm - (space->pool.committed - committed);
    palmi_block_hold(space->own, index);
    space->stats.allocs++;
    return space->own->data + b->at;
}

/* zeroed: warm pages are cleared rather than fresh ones touched, which costs 20 times as much. */
void *palm_space_alloc(palm_space *space, size_t n, bool zeroed)
{
    uint64_t dirty = 0;
    pthread_mutex_lock(&space->lock);
    void *p = alloc_locked(space, n, &dirty);
    pthread_mutex_unlock(&space->lock);
    if (p && zeroed && dirty)
        memset(p, 0, dirty < n ? dirty : n);
    return p;
}

static uint32_t own_start_at(palm_space *space, const void *p)
{
    if (!space->own)
        return PALMI_NONE;
    uint32_t index = palmi_arena_at(space->own, p);
    bool start = index != PALMI_NONE && space->own->data + space->own->blocks[index].at == (const uint8_t *)p;
    return start ? index : PALMI_NONE;
}

void palm_space_free(palm_space *space, void *p)
{
    pthread_mutex_lock(&space->lock);
    uint32_t index = space->forked ? PALMI_NONE : own_start_at(space, p);
    if (index != PALMI_NONE)
        palmi_block_let_go(space->own, index);
    palmi_space_unlock(space);
}

size_t palm_space_usable(palm_space *space, const void *p)
{
    pthread_mutex_lock(&space->lock);
    uint32_t index = own_start_at(space, p);
    size_t size = index != PALMI_NONE ? space->own->blocks[index].size : 0;
    pthread_mutex_unlock(&space->lock);
    return size;
}

/* Shrinking by more than half wants a smaller block: this one would keep its pages. */
static bool fits_in_place(const palmi_block *b, size_t n)
{
    return b->refs == 1 && !b->lent && n <= b->size && (n > b->size / 2 || b->size == PALMI_UNIT);
}

void *palm_space_resize(palm_space *space, void *p, size_t n)
{
    pthread_mutex_lock(&space->lock);
    uint32_t index = space->forked || space->closed ? PALMI_NONE : own_start_at(space, p);
    palmi_block *b = index != PALMI_NONE ? &space->own->blocks[index] : NULL;
    void *same = b && fits_in_place(b, n) && commit(space, b, n) ? p : NULL;
    pthread_mutex_unlock(&space->lock);
    return same;
}

/* -------------------------------------------------------------------------------------------------- what happens to it */

void palmi_pool_recycle(palm_space *space, uint32_t index)
{
    enter_idle(space, index);
}

void palmi_pool_lend(palm_space *space, uint32_t index)
{
    space->own->blocks[index].place = PALMI_LENT;
    list_insert(space->own->blocks, &space->pool.lent, PALMI_BY_AGE, index, false);
}

void palmi_pool_return(palm_space *space, uint32_t index)
{
    space->own->blocks[index].place = PALMI_HELD;
    list_remove(space->own->blocks, &space->pool.lent, PALMI_BY_AGE, index);
}

/* Without the lock: punching takes 0.2 ms a MiB. Meanwhile the block counts as held, so that nobody hands it out, and
 * the arena stays even if the space is closed. A consumer that reads it all the same reads zeros. */
static bool give_back_pages(palm_space *space, uint32_t index)
{
    palm_arena *own = space->own;
    palmi_block *b = &own->blocks[index];
    leave_idle(space, index);
    b->place = PALMI_HELD;
    palmi_block_hold(own, index);
    pthread_mutex_unlock(&space->lock);
    bool done = !fallocate(own->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(PALMI_DATA_AT + b->at),
                           (off_t)b->warm);
    pthread_mutex_lock(&space->lock);
    if (done) {
        space->pool.committed -= b->warm;
        space->stats.trimmed_bytes += b->warm;
        b->warm = 0;
    }
    palmi_block_let_go(own, index);
    return done;
}

/* Never in the message path, since touching the pages again takes five times as long; never by pressure alone. */
void palmi_pool_trim(palm_space *space)
{
    palmi_pool *pool = &space->pool;
    uint64_t since = space->now - pool->idle_ns;
    pool->reclaimed = false;
    while (!space->closed && pool->idle_bytes > pool->floor) {
        uint32_t oldest = pool->aged.first;
        if (space->own->blocks[oldest].idle_since > since || !give_back_pages(space, oldest))
            break;
    }
}
