/* SPDX-License-Identifier: BSD-3-Clause
 * The kill test: kill [kills] [seed].
 *
 * Three processes, each with an arena of 48 blocks, fill blocks with a pattern, lend them to one peer, to two, or twice
 * to one, keep what they take, check it, forward it, check it again and let it go. All the while they are killed, from
 * outside or by themselves at one of thousands of points between two accesses to shared memory, and started anew.
 * After every 50 kills sending stops, and each process must get all its blocks back.
 *
 * A test that cannot fail shows nothing, so there are two controls, built with the fault in it, which end with success
 * if the fault was found: PALM_CONTROL_SENDER_SETS (the sender sets the receiver's bit and lets go at once) and
 * PALM_CONTROL_NO_SECOND_LOOK (a block is recycled without looking at its holders again). */
#include "../src/space_internal.h"
#include "check.h"
#include "kill_board.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(PALM_CONTROL_SENDER_SETS) || defined(PALM_CONTROL_NO_SECOND_LOOK)
#define CONTROL 1
#else
#define CONTROL 0
#endif

enum { MOST = 4096, DRAIN_EVERY = 50, POINTS = 4000, QUIET = 20, DRAIN_MS = 8000 };

static board *shared;
static uint64_t random_state;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void random_start(uint64_t seed)
{
    random_state = seed * 0x9E3779B97F4A7C15ull | 1;
    for (int i = 0; i < 8; i++)
        random_next();
}

/* --------------------------------------------------------------------------------------------------- one process */

typedef struct kept { palm_arena *arena; palm_block offer; const uint64_t *first; uint32_t turns; } kept;
typedef struct flight { palm_arena *arena; uint32_t index, to; uint64_t seq, life; } flight;
typedef struct route { uint64_t life, seq; uint32_t word; } route;

static struct {
    uint32_t number;
    uint64_t life;
    place *place;
    palm_space *space;
    kept kept[MOST];
    flight flights[MOST];
    uint32_t n_kept, n_flights;
    route routes[PEERS];
    int64_t points_left; /* -1: no end of its own */
    palm_space_stats stats;
} me;

void palmi_crashpoint(void)
{
    if (me.points_left >= 0 && me.points_left-- == 0)
        kill(getpid(), SIGKILL);
}

/* Between two words of holders: long enough at times for others to do a lot. */
void palmi_gap(void)
{
    uint64_t r = random_next() % 512;
    if (r == 0)
        sched_yield();
    else if (r < 4)
        for (volatile int i = 0; i < 20000; i++)
            ;
}

void palmi_conflict(void) { me.place->conflicts++; }

static uint64_t pattern(const palm_block *b)
{
    uint64_t x = (b->arena_lo ^ ((uint64_t)b->index << 32) ^ b->generation) * 0x9E3779B97F4A7C15ull;
    return (x ^ x >> 31) * 0xBF58476D1CE4E5B9ull | 1;
}

static void check(const kept *k)
{
    uint64_t wanted = pattern(&k->offer);
    uint32_t i = 0;
    while (i < BYTES / 8 && k->first[i] == wanted + i)
        i++;
    me.place->checked++;
    me.place->corrupt += i < BYTES / 8;
}

#ifdef PALM_CONTROL_SENDER_SETS
static bool set_bit_for(palm_arena *arena, uint32_t index, uint64_t who)
{
    for (uint32_t slot = 1; arena->head && slot < PALMI_SLOTS; slot++)
        if (arena->head->slot[slot] == who) {
            atomic_fetch_or(&arena->headers[index].holders[slot / 64], 1ull << (slot % 64));
            return true;
        }
    return false;
}
#endif

static ring *ring_to(uint32_t to, uint64_t life)
{
    ring *r = &shared->rings[me.number][to][life & 1];
    bool mine = life && atomic_load(&r->receiver_life) == life && atomic_load(&r->sender_life) == me.life;
    return mine && r->head - r->tail < RING ? r : NULL;
}

static route *route_to(uint32_t to, uint64_t life)
{
    route *r = &me.routes[to];
    if (r->life == life)
        return r;
    if (r->life)
        palm_space_return_word(me.space, r->word);
    *r = (route){.life = life};
    CHECK_OK(palm_space_claim_word(me.space, &r->word));
    return r;
}

/* On success one of our references is the link's. */
static bool send_block(uint32_t to, palm_arena *arena, uint32_t index)
{
    uint64_t life = atomic_load(&shared->places[to].life);
    ring *r = ring_to(to, life);
    letter l = {0};
    if (!r || me.n_flights == MOST || palm_block_lend(arena, index, &l.offer))
        return false;
    route *way = route_to(to, life);
    l.word = way->word;
    l.seq = ++way->seq;
    l.arena_hi = me.place->identity.arena_hi;
    l.arena_lo = me.place->identity.arena_lo;
#ifdef PALM_CONTROL_SENDER_SETS
    if (!set_bit_for(arena, index, shared->places[to].who))
        return false;
#else
    me.flights[me.n_flights++] = (flight){arena, index, to, l.seq, life};
#endif
    palmi_crashpoint();
    r->letters[r->head % RING] = l;
    palmi_crashpoint();
    atomic_store(&r->head, r->head + 1);
    palmi_crashpoint();
    me.place->sent++;
#ifdef PALM_CONTROL_SENDER_SETS
    palm_block_drop(arena, index);
#endif
    return true;
}

