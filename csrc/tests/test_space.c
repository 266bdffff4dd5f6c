/* SPDX-License-Identifier: BSD-3-Clause
 * The space, through its public door. Two spaces of one process stand for two processes. */
#include "test_space.h"

#include <sys/resource.h>

/* ------------------------------------------------------------------------------------------------------- own blocks */

static void allocates_and_recycles(void)
{
    palm_space *space = open_space(64 * MIB);
    static const size_t sizes[] = {0, 1, 4096, 4097, 16 * KIB, 100000, 1792 * KIB + 1, 2 * MIB, 3 * MIB + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i];
        uint8_t *a = palm_space_alloc(space, n, false), *b = palm_space_alloc(space, n, false);
        CHECK(a && b && a != b && palm_space_owns(space, a));
        CHECK((uintptr_t)a % (n >= 2 * MIB ? 2 * MIB : 4096) == 0);
        size_t usable = palm_space_usable(space, a);
        CHECK(usable >= n && (n < 16 * KIB || usable <= n + n / 4 + 4096));
        CHECK(a + usable <= b || b + palm_space_usable(space, b) <= a);
        memset(a, 1, n);
        memset(b, 2, n);
        palm_space_free(space, a);
        palm_space_free(space, b);
        CHECK(palm_space_alloc(space, n, false) == b); /* last in, first out */
        CHECK(palm_space_alloc(space, n, false) == a);
        palm_space_free(space, a);
        palm_space_free(space, b);
    }
    int heap;
    CHECK(!palm_space_owns(space, &heap) && palm_space_usable(space, &heap) == 0);
    palm_space_stats s = stats(space);
    CHECK(s.blocks_held == 0 && s.arena_in_use == 0 && s.arena_idle > 0 && s.allocs == 4 * sizeof sizes / sizeof *sizes);
    palm_space_close(space);
}

static void zeroes(void)
{
    palm_space *space = open_space(64 * MIB);
    uint8_t *a = palm_space_alloc(space, MIB, true);
    CHECK(is_zero(a, MIB));
    memset(a, 7, MIB);
    palm_space_free(space, a);
    uint8_t *b = palm_space_alloc(space, MIB - 5000, true);
    CHECK(b == a && is_zero(b, MIB - 5000));
    palm_space_free(space, b);
    uint8_t *c = palm_space_alloc(space, 900 * KIB, false); /* a block that has been touched in part */
    memset(c, 7, 900 * KIB);
    palm_space_free(space, c);
    uint8_t *d = palm_space_alloc(space, 1024 * KIB, true);
    CHECK(is_zero(d, 1024 * KIB));
    palm_space_close(space);
    palm_space_free(space, d); /* the space lives as long as a block is held */
}

static void resizes_in_place(void)
{
    palm_space *space = open_space(64 * MIB);
    uint8_t *a = palm_space_alloc(space, 33 * KIB, false);
    CHECK(palm_space_usable(space, a) == 40 * KIB);
    CHECK(palm_space_resize(space, a, 40 * KIB) == a);
    CHECK(palm_space_resize(space, a, 21 * KIB) == a);
    CHECK(!palm_space_resize(space, a, 40 * KIB + 1));
    CHECK(!palm_space_resize(space, a, 4 * KIB));
    held h = hold(space, a, 1);
    CHECK(!palm_space_resize(space, a, 39 * KIB)); /* another reference may be looking */
    drop(h);
    CHECK(palm_space_resize(space, a, 39 * KIB) == a);
    offer_of(space, a);
    CHECK(!palm_space_resize(space, a, 38 * KIB));
    palm_space_free(space, a);
    palm_space_close(space);
}

