/* SPDX-License-Identifier: BSD-3-Clause
 * Who holds a block. Each process sets and clears its own bit alone, counts its references in private memory, and
 * keeps a reference to what it has offered until the receiver has taken. docs/arena.md has the reasons. */
#include "space_internal.h"

static uint64_t own_bit(const palm_arena *arena) { return 1ull << (arena->slot % 64); }
static _Atomic uint64_t *own_word(const palm_arena *arena, uint32_t index)
{
    return &arena->headers[index].holders[arena->slot / 64];
}

/* -------------------------------------------------------------------------------------------------- references here */

void palmi_block_hold(palm_arena *arena, uint32_t index)
{
    palmi_block *b = &arena->blocks[index];
    if (b->refs++)
        return;
    arena->held++;
    arena->space->stats.blocks_held++;
    if (!palmi_is_own(arena))
        arena->space->stats.mapped += b->size;
}

static bool nobody_holds(const palmi_header *header)
{
    for (int w = 0; w < PALMI_WORDS; w++) {
        PALMI_GAP();
        /* seq_cst: pairs with the fetch_or in take_shared; acquire: with the fetch_and of clear_own_bit */
        if (atomic_load_explicit(&header->holders[w], memory_order_seq_cst))
            return false;
    }
    return true;
}

/* The owner has no references left: can the block be used again? The words cannot be read at once: a receiver may set
 * its bit behind our reading and a sender clear its own before. So: announce, look again. Either the receiver sees
 * CLOSING, or we see its bit. A receiver that sees CLOSING turns it back to LIVE, and the last step here fails.
 * If the owner dies at any line, nothing is recycled any more, and LIVE and CLOSING can both still be taken. */
static bool close_block(palm_arena *arena, uint32_t index)
{
    palmi_block *b = &arena->blocks[index];
    palmi_header *header = &arena->headers[index];
    if (!nobody_holds(header))
        return false;
    PALMI_CRASHPOINT();
    /* seq_cst: with the second look as a taker's fetch_or with its look at the state (Dekker) */
    atomic_store_explicit(&header->state, PALMI_STATE(b->generation, PALMI_CLOSING), memory_order_seq_cst);
    PALMI_CRASHPOINT();
#ifndef PALM_CONTROL_NO_SECOND_LOOK
    if (!nobody_holds(header)) {
        PALMI_CONFLICT();
        /* relaxed: whoever holds it saw LIVE before, or turned CLOSING to LIVE itself */
        atomic_store_explicit(&header->state, PALMI_STATE(b->generation, PALMI_LIVE), memory_order_relaxed);
        return false;
    }
#endif
    PALMI_CRASHPOINT();
    uint64_t closing = PALMI_STATE(b->generation, PALMI_CLOSING);
    /* seq_cst: in one order with take_shared's exchange of the same word; one of the two wins */
    if (!atomic_compare_exchange_strong(&header->state, &closing, PALMI_STATE(b->generation + 1, PALMI_FREE))) {
        PALMI_CONFLICT();
        return false;
    }
    PALMI_CRASHPOINT();
    b->generation++;
    b->lent = false;
    return true;
}

static void let_go_own(palm_arena *arena, uint32_t index)
{
    palm_space *space = arena->space;
    if (space->closed) /* nothing is recycled any more; the arena goes when nothing of it is held */
        return;
    if (!arena->blocks[index].lent || close_block(arena, index))
        palmi_pool_recycle(space, index);
    else
        palmi_pool_lend(space, index);
}

/* A sweeper finds our bit if we die before this, and nothing after. */
static void clear_own_bit(palm_arena *arena, uint32_t index)
{
    PALMI_CRASHPOINT();
    /* release: our reads of the data are over before the owner, who reads with acquire, sees the bit clear */
    atomic_fetch_and_explicit(own_word(arena, index), ~own_bit(arena), memory_order_release);
    PALMI_CRASHPOINT();
}

static void let_go_mapped(palm_arena *arena, uint32_t index)
{
    arena->space->stats.mapped -= arena->blocks[index].size;
    if (arena->fd >= 0)
        clear_own_bit(arena, index);
    else
        palmi_orphans_let_go(arena, index);
}

void palmi_block_let_go(palm_arena *arena, uint32_t index)
{
    palmi_block *b = &arena->blocks[index];
    if (!b->refs || --b->refs)
        return;
    arena->held--;
    arena->space->stats.blocks_held--;
    if (palmi_is_own(arena))
        let_go_own(arena, index);
    else
        let_go_mapped(arena, index);
}