static void settle(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < me.n_flights; i++) {
        flight *f = &me.flights[i];
        bool gone = atomic_load(&shared->places[f->to].life) != f->life;
        if (gone || palm_space_taken(me.space, me.routes[f->to].word) >= f->seq)
            palm_block_drop(f->arena, f->index);
        else
            me.flights[n++] = *f;
    }
    me.n_flights = n;
}

static void take_letter(const letter *l)
{
    kept k = {.offer = l->offer, .turns = (uint32_t)(random_next() % 40)};
    uint32_t index;
    const void *first;
    palm_err err = palm_space_take(me.space, &l->offer, &k.arena, &index, &first);
    me.place->taken += err == PALM_OK;
    me.place->stale += err == PALM_ESTALE;
    me.place->unreachable += err == PALM_EUNREACHABLE;
    CHECK(err == PALM_OK || err == PALM_ESTALE || err == PALM_EUNREACHABLE);
    if (err)
        return;
    CHECK(me.n_kept < MOST);
    k.first = first;
    check(&k);
    me.kept[me.n_kept++] = k;
}

static void receive(uint32_t from, uint32_t most)
{
    ring *r = &shared->rings[from][me.number][me.life & 1];
    while (most-- && r->tail != atomic_load(&r->head)) {
        letter l = r->letters[r->tail % RING];
        palmi_crashpoint();
        take_letter(&l);
        palmi_crashpoint();
        palm_space_set_taken(me.space, l.arena_hi, l.arena_lo, l.word, l.seq);
        atomic_store(&r->tail, r->tail + 1);
        palmi_crashpoint();
    }
}

/* A sender in a new life: takes what the old one had sent, then starts afresh. */
static void welcome(uint32_t from)
{
    ring *r = &shared->rings[from][me.number][me.life & 1];
    uint64_t life = atomic_load(&shared->places[from].open);
    palm_identity identity = shared->places[from].identity;
    uint32_t slot;
    if (!life || r->sender_life == life || atomic_load(&shared->places[from].life) != life)
        return;
    if (r->receiver_life == me.life && r->sender_life)
        receive(from, RING);
    if (palm_space_attach(me.space, &identity, &slot)) /* dead again */
        return;
    r->receiver_life = 0;
    r->head = r->tail = 0;
    palmi_crashpoint();
    r->receiver_life = me.life;
    atomic_store(&r->sender_life, life);
}

static void make_one(void)
{
    uint32_t to = (uint32_t)(random_next() % PEERS), index;
    if (to == me.number || me.stats.blocks_held > BLOCKS * 3 / 4)
        return;
    uint64_t *block = palm_space_alloc(me.space, BYTES, false);
    if (!block)
        return;
    palm_arena *arena;
    palm_block offer;
    const void *first;
    size_t size;
    CHECK_OK(palm_space_hold(me.space, block, BYTES, &arena, &index, &first, &size));
    palm_space_free(me.space, block);
    CHECK_OK(palm_block_lend(arena, index, &offer));
    uint64_t seed = pattern(&offer);
    for (uint32_t i = 0; i < BYTES / 8; i++)
        block[i] = seed + i;
    if (random_next() % 2) { /* to two, or twice to one */
        uint32_t other = (uint32_t)(random_next() % PEERS);
        palm_block_hold(arena, index);
        if (other == me.number || !send_block(other, arena, index))
            palm_block_drop(arena, index);
    }
    if (!send_block(to, arena, index))
        palm_block_drop(arena, index);
}

static void let_go_of_some(bool all)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < me.n_kept; i++) {
        kept *k = &me.kept[i];
        if (k->turns && !all) {
            k->turns--;
            me.kept[n++] = *k;
            continue;
        }
        check(k);
        uint32_t to = (uint32_t)(random_next() % PEERS);
        if (all || to == me.number || random_next() % 2 || !send_block(to, k->arena, k->offer.index))
            palm_block_drop(k->arena, k->offer.index);
    }
    me.n_kept = n;
}

static void tick(void)
{
    uint64_t swept = me.stats.swept, evacuated = me.stats.evacuated;
    palm_space_tick(me.space, palmi_now_ns());
    palm_space_get_stats(me.space, &me.stats);
    me.place->swept += me.stats.swept - swept;
    me.place->evacuated += me.stats.evacuated - evacuated;
}

static void drain_turn(void)
{
    usleep(200);
    me.place->out = me.stats.arena_in_use / BYTES;
    me.place->quiet = me.n_kept || me.n_flights ? 0 : me.place->quiet + 1;
}

