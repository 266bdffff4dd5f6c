/* SPDX-License-Identifier: BSD-3-Clause */
#include "warm.h"
#include "poison.h"

#include <pthread.h>
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

/* Whoever finds it locked does without, so that it does no harm in a child that was forked meanwhile. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static piece *kept[PIECES];
static unsigned n_kept, turn; /* of the one that makes room for another when there are as many as there may be */

static void piece_free(piece *p)
{
    if (p)
        PALMI_UNPOISON(p->bytes, p->room);
    free(p);
}

static piece *piece_new(size_t size)
{
    size_t room = size < LEAST || size > LARGEST ? 0 : (size + STEP - 1) / STEP * STEP;
    piece *p = size <= SIZE_MAX - sizeof *p ? malloc(sizeof *p + (room ? room : size)) : NULL;
    if (p)
        p->room = room;
    return p;
}

static piece *kept_for(size_t size)
{
    piece *found = NULL;
    if (size < LEAST || size > LARGEST || pthread_mutex_trylock(&lock))
        return NULL;
    for (unsigned i = 0; i < n_kept && !found; i++)
        if (kept[i]->room >= size && kept[i]->room <= 2 * size) {
            found = kept[i];
            kept[i] = kept[--n_kept];
        }
    pthread_mutex_unlock(&lock);
    return found;
}

void *palmi_warm_take(size_t size)
{
    piece *p = kept_for(size);
    if (!p)
        p = piece_new(size);
    if (!p)
        return NULL;
    PALMI_POISON(p->bytes, p->room);
    PALMI_UNPOISON(p->bytes, size);
    return p->bytes;
}

/* Returns what is not kept: this piece, or the one whose place it has got. */
static piece *keep(piece *p)
{
    if (!p->room || pthread_mutex_trylock(&lock))
        return p;
    PALMI_POISON(p->bytes, p->room);
    piece *left = NULL;
    if (n_kept < PIECES) {
        kept[n_kept++] = p;
    } else {
        left = kept[turn % PIECES];
        kept[turn++ % PIECES] = p;
    }
    pthread_mutex_unlock(&lock);
    return left;
}

void palmi_warm_give(void *memory)
{
    if (memory)
        piece_free(keep((piece *)((uint8_t *)memory - offsetof(piece, bytes))));
}

void palmi_warm_clear(void)
{
    for (piece *p = NULL;; piece_free(p)) {
        if (pthread_mutex_trylock(&lock))
            return;
        p = n_kept ? kept[--n_kept] : NULL;
        pthread_mutex_unlock(&lock);
        if (!p)
            return;
    }
}