void palm_block_hold(palm_arena *arena, uint32_t index)
{
    pthread_mutex_lock(&arena->space->lock);
    if (index < PALMI_BLOCKS && arena->blocks[index].refs)
        palmi_block_hold(arena, index);
    pthread_mutex_unlock(&arena->space->lock);
}

void palm_block_drop(palm_arena *arena, uint32_t index)
{
    palm_space *space = arena->space;
    pthread_mutex_lock(&space->lock);
    if (!space->forked && index < PALMI_BLOCKS)
        palmi_block_let_go(arena, index);
    palmi_space_unlock(space);
}

/* ----------------------------------------------------------------------------------------------------------- lending */

static palm_err lend_locked(palm_arena *arena, uint32_t index, palm_block *out)
{
    palm_space *space = arena->space;
    palmi_block *b = index < PALMI_BLOCKS ? &arena->blocks[index] : NULL;
    if (space->forked)
        return PALM_EFORK;
    if (space->closed)
        return PALM_ECLOSED;
    if (!b || !b->refs)
        return PALM_EINVAL;
    if (arena->fd < 0)
        return PALM_EUNREACHABLE; /* evacuated: what we hold is a private copy */
    if (palmi_is_own(arena) && !b->lent) {
        PALMI_CRASHPOINT();
        /* release: pairs with take_shared's look at the state. Before this, an offer of this generation is stale. */
        atomic_store_explicit(&arena->headers[index].state, PALMI_STATE(b->generation, PALMI_LIVE),
                              memory_order_release);
        PALMI_CRASHPOINT();
        b->lent = true;
    }
    *out = (palm_block){arena->id_hi, arena->id_lo, b->generation, b->at, b->size, index,
                        (int32_t)(uint32_t)space->who, arena->fd, 0};
    return PALM_OK;
}

palm_err palm_block_lend(palm_arena *arena, uint32_t index, palm_block *out)
{
    pthread_mutex_lock(&arena->space->lock);
    palm_err err = lend_locked(arena, index, out);
    pthread_mutex_unlock(&arena->space->lock);
    return err;
}

/* ------------------------------------------------------------------------------------------------------------ taking */

static bool offer_is_within(const palm_arena *arena, const palm_block *o)
{
    uint64_t align = o->size >= PALMI_HUGE ? PALMI_HUGE : PALMI_UNIT;
    return o->index < PALMI_BLOCKS && o->size && o->size % PALMI_UNIT == 0 && o->at % align == 0 &&
           o->at < arena->data_size && o->size <= arena->data_size - o->at && !(o->generation >> 62);
}

static bool offer_agrees(const palmi_block *b, const palm_block *o)
{
    return b->at == o->at && b->size == o->size;
}

/* Our own block has come home: our own table knows all about it, and no shared memory is asked. */
static palm_err take_own(palm_arena *arena, const palm_block *o)
{
    palmi_block *b = &arena->blocks[o->index];
    bool out_there = b->lent && (b->place == PALMI_HELD || b->place == PALMI_LENT);
    if (!out_there || b->generation != o->generation)
        return PALM_ESTALE;
    if (!offer_agrees(b, o))
        return PALM_EMALFORMED;
    if (b->place == PALMI_LENT)
        palmi_pool_return(arena->space, o->index);
    palmi_block_hold(arena, o->index);
    return PALM_OK;
}

/* First reference of this process. If it dies here, a sweeper finds its bit at most; the sender's reference ends with
 * the link between the two. */
static bool take_shared(palm_arena *arena, const palm_block *o)
{
#ifdef PALM_CONTROL_SENDER_SETS
    return true;
#endif
    _Atomic uint64_t *state = &arena->headers[o->index].state;
    uint64_t closing = PALMI_STATE(o->generation, PALMI_CLOSING), live = PALMI_STATE(o->generation, PALMI_LIVE);
    PALMI_CRASHPOINT();
    /* seq_cst, both: pair with close_block's CLOSING and its second look */
    atomic_fetch_or_explicit(own_word(arena, o->index), own_bit(arena), memory_order_seq_cst);
    PALMI_CRASHPOINT();
    uint64_t found = atomic_load_explicit(state, memory_order_seq_cst);
    if (found == live)
        return true;
    PALMI_CRASHPOINT();
    /* The owner is about to recycle, and may not have seen our bit, or may be dead: one exchange decides. */
    if (found == closing && (atomic_compare_exchange_strong(state, &closing, live) || closing == live)) {
        PALMI_CONFLICT();
        return true;
    }
    clear_own_bit(arena, o->index);
    return false;
}