static void turn(uint64_t number, bool drain)
{
    for (uint32_t from = 0; from < PEERS; from++)
        if (from != me.number) {
            welcome(from);
            receive(from, 8);
        }
    for (int i = 0; i < 2 && !drain; i++)
        make_one();
    settle();
    let_go_of_some(drain);
    if (drain || number % 16 == 0)
        tick();
    if (drain)
        drain_turn();
}

static void live(uint32_t number, uint64_t life, uint64_t seed, bool ends_itself)
{
    palm_space_options options = {.bound = BLOCKS * BYTES, .floor = 1, .idle_ns = 1000000};
    random_start(seed);
    me.number = number;
    me.life = life;
    me.place = &shared->places[number];
    me.points_left = ends_itself ? (int64_t)(random_next() % POINTS) : -1;
    for (uint32_t from = 0; from < PEERS; from++) {
        ring *r = &shared->rings[from][number][life & 1];
        r->receiver_life = r->sender_life = r->head = r->tail = 0;
    }
    CHECK_OK(palm_space_open(&options, &me.space));
    CHECK(palm_space_has_arena(me.space));
    palm_space_identity(me.space, &me.place->identity);
    me.place->who = me.space->who;
    atomic_store(&me.place->open, life);
    for (uint64_t i = 0; !atomic_load(&shared->stop); i++)
        turn(i, atomic_load(&shared->drain));
    _exit(0);
}

/* ------------------------------------------------------------------------------------------------- who kills them */

static pid_t pids[PEERS];
static uint64_t leaked, not_quiet, drains, ended_themselves;

static void start(uint32_t number, bool ends_itself)
{
    place *p = &shared->places[number];
    uint64_t seed = random_next(), life = p->life + 1;
    p->quiet = p->out = 0;
    p->open = 0;
    pid_t pid = fork(); /* no space is open here, so the child is as good as any process */
    CHECK(pid >= 0);
    if (!pid)
        live(number, life, seed, ends_itself);
    pids[number] = pid;
    atomic_store(&p->life, life); /* the former one has been waited for */
}

/* The number of a process that has ended itself, or -1. */
static int buried(void)
{
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0)
        return -1;
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* and not a failed check */
    ended_themselves++;
    for (int i = 0; i < PEERS; i++)
        if (pids[i] == pid)
            return i;
    return -1;
}

static void kill_one(void)
{
    int number = buried();
    if (number < 0) {
        number = (int)(random_next() % PEERS);
        kill(pids[number], SIGKILL);
        CHECK(waitpid(pids[number], NULL, 0) == pids[number]);
    }
    start((uint32_t)number, random_next() % 2);
}

static bool all_are_back(void)
{
    bool all = true;
    for (int i = 0; i < PEERS; i++)
        all &= shared->places[i].quiet > QUIET && !shared->places[i].out;
    return all;
}

static void drain(void)
{
    atomic_store(&shared->drain, 1);
    for (int ms = 0; ms < (CONTROL ? 1000 : DRAIN_MS) && !all_are_back(); ms++) {
        usleep(1000);
        int number = buried();
        if (number >= 0)
            start((uint32_t)number, false);
    }
    drains++;
    for (int i = 0; i < PEERS; i++) {
        leaked += shared->places[i].out;
        not_quiet += shared->places[i].quiet <= QUIET;
        shared->places[i].quiet = 0;
    }
    atomic_store(&shared->drain, 0);
}

static uint64_t corrupt(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < PEERS; i++)
        sum += shared->places[i].corrupt;
    return sum;
}

static void report(uint64_t kills, uint64_t seed)
{
    place sum = {0};
    for (int i = 0; i < PEERS; i++) {
        place *p = &shared->places[i];
        sum.sent += p->sent;
        sum.taken += p->taken;
        sum.stale += p->stale;
        sum.unreachable += p->unreachable;
        sum.checked += p->checked;
        sum.conflicts += p->conflicts;
        sum.evacuated += p->evacuated;
        sum.swept += p->swept;
    }
    printf("seed %lu: %lu kills (%lu at a point of their own): sent %lu taken %lu stale %lu unreachable %lu checked %lu "
           "swept %lu conflicts %lu evacuated %lu | corrupt %lu, leaked %lu, not quiet %lu in %lu drains\n",
           seed, kills, ended_themselves, sum.sent, sum.taken, sum.stale, sum.unreachable, sum.checked, sum.swept,
           sum.conflicts, sum.evacuated, corrupt(), leaked, not_quiet, drains);
}

int main(int argc, char **argv)
{
    uint64_t kills = argc > 1 ? strtoull(argv[1], NULL, 10) : 1500, done = 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    random_start(seed);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    for (uint32_t i = 0; i < PEERS; i++)
        start(i, false);
    while (done < kills && !(CONTROL && (corrupt() || leaked))) {
        usleep((useconds_t)(500 + random_next() % 6000));
        kill_one();
        if (++done % DRAIN_EVERY == 0)
            drain();
    }
    atomic_store(&shared->stop, 1);
    for (int i = 0; i < PEERS; i++)
        waitpid(pids[i], NULL, 0);
    report(done, seed);
    bool fault = corrupt() || leaked || not_quiet;
    return CONTROL ? !(corrupt() || leaked) : fault;
}
