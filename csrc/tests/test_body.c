/* SPDX-License-Identifier: BSD-3-Clause
 * Memory of bodies: what is in them stays while they grow, large ones are used again, no more than a few are kept, and
 * several threads at a time get different ones. */
#include "../src/body.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

enum { LARGE = 5 << 16, MANY = 100, THREADS = 4, ROUNDS = 20000 };

static uint8_t *grown(uint64_t *room, uint64_t end)
{
    uint8_t *body = NULL;
    *room = 0;
    CHECK_OK(palmi_body_grow(&body, room, 0, end));
    CHECK(*room >= end);
    return body;
}

static void test_what_is_in_it_stays(void)
{
    uint64_t room = 0, used = 0;
    uint8_t *body = NULL;
    for (uint64_t end = 1; end < 3 << 20; end += end / 3 + 1) {
        CHECK_OK(palmi_body_grow(&body, &room, used, end));
        CHECK(room >= end);
        for (; used < end; used++)
            body[used] = (uint8_t)(used * 7 >> 3);
    }
    for (uint64_t i = 0; i < used; i++)
        CHECK(body[i] == (uint8_t)(i * 7 >> 3));
    palmi_body_free(body, room);
    palmi_body_free(NULL, 0);
}

static void test_a_large_one_is_used_again(void)
{
    uint64_t room;
    uint8_t *first = grown(&room, LARGE - 1);
    CHECK(room == LARGE);
    palmi_body_free(first, room);
    uint8_t *second = grown(&room, 1);
    CHECK(second == first && room == LARGE);
    uint8_t *third = grown(&room, LARGE + 1);
    CHECK(third != first && room > LARGE);
    palmi_body_free(third, room);
    palmi_body_free(second, LARGE);
}

static void test_few_are_kept(void)
{
    uint8_t *bodies[MANY];
    uint64_t room;
    for (int i = 0; i < MANY; i++)
        bodies[i] = grown(&room, LARGE);
    for (int i = 0; i < MANY; i++)
        palmi_body_free(bodies[i], LARGE);
    int kept = 0;
    for (; kept < MANY; kept++) {
        bodies[kept] = grown(&room, 1);
        if (room != LARGE)
            break;
    }
    CHECK(kept > 0 && kept < MANY);
    palmi_body_free(bodies[kept], room);
    for (int i = 0; i < kept; i++)
        palmi_body_free(bodies[i], LARGE);
}

static void *use(void *mark)
{
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t room;
        uint8_t *body = grown(&room, LARGE);
        memset(body, *(uint8_t *)mark, 64);
        for (int k = 0; k < 64; k++)
            CHECK(body[k] == *(uint8_t *)mark);
        palmi_body_free(body, room);
    }
    return NULL;
}

static void test_threads_get_different_ones(void)
{
    pthread_t threads[THREADS];
    uint8_t marks[THREADS] = {1, 2, 3, 4};
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, use, &marks[i]));
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
}

int main(void)
{
    test_what_is_in_it_stays();
    test_a_large_one_is_used_again();
    test_few_are_kept();
    test_threads_get_different_ones();
    return 0;
}