static palm_err take_mapped(palm_arena *arena, const palm_block *o)
{
    palmi_block *b = &arena->blocks[o->index];
    if (b->refs && b->generation != o->generation)
        return PALM_ESTALE;
    bool known = b->size && b->generation == o->generation;
    if (known && !offer_agrees(b, o))
        return PALM_EMALFORMED;
    if (!b->refs) {
        if (!take_shared(arena, o))
            return PALM_ESTALE;
        bool moved = !offer_agrees(b, o);
        b->generation = o->generation;
        b->at = o->at;
        b->size = o->size;
        if (moved)
            palmi_arena_note(arena, o->index);
    }
    palmi_block_hold(arena, o->index);
    return PALM_OK;
}

/* An evacuated arena cannot give more than what is held of it; another process's fd may still lead to the memfd. */
static palm_err find_arena(palm_space *space, const palm_block *o, palm_arena **out)
{
    *out = palmi_space_find(space, o->arena_hi, o->arena_lo);
    if (*out)
        return PALM_OK;
    return palmi_peers_attach(space, o->pid, o->fd, o->arena_hi, o->arena_lo, out);
}

static palm_err take_locked(palm_space *space, const palm_block *o, palm_arena **out)
{
    if (space->forked)
        return PALM_EFORK;
    if (space->closed)
        return PALM_ECLOSED;
    palm_err err = find_arena(space, o, out);
    if (err)
        return err;
    if (!offer_is_within(*out, o))
        return PALM_EMALFORMED;
    err = palmi_is_own(*out) ? take_own(*out, o) : take_mapped(*out, o);
    space->stats.taken += err == PALM_OK;
    space->stats.stale += err == PALM_ESTALE;
    return err;
}

palm_err palm_space_take(palm_space *space, const palm_block *offer, palm_arena **arena, uint32_t *index,
                         const void **first)
{
    palm_block o = *offer; /* what is checked is what is used */
    palm_arena *of;
    pthread_mutex_lock(&space->lock);
    palm_err err = take_locked(space, &o, &of);
    if (!err) {
        *arena = of;
        *index = o.index;
        *first = of->data + o.at;
    }
    pthread_mutex_unlock(&space->lock);
    return err;
}

/* ----------------------------------------------------------------------------------------------- what the owner does */

/* A block that is still held goes to the end, so that one kept for hours does not hide those behind it. */
void palmi_collect(palm_space *space, uint32_t most)
{
    palmi_pool *pool = &space->pool;
    for (uint32_t n = pool->lent.count < most ? pool->lent.count : most; n; n--) {
        uint32_t index = pool->lent.first;
        palmi_pool_return(space, index);
        if (close_block(space->own, index))
            palmi_pool_recycle(space, index);
        else
            palmi_pool_lend(space, index);
    }
}

/* The dead set no bits, so one pass is final, and the slot may be given anew. If the owner dies here, nothing is
 * recycled any more, and nobody minds the bits that are left. */
static void sweep_slot(palm_space *space, uint32_t slot)
{
    palm_arena *own = space->own;
    uint64_t bit = 1ull << (slot % 64);
    for (uint32_t i = 0; i < space->pool.n_headers; i++) {
        _Atomic uint64_t *word = &own->headers[i].holders[slot / 64];
        /* relaxed: its writer is dead, which we know from the kernel */
        if (!(atomic_load_explicit(word, memory_order_relaxed) & bit))
            continue;
        PALMI_CRASHPOINT();
        atomic_fetch_and_explicit(word, ~bit, memory_order_relaxed);
        space->stats.swept++;
    }
    PALMI_CRASHPOINT();
    /* release: pairs with the exchange that claims the slot; the bits are clear by then */
    atomic_store_explicit(&own->head->slot[slot], 0, memory_order_release);
}

void palmi_sweep(palm_space *space)
{
    space->swept_at = palmi_now_ns();
    for (uint32_t slot = 1; slot < PALMI_SLOTS; slot++) {
        /* acquire: pairs with the claim; only whether the number names a living process matters */
        uint64_t who = atomic_load_explicit(&space->own->head->slot[slot], memory_order_acquire);
        if (who && palmi_peers_dead(space, who))
            sweep_slot(space, slot);
    }
}