static void is_full_at_its_bound(void)
{
    palm_space *space = open_space(4 * MIB);
    void *blocks[64];
    int n = 0;
    while (n < 64 && (blocks[n] = palm_space_alloc(space, 256 * KIB, false)))
        n++;
    CHECK(n == 16);
    palm_space_stats s = stats(space);
    CHECK(s.arena_in_use == 4 * MIB && s.arena_bound == 4 * MIB && s.allocs_full == 1);
    CHECK(!palm_space_alloc(space, 4096, false) && !palm_space_alloc(space, SIZE_MAX, false));
    CHECK(!palm_space_alloc(space, (size_t)1 << 62, true));
    palm_space_free(space, blocks[3]);
    uint8_t *smaller = palm_space_alloc(space, 200 * KIB, true); /* no fresh pages: a warm block that is larger */
    CHECK(smaller == blocks[3] && is_zero(smaller, 200 * KIB));
    palm_space_free(space, smaller);
    for (int i = 0; i < n; i++)
        if (i != 3)
            palm_space_free(space, blocks[i]);
    CHECK(stats(space).arena_idle == 4 * MIB);
    palm_space_close(space);
}

static void trims_what_is_idle(void)
{
    palm_space *space;
    palm_space_options options = {.bound = 64 * MIB, .floor = 4 * MIB, .idle_ns = SECOND};
    CHECK_OK(palm_space_open(&options, &space));
    uint64_t t = now();
    palm_space_tick(space, t);
    uint8_t *blocks[8];
    for (int i = 0; i < 8; i++) {
        blocks[i] = palm_space_alloc(space, 2 * MIB, false);
        memset(blocks[i], i + 1, 2 * MIB);
    }
    for (int i = 0; i < 8; i++) {
        palm_space_tick(space, t + (uint64_t)i);
        palm_space_free(space, blocks[i]);
    }
    CHECK(stats(space).arena_idle == 16 * MIB);
    palm_space_tick(space, t + SECOND / 2);
    CHECK(stats(space).trimmed_bytes == 0);
    palm_space_tick(space, t + 2 * SECOND);
    CHECK(stats(space).trimmed_bytes == 12 * MIB && stats(space).arena_idle == 4 * MIB);
    CHECK(palm_space_alloc(space, 2 * MIB, false) == blocks[7]); /* the last one in is still warm */
    CHECK(palm_space_alloc(space, 2 * MIB, false) == blocks[6]);
    uint8_t *cold = palm_space_alloc(space, 2 * MIB, true);
    CHECK(cold && is_zero(cold, 2 * MIB));
    for (int i = 0; i < 8; i++)
        palm_space_free(space, blocks[i]); /* those that are idle already are no blocks of ours */
    CHECK(stats(space).blocks_held == 0);
    palm_space_close(space);
}

/* Sizes change for ever, addresses do not suffice: cold blocks give theirs back. */
static void gathers_addresses(void)
{
    palm_space *space;
    palm_space_options options = {.bound = 16 * MIB, .floor = 1, .idle_ns = 1};
    CHECK_OK(palm_space_open(&options, &space));
    uint64_t t = now(), seed = 0;
    uint8_t *kept = palm_space_alloc(space, 64 * KIB, false);
    fill(kept, 64 * KIB, 99);
    for (int round = 0; round < 40; round++) {
        uint8_t *blocks[12] = {0};
        size_t n = 64 * KIB + (size_t)round * 30000;
        for (int i = 0; i < 12; i++) {
            blocks[i] = palm_space_alloc(space, n, true);
            CHECK(blocks[i] && is_zero(blocks[i], n));
            fill(blocks[i], n, seed += 1000000);
        }
        for (int i = 0; i < 12; i++) {
            CHECK(is_filled(blocks[i], n, seed - (uint64_t)(11 - i) * 1000000));
            drop(hold(space, blocks[i] + n / 2, n / 2));
            palm_space_free(space, blocks[i]);
        }
        palm_space_tick(space, t += SECOND);
    }
    CHECK(is_filled(kept, 64 * KIB, 99));
    palm_space_free(space, kept);
    CHECK(stats(space).allocs_full == 0 && stats(space).blocks_held == 0);
    palm_space_close(space);
}

