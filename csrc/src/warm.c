/* SPDX-License-Identifier: BSD-3-Clause */
#include "warm.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum {
    LEAST = 16 << 10, /* what is smaller malloc keeps by itself */
    STEP = 16 << 10,  /* sizes are multiples of it, so that they fit each other */
    LARGEST = 512 << 10,
    PIECES = 12, /* 6 MiB at most: frames and records of what is at work, of what has come since, and of what was just let go of */
};

typedef struct piece {
    size_t room; /* 0: it is not kept */
    max_align_t bytes[];
} piece;

static _Atomic(piece *) kept[PIECES];
static atomic_uint oldest; /* to be replaced next, if none is missing */

static piece *piece_new(size_t size)
{
    size_t room = size < LEAST || size > LARGEST ? 0 : (size + STEP - 1) / STEP * STEP;
    piece *p = size <= SIZE_MAX - sizeof *p ? malloc(sizeof *p + (room ? room : size)) : NULL;
    if (p)
        p->room = room;
    return p;
}

/* Pieces are taken out before they are looked at: another thread may free them. */
static piece *kept_for(size_t size)
{
    for (int i = 0; i < PIECES; i++) {
        if (!atomic_load_explicit(&kept[i], memory_order_relaxed))
            continue;
        piece *p = atomic_exchange_explicit(&kept[i], NULL, memory_order_acquire); /* pairs with the release below */
        if (p && p->room >= size && p->room <= 2 * size)
            return p;
        if (p)
            palmi_warm_give(p->bytes);
    }
    return NULL;
}

void *palmi_warm_take(size_t size)
{
    piece *p = size < LEAST || size > LARGEST ? NULL : kept_for(size);
    if (!p)
        p = piece_new(size);
    return p ? p->bytes : NULL;
}

void palmi_warm_give(void *memory)
{
    piece *p = memory ? (piece *)((uint8_t *)memory - offsetof(piece, bytes)) : NULL;
    if (!p || !p->room) {
        free(p);
        return;
    }
    for (int i = 0; i < PIECES; i++) {
        piece *none = NULL; /* release: whoever takes it sees who wrote last */
        if (atomic_compare_exchange_strong_explicit(&kept[i], &none, p, memory_order_release, memory_order_relaxed))
            return;
    }
    unsigned which = atomic_fetch_add_explicit(&oldest, 1, memory_order_relaxed) % PIECES;
    free(atomic_exchange_explicit(&kept[which], p, memory_order_acq_rel));
}

void palmi_warm_clear(void)
{
    for (int i = 0; i < PIECES; i++)
        free(atomic_exchange_explicit(&kept[i], NULL, memory_order_acquire));
}
