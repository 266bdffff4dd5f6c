/* SPDX-License-Identifier: BSD-3-Clause
 * The name of the message at work, as others read it: while its process computes, and after its death. */
#include "check.h"

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
    palm_work_on(work, JOB, 3, 2, 1);
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

int main(void)
{
    tells_what_it_waits_for();
    leaves_out_names_that_do_not_fit();
    for (int stage = 0; stage < STAGES; stage++)
        reads_the_name((enum stage)stage);
    believes_no_count();
    counts_what_came_to_its_end();
    return 0;
}
