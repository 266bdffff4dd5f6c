/* SPDX-License-Identifier: BSD-3-Clause
 * Rings and bells: what is put in comes out as it was, in order, whatever its size; a full ring takes no more; what the other
 * side writes is not believed; and nobody sleeps while something lies in its ring. */
#include "../src/ring.h"
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct pair { /* both sides of one ring */
    palmi_ring *ring;
    palmi_bell *bell;
    palmi_out out;
    palmi_in in;
    int sleeps_on;
} pair;

static pair pair_new(void)
{
    pair p = {0};
    int ends[2];
    p.ring = aligned_alloc(64, sizeof *p.ring);
    p.bell = aligned_alloc(64, sizeof *p.bell);
    CHECK(p.ring && p.bell && !pipe2(ends, O_NONBLOCK));
    memset(p.ring, 0, sizeof *p.ring);
    memset(p.bell, 0, sizeof *p.bell);
    p.sleeps_on = ends[0];
    p.out = (palmi_out){.ring = p.ring, .bell = p.bell, .wake = ends[1], .number = 77};
    p.in = (palmi_in){.ring = p.ring};
    return p;
}

static void pair_free(pair *p)
{
    close(p->sleeps_on);
    close(p->out.wake);
    free(p->ring);
    free(p->bell);
}

static uint64_t scramble(uint64_t n) { return (n ^ n >> 31) * 0xBF58476D1CE4E5B9ull >> 7; }

/* Mostly small, some as large as may be. */
static uint32_t size_of(uint64_t n)
{
    uint64_t r = scramble(n + 1);
    return (uint32_t)(r % 16 ? r / 16 % 300 : r / 16 % (PALMI_RING_MOST + 1));
}

static bool put(pair *p, uint64_t n)
{
    uint32_t size = size_of(n);
    uint8_t *at = palmi_ring_begin(&p->out, size);
    if (!at)
        return false;
    memset(at, (int)(n & 255), size);
    palmi_ring_end(&p->out, size, n);
    return true;
}

static bool get(pair *p, uint64_t n)
{
    palmi_letter letter;
    palm_err err = palmi_ring_peek(&p->in, &letter);
    if (err == PALM_EAGAIN)
        return false;
    CHECK_OK(err);
    CHECK(letter.seq == n && letter.size == size_of(n));
    static uint8_t wanted[PALMI_RING_MOST];
    memset(wanted, (int)(n & 255), letter.size);
    CHECK(!memcmp(letter.bytes, wanted, letter.size));
    palmi_ring_take(&p->in, &letter);
    return true;
}

static void test_in_order(void)
{
    pair p = pair_new();
    uint64_t sent = 0, got = 0;
    while (got < 3000) {
        while (put(&p, sent)) /* until it is full */
            sent++;
        uint64_t leave = scramble(got) % 3 ? 0 : sent - got > 5 ? 5 : 0;
        while (got < sent - leave)
            CHECK(get(&p, got++));
        CHECK(leave || !get(&p, got));
    }
    CHECK(sent > got - 1);
    pair_free(&p);
}

static void test_too_large(void)
{
    pair p = pair_new();
    CHECK(!palmi_ring_begin(&p.out, PALMI_RING_MOST + 1));
    CHECK(palmi_ring_begin(&p.out, PALMI_RING_MOST));
    CHECK(palmi_ring_begin(&p.out, 0));
    pair_free(&p);
}

static void put_sized(pair *p, uint64_t size, uint64_t n)
{
    uint8_t *at = palmi_ring_begin(&p->out, size);
    CHECK(at);
    memset(at, 0, size);
    palmi_ring_end(&p->out, size, n);
}

static void take(pair *p)
{
    palmi_letter letter;
    CHECK_OK(palmi_ring_peek(&p->in, &letter));
    palmi_ring_take(&p->in, &letter);
}

/* What is little and goes to and fro stays in the first few KiB, so that no more memory gets warm. */
static void test_the_front(void)
{
    enum { LITTLE = PALMI_RING_LITTLE / 2 };
    pair p = pair_new();
    for (uint64_t n = 0; n < 4 * PALMI_RING_BYTES / LITTLE; n++) {
        put_sized(&p, LITTLE, n);
        CHECK((p.out.head - 1) % PALMI_RING_BYTES < PALMI_RING_FRONT + 2 * LITTLE);
        take(&p);
    }
    pair_free(&p);
}