static void holds_by_address(void)
{
    palm_space *space = open_space(64 * MIB);
    uint8_t *a = palm_space_alloc(space, 20 * KIB, false), *b = palm_space_alloc(space, 5 * MIB, false);
    held h = hold(space, a + 100, 20 * KIB - 100);
    CHECK(h.first == a);
    palm_space_free(space, a);
    CHECK(stats(space).blocks_held == 2);
    CHECK(palm_space_alloc(space, 20 * KIB, false) != a);
    drop(h);
    h = hold(space, b + 5 * MIB - 1, 1);
    CHECK(h.first == b);
    palm_block_hold(h.arena, h.index);
    drop(h);
    drop(h);
    const void *first;
    size_t size;
    int heap;
    CHECK_ERR(palm_space_hold(space, b + 1, 5 * MIB, &h.arena, &h.index, &first, &size), PALM_EINVAL);
    CHECK_ERR(palm_space_hold(space, b, SIZE_MAX, &h.arena, &h.index, &first, &size), PALM_EINVAL);
    CHECK_ERR(palm_space_hold(space, &heap, 4, &h.arena, &h.index, &first, &size), PALM_EINVAL);
    CHECK_ERR(palm_space_hold(space, b + 30 * MIB, 4, &h.arena, &h.index, &first, &size), PALM_EINVAL);
    palm_space_free(space, b);
    CHECK_ERR(palm_space_hold(space, b, 4, &h.arena, &h.index, &first, &size), PALM_EINVAL);
    palm_space_close(space);
}

static void allocates_more_than_two_gigabytes(void)
{
    size_t n = (1ull << 31) + 1;
    palm_space *a = open_space(4096 * MIB), *b = open_space(4096 * MIB);
    uint8_t *p = palm_space_alloc(a, n, false);
    if (!p) { /* so much is not to be had here */
        palm_space_close(a);
        palm_space_close(b);
        return;
    }
    CHECK(palm_space_usable(a, p) >= n);
    p[0] = 1;
    p[n - 1] = 2;
    palm_block offer = offer_of(a, p);
    held h = take(b, &offer);
    CHECK(((const uint8_t *)h.first)[0] == 1 && ((const uint8_t *)h.first)[n - 1] == 2);
    drop(hold(b, (const uint8_t *)h.first + n - 1, 1));
    drop(h);
    palm_space_free(a, p);
    palm_space_close(a);
    palm_space_close(b);
}

/* ---------------------------------------------------------------------------------------------------------- lifetime */

static void lends_and_takes(void)
{
    palm_space *a = open_space(64 * MIB), *b = open_space(64 * MIB);
    uint8_t *p = palm_space_alloc(a, 64 * KIB, false);
    fill(p, 64 * KIB, 5);
    palm_block offer = offer_of(a, p);
    held first = take(b, &offer), second = take(b, &offer);
    CHECK(first.arena == second.arena && first.first == second.first && first.first != p);
    CHECK(is_filled(first.first, 64 * KIB, 5));
    CHECK(stats(b).mapped == 64 * KIB && stats(b).blocks_held == 1 && stats(b).taken == 2);
    palm_space_free(a, p);
    CHECK(stats(a).blocks_held == 0 && stats(a).blocks_lent == 1 && stats(a).arena_in_use == 64 * KIB);
    uint8_t *q = palm_space_alloc(a, 64 * KIB, false);
    CHECK(q != p);
    drop(first);
    palm_space_tick(a, now());
    CHECK(stats(a).blocks_lent == 1);
    held by_address = hold(b, (const uint8_t *)second.first + 1000, 64 * KIB - 1000);
    CHECK(by_address.arena == second.arena && by_address.index == second.index);
    drop(second);
    CHECK(is_filled(by_address.first, 64 * KIB, 5));
    drop(by_address);
    CHECK(stats(b).mapped == 0);
    CHECK(palm_space_alloc(a, 64 * KIB, false) == p); /* collected when the class has no other */
    CHECK(stats(a).blocks_lent == 0);
    check_take(b, offer, PALM_ESTALE);
    check_take(a, offer, PALM_ESTALE);
    CHECK(stats(b).stale == 1 && stats(b).blocks_held == 0);
    palm_space_free(a, p);
    palm_space_free(a, q);
    CHECK(stats(a).blocks_lent == 0);
    palm_space_close(b);
    palm_space_close(a);
}

