/* SPDX-License-Identifier: BSD-3-Clause
 * Batches that are used again: they come back empty, what is too large does not, few are kept, several threads
 * at a time get different ones, and what is in a body stays while it grows. */
#include "../src/spare.h"
#include "check.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { FULL = PALMI_SPARE_ROOM, MANY = 100, THREADS = 4, ROUNDS = 5000 };
static uint8_t bytes[2 * FULL];

static palm_batch *with_body(size_t n)
{
    palm_batch *batch;
    palm_record *record;
    CHECK_OK(palm_batch_new(&batch));
    CHECK_OK(palm_batch_record(batch, PALM_BYTES, 7, &record));
    CHECK_OK(palm_batch_body(batch, bytes, n));
    return batch;
}

static void test_what_is_in_it_stays(void)
{
    palm_batch *batch = with_body(0);
    uint8_t part[999];
    for (int i = 0; i < 2000; i++) {
        memset(part, i, sizeof part);
        CHECK_OK(palm_batch_body(batch, part, sizeof part));
    }
    for (int i = 0; i < 2000; i++)
        CHECK(batch->body[i * 999] == (uint8_t)i && batch->body[i * 999 + 998] == (uint8_t)i);
    palm_batch_free(batch);
}

static void test_it_comes_back_empty(void)
{
    palm_batch *first = with_body(FULL), *second;
    CHECK_OK(palm_batch_path(first, (const uint64_t[]){1, 2}, 2));
    palm_batch_free(first);
    CHECK_OK(palm_batch_new(&second));
    CHECK(second == first && second->body_room == FULL);
    CHECK(!palm_batch_count(second) && !palm_batch_bytes(second) && !palm_batch_full(second) && !second->paths.n);
    palm_batch_free(second);
    CHECK(palmi_spare_take() == second && !palmi_spare_take());
    CHECK(palmi_spare_keep(second));
}

static void test_others_do_not(void)
{
    palm_batch *others[MANY];
    int n = 0;
    while ((others[n] = palmi_spare_take()))
        n++;
    palm_batch_free(with_body(1));
    palm_batch_free(with_body(FULL + 1));
    palm_batch *lists = with_body(FULL);
    for (int i = 0; i < 2000; i++)
        CHECK_OK(palm_batch_record(lists, PALM_DROP, (uint64_t)i, &(palm_record *){NULL}));
    palm_batch_free(lists);
    CHECK(!palmi_spare_take());
    while (n--)
        palm_batch_free(others[n]);
}

static void test_few_are_kept(void)
{
    palm_batch *batches[MANY];
    for (int i = 0; i < MANY; i++)
        batches[i] = with_body(FULL);
    for (int i = 0; i < MANY; i++)
        palm_batch_free(batches[i]);
    int kept = 0;
    while (kept < MANY && (batches[kept] = palmi_spare_take()))
        kept++;
    CHECK(kept > 0 && kept < MANY);
    for (int i = 0; i < kept; i++)
        CHECK(palmi_spare_keep(batches[i]));
}

static void *use(void *mark)
{
    for (int i = 0; i < ROUNDS; i++) {
        palm_batch *batch = with_body(64); /* mostly one that is used again: those that the test before has left */
        memset(batch->body, *(uint8_t *)mark, 64);
        for (int k = 0; k < 64; k++)
            CHECK(batch->body[k] == *(uint8_t *)mark);
        palm_batch_free(batch);
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
    test_it_comes_back_empty();
    test_others_do_not();
    test_few_are_kept();
    test_threads_get_different_ones();
    return 0;
}
