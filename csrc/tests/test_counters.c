/* SPDX-License-Identifier: BSD-3-Clause
 * The name of the message at work, as others read it: while its process computes, and after its death. */
#include "check.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint8_t JOB[16] = "a job's 16 bytes";

typedef enum stage { IDLE, WORKING, DONE, DEEP, STAGES } stage;

static void go_to(stage stage, palm_at_work *work)
{
    uint64_t path[PALM_MAX_PATH];
    for (uint64_t i = 0; i < PALM_MAX_PATH; i++)
        path[i] = (i + 1) << 48 | i;
    palm_work_on(work, JOB, 3, 2, 1, 4);
    palm_work_terms(work, 2, 0, 0, 0);
    if (stage == IDLE)
        return;
    palm_work_begin(work, 7, path, stage == DEEP ? PALM_MAX_PATH : 1, 1000);
    if (stage == DONE)
        palm_work_end(work, true);
}

/* Never returns: it has to be killed. */
static void child_main(stage stage, int out)
{
    palm_space *space;
    palm_identity me;
    CHECK_OK(palm_space_open(NULL, &space));
    palm_space_identity(space, &me);
    go_to(stage, &((palm_counters *)palm_space_page(space))->at_work);
    CHECK(write(out, &me, sizeof me) == (ssize_t)sizeof me);
    for (;;)
        pause();
}

static pid_t start_child(stage stage, palm_identity *of)
{
    int fds[2];
    CHECK(!pipe(fds));
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child)
        child_main(stage, fds[1]);
    close(fds[1]);
    CHECK(read(fds[0], of, sizeof *of) == (ssize_t)sizeof *of);
    close(fds[0]);
    return child;
}

static void check_name(stage stage, const palm_at_work *found)
{
    CHECK(!memcmp(found->job, JOB, sizeof JOB) && found->hop == 3 && found->function == 2 && found->together == 1);
    CHECK(found->client == 4 && found->attempt == 2);
    CHECK(found->number == 7 && found->path_count == (stage == DEEP ? PALM_MAX_PATH : 1));
    for (uint32_t i = 0; i < found->path_count; i++)
        CHECK(found->path[i] == ((uint64_t)(i + 1) << 48 | i));
}

