/* SPDX-License-Identifier: BSD-3-Clause
 * What was let go of is there for the next who wants about as much, some of it, and no thread has what another has. */
#include "../src/warm.h"
#include "check.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { KIB = 1 << 10, SOME = 8 };

static void *warm(size_t size)
{
    void *p = palmi_warm_take(size);
    CHECK(p && (uintptr_t)p % 16 == 0);
    memset(p, 1, size);
    return p;
}

static void test_some_are_kept(void)
{
    void *first[SOME], *again[SOME];
    for (int i = 0; i < SOME; i++)
        first[i] = warm(100 * KIB + i);
    for (int i = 0; i < SOME; i++)
        palmi_warm_give(first[i]);
    for (int i = 0; i < SOME; i++) {
        bool found = false;
        again[i] = warm(110 * KIB); /* of one step with those */
        for (int k = 0; k < SOME; k++)
            found |= again[i] == first[k];
        CHECK(found);
    }
    for (int i = 0; i < SOME; i++)
        palmi_warm_give(again[i]);
    palmi_warm_clear();
}

static void test_sizes(void)
{
    void *p = warm(200 * KIB);
    palmi_warm_give(p);
    void *larger = warm(300 * KIB), *little = warm(90 * KIB); /* who keeps it would keep twice as much */
    CHECK(larger != p && little != p);
    void *fits = warm(150 * KIB);
    CHECK(fits == p);
    void *all[] = {larger, little, fits, warm(1), warm(0), warm(10 * KIB), warm(2048 * KIB)};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        palmi_warm_give(all[i]);
    palmi_warm_give(NULL);
    CHECK(!palmi_warm_take(SIZE_MAX));
    palmi_warm_clear();
}

/* Those that nobody wants any more make room for those that are wanted now. */
static void test_what_does_not_fit_any_more(void)
{
    void *small[100];
    for (int i = 0; i < 100; i++)
        small[i] = warm(20 * KIB);
    for (int i = 0; i < 100; i++)
        palmi_warm_give(small[i]);
    void *large = warm(400 * KIB), *other = warm(400 * KIB);
    palmi_warm_give(large);
    CHECK(warm(400 * KIB) == large);
    palmi_warm_give(large);
    palmi_warm_give(other);
    palmi_warm_clear();
}

static void *use(void *arg)
{
    unsigned char mine = *(unsigned char *)arg;
    for (int i = 0; i < 20000; i++) {
        size_t size = (20 + (size_t)(i % 7) * 30) * KIB;
        unsigned char *p = palmi_warm_take(size), *q = palmi_warm_take(size);
        CHECK(p && q && p != q);
        p[0] = p[size - 1] = q[0] = mine;
        palmi_warm_give(q);
        CHECK(p[0] == mine && p[size - 1] == mine);
        palmi_warm_give(p);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[4];
    unsigned char names[4] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, use, &names[i]));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    palmi_warm_clear();
}

int main(void)
{
    test_some_are_kept();
    test_sizes();
    test_what_does_not_fit_any_more();
    test_threads();
    return 0;
}