static void forwards_and_comes_home(void)
{
    palm_space *a = open_space(64 * MIB), *b = open_space(64 * MIB), *c = open_space(64 * MIB);
    uint8_t *p = palm_space_alloc(a, 3 * MIB, false);
    fill(p, 3 * MIB, 11);
    palm_block offer = offer_of(a, p), onward;
    held at_b = take(b, &offer);
    palm_space_free(a, p);
    CHECK_OK(palm_block_lend(at_b.arena, at_b.index, &onward)); /* names b's fd of a's arena */
    CHECK(onward.generation == offer.generation && onward.fd != offer.fd);
    held at_c = take(c, &onward);
    drop(at_b);
    CHECK(is_filled(at_c.first, 3 * MIB, 11) && stats(a).blocks_lent == 1);
    CHECK_OK(palm_block_lend(at_c.arena, at_c.index, &onward));
    palm_block forged = onward;
    forged.size = 2 * MIB;
    check_take(a, forged, PALM_EMALFORMED);
    forged = onward;
    forged.generation++;
    check_take(a, forged, PALM_ESTALE);
    held home = take(a, &onward);
    drop(at_c);
    CHECK(home.first == p && stats(a).blocks_lent == 0 && stats(a).blocks_held == 1);
    p[0] = 1; /* the owner's own mapping is writable */
    drop(home);
    CHECK(stats(a).blocks_lent == 0 && stats(a).arena_in_use == 0);
    check_take(a, onward, PALM_ESTALE);
    palm_space_close(c);
    palm_space_close(b);
    palm_space_close(a);
}

static void refuses_forged_offers(void)
{
    palm_space *a = open_space(64 * MIB), *b = open_space(64 * MIB);
    void *p = palm_space_alloc(a, 64 * KIB, false), *q = palm_space_alloc(a, 64 * KIB, false);
    palm_block good = offer_of(a, p), o;
    held h = take(b, &good);
#define FORGED(wanted, ...) do { o = good; __VA_ARGS__; check_take(b, o, wanted); } while (0)
    FORGED(PALM_EMALFORMED, o.index = UINT32_MAX);
    FORGED(PALM_EMALFORMED, o.index = 65536);
    FORGED(PALM_EMALFORMED, o.size = 0);
    FORGED(PALM_EMALFORMED, o.at = UINT64_MAX - 4095);
    FORGED(PALM_EMALFORMED, o.at = UINT64_MAX - 4095, o.size = 8192);
    FORGED(PALM_EMALFORMED, o.size = UINT64_MAX);
    FORGED(PALM_EMALFORMED, o.size = UINT64_MAX & ~4095ull);
    FORGED(PALM_EMALFORMED, o.size = 1ull << 62);
    FORGED(PALM_EMALFORMED, o.at += 1);
    FORGED(PALM_EMALFORMED, o.at += 4096);
    FORGED(PALM_EMALFORMED, o.size += 4096);
    FORGED(PALM_EMALFORMED, o.generation = UINT64_MAX);
    FORGED(PALM_ESTALE, o.generation++);
    FORGED(PALM_ESTALE, o.index++);              /* q, which was never lent */
    FORGED(PALM_ESTALE, o.index = 60000);        /* no block at all */
    FORGED(PALM_EUNREACHABLE, o.arena_lo++);
    FORGED(PALM_EUNREACHABLE, o.arena_lo++, o.fd = 0);
    FORGED(PALM_EUNREACHABLE, o.arena_lo++, o.fd = -1);
    FORGED(PALM_EUNREACHABLE, o.arena_lo++, o.pid = 0);
    FORGED(PALM_EUNREACHABLE, o.arena_lo++, o.pid = -1);
    FORGED(PALM_EUNREACHABLE, o.arena_lo++, o.pid = INT32_MAX);
    CHECK(stats(b).blocks_held == 1 && stats(b).peers == 1);
    drop(h);
    check_take(b, good, PALM_OK);
    FORGED(PALM_EMALFORMED, o.at += 65536);      /* the same generation, elsewhere */
    palm_block_drop(h.arena, h.index);
    palm_space_free(a, p);
    palm_space_free(a, q);
    palm_space_tick(a, now());
    CHECK(stats(a).arena_in_use == 0);
    palm_space_close(b);
    palm_space_close(a);
}