/* A stream has the whole ring, wherever in it the reader has caught up: its envelopes need not wait for their reader. */
static void test_a_stream_has_all_the_room(void)
{
    enum { SIZE = 64 << 10, ALL = PALMI_RING_FIRST / SIZE - 2 };
    pair p = pair_new();
    for (uint64_t n = 0, i; n < 50 * ALL; n += ALL + 1) {
        put_sized(&p, SIZE, n);
        take(&p); /* now it is empty, and somewhere in the middle */
        for (i = 1; i <= ALL; i++)
            put_sized(&p, SIZE, n + i);
        while (i-- > 1)
            take(&p);
    }
    pair_free(&p);
}

static uint64_t put_all(pair *p, uint64_t size)
{
    uint64_t n = 0;
    for (uint8_t *at; (at = palmi_ring_begin(&p->out, size)); n++) {
        memset(at, 1, size);
        palmi_ring_end(&p->out, size, n);
    }
    return n;
}

/* The first part does while it is not full. Then twice as much is used, up to all of it. */
static void test_more_is_used_only_when_it_is_full(void)
{
    enum { SIZE = 64 << 10, FIRST = PALMI_RING_FIRST / SIZE - 2, ALL = PALMI_RING_BYTES / SIZE - 2 };
    pair p = pair_new();
    for (uint64_t n = 0; n < 10 * FIRST; n++) {
        put_sized(&p, SIZE, n);
        CHECK((p.out.head - 1) % PALMI_RING_BYTES < PALMI_RING_FIRST);
        if (n >= FIRST / 2)
            take(&p);
    }
    CHECK(p.out.doubled == 0);
    for (uint32_t filled = 0; filled < 6; filled++) {
        while (p.out.head != p.in.tail)
            take(&p);
        uint64_t all = filled < 4 ? (uint64_t)FIRST << filled : ALL;
        CHECK(put_all(&p, SIZE) >= all);
    }
    CHECK(p.out.doubled == 3);
    pair_free(&p);
}

/* One shortage doubles it once, however often it is met at the end of the part that is used. */
static void test_a_shortage_counts_once(void)
{
    enum { SIZE = 64 << 10, LAP = PALMI_RING_FIRST / SIZE - 1 };
    pair p = pair_new();
    for (int lap = 0; lap < 2; lap++) {
        for (uint64_t n = 0; n < LAP; n++)
            put_sized(&p, SIZE, n);
        for (int n = 0; n < LAP && !lap; n++)
            take(&p);
    }
    for (int again = 0; again < 3; again++)
        CHECK(!palmi_ring_begin(&p.out, SIZE) && p.out.doubled == 0);
    for (uint64_t n = 0; n < 4 * LAP; n++) {
        while (p.out.head != p.in.tail)
            take(&p);
        put_sized(&p, SIZE, n);
    }
    CHECK(p.out.doubled == 1);
    pair_free(&p);
}

static void spoil(pair *p, uint64_t place, uint32_t size)
{
    memcpy(p->ring->bytes + place, &size, sizeof size);
}

/* Whatever stands in the ring, reading stays within it. */
static void test_lies(void)
{
    palmi_letter letter;
    uint64_t heads[] = {PALMI_RING_BYTES + 16, UINT64_MAX - 15, 8, 17};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        pair p = pair_new();
        atomic_store(&p.ring->head, heads[i]);
        CHECK_ERR(palmi_ring_peek(&p.in, &letter), PALM_EMALFORMED);
        pair_free(&p);
    }
    uint32_t sizes[] = {17, 1000, PALMI_RING_MOST + 1, PALMI_RING_BYTES, UINT32_MAX - 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pair p = pair_new();
        memset(palmi_ring_begin(&p.out, 16), 1, 16);
        palmi_ring_end(&p.out, 16, 1);
        spoil(&p, 0, sizes[i]);
        CHECK_ERR(palmi_ring_peek(&p.in, &letter), PALM_EMALFORMED);
        pair_free(&p);
    }
}