static void reads_the_name(stage stage)
{
    palm_identity of;
    palm_at_work found;
    const void *page;
    pid_t child = start_child(stage, &of);
    CHECK_OK(palm_page_open(&of, &page));
    for (int dead = 0; dead < 2; dead++) {
        bool working = palm_work_read(&((const palm_counters *)page)->at_work, &found);
        CHECK(working == (stage == WORKING || stage == DEEP));
        CHECK(found.completed == (stage == DONE));
        if (working)
            check_name(stage, &found);
        if (!dead)
            CHECK(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
    }
    palm_page_close(page);
}

static void believes_no_count(void)
{
    palm_at_work work = {.since_ns = 1, .path_count = UINT32_MAX}, found;
    CHECK(palm_work_read(&work, &found) && found.path_count == PALM_MAX_PATH);
    work.last_path_count = UINT32_MAX;
    CHECK(palm_work_read(&work, &found) && found.last_path_count == PALM_MAX_PATH);
}

static void names_the_last_of_several(void)
{
    palm_at_work work = {0}, found;
    palm_work_on(&work, JOB, 3, 2, 5, 4);
    palm_work_upto(&work, 9, (uint64_t[]){8, 7}, 2);
    palm_work_begin(&work, 6, (uint64_t[]){5}, 1, 1000);
    CHECK(palm_work_read(&work, &found) && found.together == 5);
    CHECK(found.number == 6 && found.path_count == 1 && found.path[0] == 5);
    CHECK(found.last_number == 9 && found.last_path_count == 2 && found.last_path[0] == 8 && found.last_path[1] == 7);
}

static void counts_what_came_to_its_end(void)
{
    palm_at_work work = {0};
    palm_work_begin(&work, 1, NULL, 0, 5);
    palm_work_end(&work, false);
    CHECK(work.completed == 0 && work.since_ns == 0);
    palm_work_begin(&work, 1, NULL, 0, 5);
    palm_work_end(&work, true);
    CHECK(work.completed == 1);
}

static void tells_what_it_waits_for(void)
{
    palm_waiting waiting = {0}, found;
    CHECK(!palm_wait_read(&waiting, &found));
    palm_wait_begin(&waiting, "a\nbc\n", 5, 7);
    CHECK(palm_wait_read(&waiting, &found) && found.since_ns == 7 && !strcmp(found.servers, "a\nbc\n"));
    palm_wait_begin(&waiting, "d\n", 2, 8);
    CHECK(palm_wait_read(&waiting, &found) && found.since_ns == 8 && !strcmp(found.servers, "d\n"));
    palm_wait_end(&waiting);
    CHECK(!palm_wait_read(&waiting, &found));
}

static void leaves_out_names_that_do_not_fit(void)
{
    char names[2 * PALM_WAITING_BYTES];
    palm_waiting waiting = {0}, found;
    for (size_t i = 0; i < sizeof names; i++)
        names[i] = i % 100 == 99 ? '\n' : 'x';
    palm_wait_begin(&waiting, names, sizeof names, 1);
    CHECK(palm_wait_read(&waiting, &found) && strlen(found.servers) == PALM_WAITING_BYTES / 100 * 100);
    memset(waiting.servers, 'y', sizeof waiting.servers);
    CHECK(palm_wait_read(&waiting, &found) && strlen(found.servers) == PALM_WAITING_BYTES - 1);
}

static palm_own_counter own_of(const palm_counters *counters, uint32_t i)
{
    palm_own_counter found;
    CHECK(palm_own_read(counters, i, &found));
    return found;
}

static palm_err own(palm_counters *counters, palm_own_kind kind, const char *name, double value)
{
    return palm_own_add(counters, kind, name, strlen(name), value);
}

static double sum_of(palm_own_counter found)
{
    double sum;
    memcpy(&sum, &found.sum, sizeof sum);
    return sum;
}

static void counts_and_observes_what_the_user_names(palm_counters *c)
{
    CHECK_OK(own(c, PALM_OWN_COUNTER, "frames", 2));
    CHECK_OK(own(c, PALM_OWN_COUNTER, "frame", 0.5));
    CHECK_OK(own(c, PALM_OWN_COUNTER, "frames", 1));
    CHECK(!strcmp(own_of(c, 0).name, "frames") && sum_of(own_of(c, 0)) == 3 && own_of(c, 0).count == 2);
    CHECK(!strcmp(own_of(c, 1).name, "frame") && sum_of(own_of(c, 1)) == 0.5);
    static const struct {
        double value;
        unsigned bucket;
    } values[] = {{-1, 0}, {0, 0}, {1e-9, 0}, {0x1p-20, 0}, {0x1.8p-20, 1}, {0x1p-19, 1}, {1, 20}, {1.5, 21},
                  {0x1p20, 40}, {0x1.8p20, 41}, {1e300, 41}, {INFINITY, 41}, {-INFINITY, 0}};
    uint64_t expected[PALM_OWN_BUCKETS] = {0};
    for (unsigned i = 0; i < sizeof values / sizeof *values; i++) {
        CHECK_OK(own(c, PALM_OWN_HISTOGRAM, "snr", values[i].value));
        expected[values[i].bucket]++;
        CHECK(!memcmp(own_of(c, 2).histogram, expected, sizeof expected));
    }
    CHECK(own_of(c, 2).count == sizeof values / sizeof *values);
    palm_own_counter found;
    CHECK(!palm_own_read(c, 3, &found) && !palm_own_read(c, UINT32_MAX, &found));
}

static void refuses_names_that_it_cannot_have(palm_counters *c)
{
    char name[PALM_NAME_BYTES + 1];
    memset(name, 'x', sizeof name);
    CHECK(palm_own_add(c, PALM_OWN_COUNTER, name, PALM_NAME_BYTES, 1) == PALM_EINVAL);
    CHECK_OK(palm_own_add(c, PALM_OWN_COUNTER, name, PALM_NAME_BYTES - 1, 1));
    CHECK(strlen(own_of(c, 3).name) == PALM_NAME_BYTES - 1);
    CHECK(own(c, PALM_OWN_HISTOGRAM, "frames", 1) == PALM_EINVAL && own(c, PALM_OWN_COUNTER, "snr", 1) == PALM_EINVAL);
    for (char i = 0; i < PALM_MAX_OWN - 4; i++)
        CHECK_OK(own(c, PALM_OWN_COUNTER, (char[]){(char)('A' + i), 0}, 1));
    CHECK(own(c, PALM_OWN_COUNTER, "one more", 1) == PALM_ELIMIT);
    CHECK_OK(own(c, PALM_OWN_COUNTER, "frames", 1));
    memset(c->own[0].name, 'y', PALM_NAME_BYTES);
    CHECK(strlen(own_of(c, 0).name) == PALM_NAME_BYTES - 1);
}

enum { SINCE = 1000, LIMIT = 500, DEADLINE = 9000, GRACE = 100 };

static palm_end judged(const palm_at_work *work, uint64_t now, uint64_t realtime, uint64_t grace)
{
    uint64_t since = 0;
    palm_end end = palm_work_judge(work, now, realtime, grace, &since);
    CHECK(!end || since == SINCE);
    return end;
}

static palm_at_work began(uint64_t limit, uint64_t spent, uint64_t deadline)
{
    palm_at_work work = {0};
    palm_work_on(&work, JOB, 3, 2, 1, 4);
    palm_work_terms(&work, 1, limit, spent, deadline);
    palm_work_begin(&work, 7, NULL, 0, SINCE);
    return work;
}

static void judges_what_takes_too_long(void)
{
    palm_at_work any = began(0, 0, 0), limited = began(LIMIT, 0, 0), later = began(LIMIT, 400, 0);
    CHECK(judged(&any, UINT64_MAX, UINT64_MAX, GRACE) == PALM_END_NONE);
    CHECK(judged(&limited, SINCE - 1, 0, GRACE) == PALM_END_NONE); /* the clock was read before it began */
    CHECK(judged(&limited, SINCE + LIMIT, 0, GRACE) == PALM_END_NONE);
    CHECK(judged(&limited, SINCE + LIMIT + 1, 0, GRACE) == PALM_END_OVERRUN);
    CHECK(judged(&limited, SINCE + LIMIT + 1, 0, UINT64_MAX) == PALM_END_OVERRUN); /* there is no grace for it */
    CHECK(judged(&later, SINCE + 100, 0, GRACE) == PALM_END_NONE);
    CHECK(judged(&later, SINCE + 101, 0, GRACE) == PALM_END_OVERRUN);
    palm_work_end(&limited, true);
    CHECK(judged(&limited, SINCE + LIMIT + 1, 0, GRACE) == PALM_END_NONE);
}

static void judges_what_is_late(void)
{
    palm_at_work work = began(0, 0, DEADLINE);
    CHECK(judged(&work, SINCE, DEADLINE + GRACE, GRACE) == PALM_END_NONE);
    CHECK(judged(&work, SINCE, DEADLINE + GRACE + 1, GRACE) == PALM_END_LATE);
    CHECK(judged(&work, SINCE, UINT64_MAX, UINT64_MAX) == PALM_END_NONE);
}

static void judges_what_nobody_waits_for(void)
{
    palm_at_work work = began(0, 0, 0);
    palm_work_unwanted(&work, SINCE - 1, 1100); /* that one has ended */
    CHECK(judged(&work, 5000, 0, GRACE) == PALM_END_NONE);
    palm_work_unwanted(&work, SINCE, 1100);
    palm_work_unwanted(&work, SINCE, 4000); /* the first time counts */
    CHECK(judged(&work, 1200, 0, GRACE) == PALM_END_NONE);
    CHECK(judged(&work, 1000, 0, GRACE) == PALM_END_NONE);
    CHECK(judged(&work, 1201, 0, GRACE) == PALM_END_UNWANTED);
    CHECK(judged(&work, UINT64_MAX, 0, UINT64_MAX) == PALM_END_NONE);
    palm_work_end(&work, true);
    palm_work_begin(&work, 8, NULL, 0, SINCE + 1);
    CHECK(palm_work_judge(&work, 5000, 0, GRACE, &(uint64_t){0}) == PALM_END_NONE);
}

int main(void)
{
    tells_what_it_waits_for();
    leaves_out_names_that_do_not_fit();
    for (int stage = 0; stage < STAGES; stage++)
        reads_the_name((enum stage)stage);
    believes_no_count();
    names_the_last_of_several();
    counts_what_came_to_its_end();
    judges_what_takes_too_long();
    judges_what_is_late();
    judges_what_nobody_waits_for();
    static palm_counters counters; /* zero, as a page at birth */
    counts_and_observes_what_the_user_names(&counters);
    refuses_names_that_it_cannot_have(&counters);
    return 0;
}