static void lends_only_what_is_held(void)
{
    palm_space *a = open_space(64 * MIB);
    void *p = palm_space_alloc(a, 64 * KIB, false);
    held h = hold(a, p, 1);
    palm_block offer;
    palm_space_free(a, p);
    drop(h);
    CHECK_ERR(palm_block_lend(h.arena, h.index, &offer), PALM_EINVAL);
    CHECK_ERR(palm_block_lend(h.arena, UINT32_MAX, &offer), PALM_EINVAL);
    palm_block_drop(h.arena, h.index);
    palm_block_drop(h.arena, UINT32_MAX);
    palm_block_hold(h.arena, h.index);
    CHECK(stats(a).blocks_held == 0);
    palm_space_close(a);
}

static void closes_with_blocks_held(void)
{
    palm_space *a = open_space(64 * MIB), *b = open_space(64 * MIB);
    uint8_t *p = palm_space_alloc(a, 64 * KIB, false), *q = palm_space_alloc(a, 64 * KIB, false);
    fill(p, 64 * KIB, 3);
    fill(q, 64 * KIB, 4);
    palm_block offer = offer_of(a, p), other = offer_of(a, q);
    held h = take(b, &offer), own = hold(a, q, 8);
    palm_space_free(a, p);
    palm_space_free(a, q);
    palm_space_close(a);
    palm_block late;
    CHECK(is_filled(own.first, 64 * KIB, 4));
    CHECK_ERR(palm_block_lend(own.arena, own.index, &late), PALM_ECLOSED);
    CHECK(!palm_space_alloc(a, 4096, false));
    check_take(a, offer, PALM_ECLOSED);
    held late_one = take(b, &other); /* offered before, and still mapped */
    drop(own);                       /* the last one: now a is gone */
    CHECK(is_filled(h.first, 64 * KIB, 3) && is_filled(late_one.first, 64 * KIB, 4));
    palm_space_tick(b, now());
    CHECK(is_filled(h.first, 64 * KIB, 3));
    drop(late_one);
    palm_space_close(b);
    CHECK(is_filled(h.first, 64 * KIB, 3));
    drop(h);
}

static void attaches_once_and_tells(void)
{
    palm_space *a = open_space(64 * MIB), *b = open_space(64 * MIB), *c = open_space(64 * MIB);
    palm_identity at_a, me;
    uint32_t slot, again, other, word, next;
    palm_space_identity(a, &at_a);
    palm_space_identity(b, &me);
    CHECK(at_a.pid == getpid() && at_a.fd > 0 && at_a.pid_namespace == me.pid_namespace);
    palm_space_set_taken(b, at_a.arena_hi, at_a.arena_lo, 0, 77); /* not mapped yet: ignored */
    CHECK_OK(palm_space_attach(b, &at_a, &slot));
    CHECK_OK(palm_space_attach(b, &at_a, &again));
    CHECK_OK(palm_space_attach(c, &at_a, &other));
    CHECK(slot == again && slot != other && slot && other);
    CHECK_OK(palm_space_claim_word(a, &word));
    CHECK_OK(palm_space_claim_word(a, &next));
    CHECK(word != next && palm_space_taken(a, word) == 0);
    palm_space_set_taken(b, at_a.arena_hi, at_a.arena_lo, word, 42);
    palm_space_set_taken(c, at_a.arena_hi, at_a.arena_lo, next, 43);
    palm_space_set_taken(b, at_a.arena_hi, at_a.arena_lo, PALM_TAKEN_WORDS, 44);
    CHECK(palm_space_taken(a, word) == 42 && palm_space_taken(a, next) == 43);
    CHECK(palm_space_taken(a, PALM_TAKEN_WORDS) == 0);
    palm_space_return_word(a, word);
    palm_space_return_word(a, word); /* twice: nothing */
    uint32_t last = 0;
    for (int i = 0; i < PALM_TAKEN_WORDS - 1; i++)
        CHECK_OK(palm_space_claim_word(a, &last));
    CHECK(last == word && palm_space_taken(a, last) == 0); /* the one returned last comes last, and is zero again */
    CHECK_ERR(palm_space_claim_word(a, &last), PALM_EFULL);
    palm_identity elsewhere = at_a, nowhere = at_a;
    elsewhere.arena_lo ^= 1;
    elsewhere.boot_id[3] ^= 1;
    nowhere.pid_namespace++;
    CHECK_ERR(palm_space_attach(b, &elsewhere, &slot), PALM_EUNREACHABLE);
    CHECK_ERR(palm_space_attach(b, &nowhere, &slot), PALM_EUNREACHABLE);
    memset(&nowhere, 0, sizeof nowhere);
    CHECK_ERR(palm_space_attach(b, &nowhere, &slot), PALM_EUNREACHABLE);
    CHECK_OK(palm_space_attach(a, &at_a, &slot)); /* a process may send to itself */
    CHECK(slot == 0);
    palm_space_close(a);
    palm_space_close(b);
    palm_space_close(c);
}

