/* SPDX-License-Identifier: BSD-3-Clause
 * Several spaces in one process, each used by two threads (a worker and a pulse): blocks are lent, taken, forwarded,
 * come home and are dropped in a thread of their own, and what they hold is checked all the time. For TSan. */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum { PEERS = 3, SENT = 30000, QUEUE = 64, KEPT = 48, BYTES = 16384, BOUND = 48 * BYTES };

typedef struct letter { palm_block offer; uint64_t seed, seq; } letter;

typedef struct queue { /* one way from one peer to another */
    pthread_mutex_t lock;
    letter letters[QUEUE];
    uint32_t head, tail;
} queue;

typedef struct kept { palm_arena *arena; uint32_t index; const uint64_t *first; uint64_t seed; } kept;
typedef struct flight { palm_arena *arena; uint32_t index, to; uint64_t seq; } flight;

typedef struct peer {
    uint32_t number;
    palm_space *space;
    palm_identity identity;
    uint32_t words[PEERS];        /* in our arena: how far each receiver has taken */
    uint64_t seqs[PEERS];
    kept kept[KEPT];
    uint32_t n_kept;
    flight flights[PEERS * QUEUE];
    uint32_t n_flights;
    uint64_t random, sent, taken, checked;
} peer;

static queue queues[PEERS][PEERS];
static peer peers[PEERS];
static atomic_bool stop_pulse;
static atomic_uint done_sending, done;
static pthread_barrier_t barrier;

static uint64_t random_of(peer *p)
{
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return p->random;
}

static void check_pattern(peer *p, const uint64_t *first, uint64_t seed)
{
    for (uint32_t i = 0; i < BYTES / 8; i += 61)
        CHECK(first[i] == seed + i);
    p->checked++;
}

/* Passes one reference to the link, or leaves it. */
static bool send_block(peer *p, palm_arena *arena, uint32_t index, uint64_t seed)
{
    uint32_t to = (p->number + 1 + (uint32_t)(random_of(p) % (PEERS - 1))) % PEERS;
    queue *q = &queues[p->number][to];
    letter l = {.seed = seed, .seq = p->seqs[to] + 1};
    CHECK_OK(palm_block_lend(arena, index, &l.offer));
    pthread_mutex_lock(&q->lock);
    bool room = q->head - q->tail < QUEUE && p->n_flights < PEERS * QUEUE;
    if (room) {
        q->letters[q->head++ % QUEUE] = l;
        p->seqs[to]++;
    }
    pthread_mutex_unlock(&q->lock);
    p->sent += room;
    if (room)
        p->flights[p->n_flights++] = (flight){arena, index, to, l.seq};
    return room;
}

static void settle(peer *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_flights; i++) {
        flight *f = &p->flights[i];
        if (palm_space_taken(p->space, p->words[f->to]) >= f->seq)
            palm_block_drop(f->arena, f->index);
        else
            p->flights[n++] = *f;
    }
    p->n_flights = n;
}

static void receive(peer *p, uint32_t from)
{
    queue *q = &queues[from][p->number];
    while (p->n_kept < KEPT) {
        pthread_mutex_lock(&q->lock);
        bool any = q->head != q->tail;
        letter l = q->letters[q->tail % QUEUE];
        q->tail += any;
        pthread_mutex_unlock(&q->lock);
        if (!any)
            return;
        kept k = {.seed = l.seed};
        const void *first;
        CHECK_OK(palm_space_take(p->space, &l.offer, &k.arena, &k.index, &first)); /* nobody dies: never stale */
        k.first = first;
        check_pattern(p, k.first, k.seed);
        p->kept[p->n_kept++] = k;
        p->taken++;
        palm_space_set_taken(p->space, peers[from].identity.arena_hi, peers[from].identity.arena_lo,
                             peers[from].words[p->number], l.seq);
    }
}