/* A record that would go over the end, and one behind a skip that is none. */
static void test_lies_at_the_end(void)
{
    palmi_letter letter;
    for (int skip = 0; skip < 2; skip++) {
        pair p = pair_new();
        p.in.head = p.in.tail = PALMI_RING_BYTES - 32;
        atomic_store(&p.ring->head, PALMI_RING_BYTES + (skip ? 16 : 48));
        spoil(&p, PALMI_RING_BYTES - 32, skip ? UINT32_MAX : 20);
        spoil(&p, 0, UINT32_MAX);
        CHECK_ERR(palmi_ring_peek(&p.in, &letter), PALM_EMALFORMED);
        pair_free(&p);
    }
}

static void test_lies_to_the_sender(void)
{
    uint64_t tails[] = {2 * PALMI_RING_BYTES, UINT64_MAX, 1u << 31};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        pair p = pair_new();
        uint64_t sent = 0;
        while (put(&p, sent))
            sent++;
        atomic_store(&p.ring->tail, tails[i]);
        CHECK(!put(&p, sent));
        pair_free(&p);
    }
}

static void test_bell(void)
{
    pair p = pair_new();
    uint64_t marked[PALMI_RING_WORDS] = {0};
    char rung[8];
    palmi_ring_call(&p.out);
    CHECK(read(p.sleeps_on, rung, sizeof rung) < 0); /* it did not sleep */
    CHECK(!palmi_bell_sleep(p.bell, 1));
    palmi_bell_collect(p.bell, marked);
    CHECK(marked[1] == UINT64_C(1) << 13 && !marked[0]);
    palmi_out other = p.out; /* another's ring */
    other.number = 5;
    CHECK(palmi_bell_sleep(p.bell, 2));
    palmi_ring_call(&p.out);
    palmi_ring_call(&p.out);
    CHECK(read(p.sleeps_on, rung, sizeof rung) == 1); /* once is enough */
    palmi_ring_call(&other);
    CHECK(read(p.sleeps_on, rung, sizeof rung) == 1); /* but each for itself */
    palmi_bell_rise(p.bell);
    palmi_bell_collect(p.bell, marked);
    CHECK(marked[0] == UINT64_C(1) << 5 && palmi_bell_sleep(p.bell, 3));
    palmi_ring_call(&other);
    CHECK(read(p.sleeps_on, rung, sizeof rung) == 1); /* it is another sleep */
    palmi_bell_rise(p.bell);
    pair_free(&p);
}

enum { MANY = 30000 };

static void *send_many(void *arg)
{
    pair *p = arg;
    for (uint64_t n = 0; n < MANY;) {
        if (!put(p, n)) {
            usleep(20);
            continue;
        }
        palmi_ring_call(&p->out);
        if (scramble(n++) % 64 == 0)
            usleep(1); /* it falls asleep now and then */
    }
    return NULL;
}

static void sleep_until_rung(pair *p)
{
    char rung[64];
    struct pollfd fd = {p->sleeps_on, POLLIN, 0};
    static uint32_t sleeps;
    if (palmi_bell_sleep(p->bell, ++sleeps))
        CHECK(poll(&fd, 1, 20000) == 1); /* else a wake-up is lost */
    palmi_bell_rise(p->bell);
    ssize_t n = read(p->sleeps_on, rung, sizeof rung);
    (void)n;
}

static void test_nobody_sleeps_over_it(void)
{
    pair p = pair_new();
    pthread_t sender;
    uint64_t marked[PALMI_RING_WORDS] = {0}, got = 0;
    CHECK(!pthread_create(&sender, NULL, send_many, &p));
    while (got < MANY) {
        palmi_bell_collect(p.bell, marked);
        if (!marked[1]) {
            sleep_until_rung(&p);
            continue;
        }
        marked[1] = 0; /* before it is read: what is put in later is marked again */
        while (get(&p, got))
            got++;
    }
    pthread_join(sender, NULL);
    pair_free(&p);
}

int main(void)
{
    test_in_order();
    test_too_large();
    test_the_front();
    test_a_stream_has_all_the_room();
    test_more_is_used_only_when_it_is_full();
    test_a_shortage_counts_once();
    test_lies();
    test_lies_at_the_end();
    test_lies_to_the_sender();
    test_bell();
    test_nobody_sleeps_over_it();
    return 0;
}