static void has_slots_for_447(void)
{
    static palm_space *peers[448];
    palm_space *a = open_space(MIB);
    palm_identity at_a;
    uint32_t slot;
    palm_space_identity(a, &at_a);
    struct rlimit files = {2048, 2048};
    if (setrlimit(RLIMIT_NOFILE, &files)) {
        palm_space_close(a);
        return;
    }
    for (int i = 0; i < 448; i++) {
        peers[i] = open_space(MIB);
        CHECK_ERR(palm_space_attach(peers[i], &at_a, &slot), i < 447 ? PALM_OK : PALM_EFULL);
    }
    palm_space_close(peers[5]); /* gives its slot back */
    CHECK_OK(palm_space_attach(peers[447], &at_a, &slot));
    for (int i = 0; i < 448; i++)
        if (i != 5)
            palm_space_close(peers[i]);
    palm_space_close(a);
}

/* ------------------------------------------------------------------------------------------------------- no arena */

static void does_without_arena(void)
{
    palm_space *a = open_space(MIB), *none;
    palm_space_options options = {.no_arena = true};
    CHECK_OK(palm_space_open(&options, &none));
    CHECK(!palm_space_has_arena(none) && !palm_space_alloc(none, 4096, false));
    CHECK(is_zero(palm_space_page(none), PALM_PAGE_BYTES) && (uintptr_t)palm_space_page(none) % PALM_ALIGN == 0);
    memset(palm_space_page(none), 1, PALM_PAGE_BYTES);
    palm_identity me, at_a;
    uint32_t slot;
    palm_space_identity(none, &me);
    palm_space_identity(a, &at_a);
    CHECK(me.pid == getpid() && me.fd == 0 && !me.arena_hi && !me.arena_lo);
    CHECK_ERR(palm_space_attach(none, &at_a, &slot), PALM_EUNREACHABLE);
    CHECK_ERR(palm_space_attach(a, &me, &slot), PALM_EUNREACHABLE);
    CHECK_ERR(palm_space_claim_word(none, &slot), PALM_EUNREACHABLE);
    CHECK(palm_space_taken(none, 0) == 0 && !palm_space_owns(none, &me));
    palm_space_tick(none, now());
    palm_space_close(none);
    palm_space_close(a);
}

int main(void)
{
    allocates_and_recycles();
    zeroes();
    resizes_in_place();
    is_full_at_its_bound();
    trims_what_is_idle();
    gathers_addresses();
    holds_by_address();
    allocates_more_than_two_gigabytes();
    lends_and_takes();
    forwards_and_comes_home();
    refuses_forged_offers();
    lends_only_what_is_held();
    closes_with_blocks_held();
    attaches_once_and_tells();
    does_without_arena();
    has_slots_for_447();
    return 0;
}