static void make(peer *p)
{
    uint64_t *block = palm_space_alloc(p->space, BYTES, false);
    if (!block) {
        sched_yield();
        return;
    }
    uint64_t seed = random_of(p);
    for (uint32_t i = 0; i < BYTES / 8; i++)
        block[i] = seed + i;
    palm_arena *arena;
    uint32_t index;
    const void *first;
    size_t size;
    CHECK_OK(palm_space_hold(p->space, &block[7], 8, &arena, &index, &first, &size));
    palm_space_free(p->space, block);
    palm_block_hold(arena, index);
    if (!send_block(p, arena, index, seed)) /* twice, maybe to the same one */
        palm_block_drop(arena, index);
    if (!send_block(p, arena, index, seed))
        palm_block_drop(arena, index);
}

static void let_go_of_some(peer *p, bool all)
{
    for (uint32_t i = 0; i < p->n_kept;) {
        kept *k = &p->kept[i];
        if (!all && random_of(p) % 4) {
            i++;
            continue;
        }
        check_pattern(p, k->first, k->seed);
        if (all || random_of(p) % 2 || !send_block(p, k->arena, k->index, k->seed))
            palm_block_drop(k->arena, k->index);
        *k = p->kept[--p->n_kept];
    }
}

static bool is_quiet(peer *p)
{
    bool quiet = !p->n_kept && !p->n_flights;
    for (uint32_t from = 0; from < PEERS; from++) {
        pthread_mutex_lock(&queues[from][p->number].lock);
        quiet &= queues[from][p->number].head == queues[from][p->number].tail;
        pthread_mutex_unlock(&queues[from][p->number].lock);
    }
    return quiet;
}

static void turn(peer *p, bool all)
{
    for (uint32_t from = 0; from < PEERS; from++)
        receive(p, from);
    let_go_of_some(p, all);
    settle(p);
}

static void *work(void *arg)
{
    peer *p = arg;
    uint32_t slot;
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK_OK(palm_space_attach(p->space, &peers[i].identity, &slot));
    pthread_barrier_wait(&barrier);
    while (p->sent < SENT) {
        make(p);
        turn(p, false);
    }
    atomic_fetch_add(&done_sending, 1);
    while (atomic_load(&done_sending) < PEERS || !is_quiet(p)) /* what is on its way to others has to arrive, too */
        turn(p, true);
    atomic_fetch_add(&done, 1);
    while (atomic_load(&done) < PEERS)
        turn(p, true);
    return NULL;
}

static void *pulse(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop_pulse)) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        for (uint32_t i = 0; i < PEERS; i++)
            palm_space_tick(peers[i].space, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec);
        usleep(300);
    }
    return NULL;
}

static void open_peer(uint32_t number)
{
    peer *p = &peers[number];
    palm_space_options options = {.bound = BOUND, .floor = 1, .idle_ns = 1000000};
    p->number = number;
    p->random = number + 1;
    CHECK_OK(palm_space_open(&options, &p->space));
    palm_space_identity(p->space, &p->identity);
    for (uint32_t i = 0; i < PEERS; i++) {
        pthread_mutex_init(&queues[number][i].lock, NULL);
        CHECK_OK(palm_space_claim_word(p->space, &p->words[i]));
    }
}

int main(void)
{
    pthread_t workers[PEERS], beat;
    uint64_t taken = 0, checked = 0;
    pthread_barrier_init(&barrier, NULL, PEERS);
    for (uint32_t i = 0; i < PEERS; i++)
        open_peer(i);
    CHECK(!pthread_create(&beat, NULL, pulse, NULL));
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK(!pthread_create(&workers[i], NULL, work, &peers[i]));
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK(!pthread_join(workers[i], NULL));
    atomic_store(&stop_pulse, true);
    CHECK(!pthread_join(beat, NULL));
    for (uint32_t i = 0; i < PEERS; i++) {
        palm_space_stats s;
        palm_space_tick(peers[i].space, 1);
        palm_space_get_stats(peers[i].space, &s);
        CHECK(s.blocks_held == 0 && s.blocks_lent == 0 && s.arena_in_use == 0 && s.stale == 0 && s.mapped == 0);
        taken += peers[i].taken;
        checked += peers[i].checked;
    }
    CHECK(taken >= PEERS * SENT);
    for (uint32_t i = 0; i < PEERS; i++)
        palm_space_close(peers[i].space);
    printf("%llu taken, %llu checked\n", (unsigned long long)taken, (unsigned long long)checked);
    return 0;
}
