/* SPDX-License-Identifier: BSD-3-Clause */
#include "body.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIRST = 1 << 12,
    SMALL = 1 << 16,   /* up to here by doubling: many may be kept that hold little */
    LARGE = 5 << 16,   /* of a full envelope, with room for what is put into it last */
    SPARES = 32,       /* 10 MiB at most; a client lets go of some ten at a time */
};

/* Whoever finds it locked does without, so that it does no harm in a child that was forked meanwhile. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *spares[SPARES];
static int n_spares;

static uint8_t *spare(void)
{
    uint8_t *found = NULL;
    if (pthread_mutex_trylock(&lock))
        return NULL;
    if (n_spares)
        found = spares[--n_spares];
    pthread_mutex_unlock(&lock);
    return found;
}

static bool keep(uint8_t *body)
{
    if (pthread_mutex_trylock(&lock))
        return false;
    bool kept = n_spares < SPARES;
    if (kept)
        spares[n_spares++] = body;
    pthread_mutex_unlock(&lock);
    return kept;
}

static uint64_t rounded(uint64_t room, uint64_t end)
{
    if (end > SMALL && end <= LARGE)
        return LARGE;
    while (room < end)
        room *= 2;
    return room;
}

static uint8_t *moved(uint8_t *to, uint8_t *body, uint64_t room, uint64_t used)
{
    if (used)
        memcpy(to, body, used);
    palmi_body_free(body, room);
    return to;
}

palm_err palmi_body_grow(uint8_t **body, uint64_t *room, uint64_t used, uint64_t end)
{
    if (end <= *room)
        return PALM_OK;
    uint64_t wanted = rounded(*room ? *room : FIRST, end);
    uint8_t *found = end <= LARGE && (!*room || wanted == LARGE) ? spare() : NULL;
    if (found)
        wanted = LARGE;
    uint8_t *bigger = found ? moved(found, *body, *room, used) : realloc(*body, wanted);
    if (!bigger)
        return PALM_ENOMEM;
    *body = bigger;
    *room = wanted;
    return PALM_OK;
}

void palmi_body_free(uint8_t *body, uint64_t room)
{
    if (room != LARGE || !keep(body))
        free(body);
}
