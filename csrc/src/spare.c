/* SPDX-License-Identifier: BSD-3-Clause */
#include "spare.h"

#include <pthread.h>

enum {
    LISTS = 1 << 16, /* bytes of all else, at most */
    SPARES = 32,     /* 12 MiB at most; a client lets go of some ten at a time */
};

/* Whoever finds it locked does without, so that it does no harm in a child that was forked meanwhile. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static palm_batch *spares[SPARES];
static int n_spares;

static uint64_t lists(const palm_batch *b)
{
    return (uint64_t)b->records.room * sizeof *b->records.at + (uint64_t)b->paths.room * sizeof *b->paths.at +
           (uint64_t)b->arrays.room * sizeof *b->arrays.at + (uint64_t)b->dims.room * sizeof *b->dims.at +
           (uint64_t)b->lent.room * sizeof *b->lent.at + (uint64_t)b->dtypes.room * sizeof *b->dtypes.at;
}

palm_batch *palmi_spare_take(void)
{
    palm_batch *found = NULL;
    if (pthread_mutex_trylock(&lock))
        return NULL;
    if (n_spares)
        found = spares[--n_spares];
    pthread_mutex_unlock(&lock);
    return found;
}

bool palmi_spare_keep(palm_batch *empty)
{
    if (empty->body_room > PALMI_SPARE_ROOM || lists(empty) > LISTS)
        return false;
    if (pthread_mutex_trylock(&lock))
        return false;
    bool kept = n_spares < SPARES;
    if (kept)
        spares[n_spares++] = empty;
    pthread_mutex_unlock(&lock);
    return kept;
}

void palmi_spare_clear(void)
{
    for (palm_batch *spare; (spare = palmi_spare_take());)
        palmi_batch_release(spare);
}
