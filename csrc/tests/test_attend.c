/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Receiving while a function runs. Arguments: those of peers_begin. */
#include "node_peers.h"

#include <pthread.h>

static const uint8_t JOB[17] = "a job's 16 bytes";

/* What the page says of a function that has begun at 5. */
static palm_at_work *work_on(peer *p, uint64_t number, uint32_t client)
{
    palm_at_work *work = &((palm_counters *)palm_space_page(p->space))->at_work;
    palm_work_on(work, JOB, 0, 0, 1, client);
    palm_work_terms(work, 1, 0, 0, 0);
    palm_work_begin(work, number, NULL, 0, 5);
    work->unwanted_since = 0;
    return work;
}

static void say_end(peer *from, uint32_t link, palm_kind kind, const char *job, uint64_t number, uint32_t count)
{
    palm_batch *batch;
    palm_record *record;
    CHECK_OK(palm_batch_new(&batch));
    CHECK_OK(palm_batch_record(batch, PALM_BYTES, number, &record));
    CHECK_OK(palm_batch_body(batch, job, strlen(job)));
    palm_batch_set_form(batch, PALM_BYTES, count);
    CHECK_OK(palm_node_send(from->node, link, kind, 1, 0, batch));
    palm_batch_free(batch);
}

/* Until so much is held. */
static void attend(peer *p, palm_at_work *work, uint32_t n)
{
    for (int i = 0; i < 5000; i++) {
        palm_node_attend(p->node, work, 5, 77);
        if (p->node->held.n - p->node->held_first == n)
            return;
        usleep(1000);
    }
    CHECK(!"held within 5 s");
}

static bool is_unwanted(const palm_at_work *work)
{
    CHECK(!work->unwanted_since || (work->unwanted_since == 5 && work->unwanted_ns == 77));
    return work->unwanted_since;
}

/* What ends the message at work is seen, whatever lies before it; and all comes out in its order. */
static void test_attend(void)
{
    const char *job = (const char *)JOB;
    struct end { palm_kind kind; const char *job; uint64_t number; uint32_t count; bool is_its; } ends[] = {
        {PALM_CANCEL, job, PALM_NO_NUMBER, 0, true},
        {PALM_FORGET, job, PALM_NO_NUMBER, 0, true},
        {PALM_CANCEL, job, 7, 0, true},
        {PALM_CANCEL, job, 8, 0, false},                   /* another input */
        {PALM_CANCEL, job, PALM_NO_NUMBER, 1, false},      /* its generators are to stop */
        {PALM_CANCEL, "another's16bytes", PALM_NO_NUMBER, 0, false},
        {PALM_CANCEL, "short", PALM_NO_NUMBER, 0, false},
        {PALM_DATA, job, PALM_NO_NUMBER, 0, false},
    };
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        palm_at_work *work = work_on(&b, 7, 0);
        for (int k = 0; k < 100; k++)
            say_end(&a, link, PALM_DATA, "something", (uint64_t)k, 0);
        say_end(&a, link, ends[i].kind, ends[i].job, ends[i].number, ends[i].count);
        attend(&b, work, 101);
        CHECK(is_unwanted(work) == ends[i].is_its);
        for (uint64_t k = 0; k < 101; k++) {
            palm_event event = next_message(&b, NULL);
            CHECK(event.envelope.kind == (k < 100 ? PALM_DATA : ends[i].kind));
            CHECK(event.envelope.records[0].number == (k < 100 ? k : ends[i].number));
            palm_event_done(&event);
        }
        palm_work_end(work, true);
    }
    peer_close(&a);
    peer_close(&b);
}

/* It was held before the message began that it ends; one that began later is not blamed for the one before. */
static void test_attend_again(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_at_work *work = work_on(&b, 6, 0);
    say_end(&a, link, PALM_CANCEL, (const char *)JOB, 7, 0);
    attend(&b, work, 1);
    CHECK(!is_unwanted(work));
    work = work_on(&b, 7, 0);
    palm_node_attend(b.node, work, 4, 77);
    CHECK(!work->unwanted_since);
    palm_node_attend(b.node, work, 5, 77);
    CHECK(is_unwanted(work));
    peer_close(&a);
    peer_close(&b); /* with what is held */
}

/* Of several at work, one that nobody waits for does not end the others; the end of the job ends all. */
static void test_attend_to_several(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    palm_at_work *work = work_on(&b, 7, 0);
    work->together = 2;
    say_end(&a, link, PALM_CANCEL, (const char *)JOB, 7, 0);
    attend(&b, work, 1);
    CHECK(!is_unwanted(work));
    say_end(&a, link, PALM_CANCEL, (const char *)JOB, PALM_NO_NUMBER, 0);
    attend(&b, work, 2);
    CHECK(is_unwanted(work));
    peer_close(&a);
    peer_close(&b);
}

/* Who waits for it is gone: in good order here; a death comes by its pidfd. */
static void test_attend_without_a_client(void)
{
    peer a = peer_open("a", false), b = peer_open("b", false);
    connect_to(&a, &b);
    uint32_t link = expect(&b, &a, PALM_EVENT_READY).link, unsent;
    palm_at_work *work = work_on(&b, 7, link);
    palm_node_attend(b.node, work, 5, 77);
    CHECK(!is_unwanted(work));
    palm_node_close(a.node, 100, &unsent);
    for (int i = 0; i < 5000 && !is_unwanted(work); i++) {
        palm_node_attend(b.node, work, 5, 77);
        usleep(1000);
    }
    CHECK(is_unwanted(work));
    palm_event event = expect(&b, NULL, PALM_EVENT_GONE);
    CHECK(event.link == link);
    palm_space_close(a.space);
    peer_close(&b);
}

static atomic_bool attending;

static void *attend_all_the_time(void *arg)
{
    peer *p = arg;
    palm_at_work *work = &((palm_counters *)palm_space_page(p->space))->at_work;
    while (atomic_load(&attending)) {
        palm_node_attend(p->node, work, 5, 77);
        usleep(50); /* a mutex is not fair: without a pause nobody else may get it, however long he waits */
    }
    return NULL;
}

/* Two threads receive in turns: each message comes once, in its order. */
static void test_attend_beside_next(void)
{
    enum { MANY = 5000 };
    peer a = peer_open("a", false), b = peer_open("b", false);
    uint32_t link = connect_to(&a, &b);
    pthread_t thread;
    atomic_store(&attending, true);
    CHECK(!pthread_create(&thread, NULL, attend_all_the_time, &b));
    for (uint64_t i = 0; i < MANY; i++)
        say_end(&a, link, PALM_DATA, "something", i, 0);
    for (uint64_t i = 0; i < MANY; i++) {
        palm_event event = next_message(&b, NULL);
        CHECK(event.envelope.records[0].number == i);
        palm_event_done(&event);
    }
    atomic_store(&attending, false);
    pthread_join(thread, NULL);
    peer_close(&a);
    peer_close(&b);
}

int main(int argc, char **argv)
{
    peers_begin(argc, argv);
    test_attend();
    test_attend_again();
    test_attend_to_several();
    test_attend_without_a_client();
    test_attend_beside_next();
    peers_end();
    return 0;
}
