/* SPDX-License-Identifier: BSD-3-Clause
 * One side of a ring is killed at each point between two accesses to shared memory; the other side is whole: a reader gets what
 * was put, from the first on, none twice and none half, and does not sleep over it once it has learnt of the death; a
 * writer finds its ring full at last. */
#include "../src/ring.h"
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SENT = 40, SIZE = 20000, MOST_POINTS = 400 };

static struct shared { palmi_ring ring; palmi_bell bell; } *shared;
static int points_left = -1; /* -1: this process is not killed */

void palmi_crashpoint(void)
{
    if (points_left >= 0 && points_left-- == 0)
        kill(getpid(), SIGKILL);
}

void palmi_gap(void) {}
void palmi_conflict(void) {}

static uint64_t send_some(palmi_out *out, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t size = i % 5 ? i * 7 : SIZE;
        uint8_t *at = palmi_ring_begin(out, size);
        for (int wait = 0; !at && wait < 2000; wait++) { /* the reader may be slow, or dead */
            usleep(50);
            at = palmi_ring_begin(out, size);
        }
        if (!at)
            return i;
        memset(at, (int)i + 1, size);
        palmi_ring_end(out, size, i);
        palmi_ring_call(out);
    }
    return n;
}

/* How many there were. */
static uint64_t read_all(palmi_in *in, uint64_t from)
{
    palmi_letter letter;
    palm_err err;
    while (!(err = palmi_ring_peek(in, &letter))) {
        CHECK(letter.seq == from && letter.size == (from % 5 ? from * 7 : SIZE));
        for (uint32_t i = 0; i < letter.size; i++)
            CHECK(letter.bytes[i] == (uint8_t)(from + 1));
        palmi_ring_take(in, &letter);
        from++;
    }
    CHECK(err == PALM_EAGAIN);
    return from;
}

/* A reader: sleeps until it is called, or the other end of `alive` is closed. */
static uint64_t read_until_death(int sleeps_on, int alive)
{
    palmi_in in = {.ring = &shared->ring};
    uint64_t marked[PALMI_RING_WORDS] = {0}, got = 0;
    uint32_t sleeps = 0;
    char rung[64];
    struct pollfd fds[2] = {{sleeps_on, POLLIN, 0}, {alive, POLLIN, 0}};
    while (!fds[1].revents) {
        palmi_bell_collect(&shared->bell, marked);
        if (marked[0]) {
            marked[0] = 0;
            got = read_all(&in, got);
        } else if (palmi_bell_sleep(&shared->bell, ++sleeps)) {
            CHECK(poll(fds, 2, 20000) > 0);
            palmi_bell_rise(&shared->bell);
            ssize_t n = read(sleeps_on, rung, sizeof rung);
            (void)n;
        }
    }
    return read_all(&in, got);
}

static void begin(int bell[2])
{
    memset(&shared->ring, 0, offsetof(palmi_ring, bytes) + PALMI_RING_FIRST); /* they use no more of it */
    memset(&shared->bell, 0, sizeof shared->bell);
    CHECK(!pipe2(bell, O_NONBLOCK | O_CLOEXEC));
}

/* True: it was killed. */
static bool ends_killed(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : !WEXITSTATUS(status));
    return WIFSIGNALED(status);
}

static bool kill_writer_at(int point)
{
    int bell[2], alive[2];
    begin(bell);
    CHECK(!pipe(alive));
    pid_t child = fork();
    if (!child) {
        palmi_out out = {.ring = &shared->ring, .bell = &shared->bell, .wake = bell[1], .number = 3};
        close(alive[0]);
        points_left = point;
        send_some(&out, SENT);
        _exit(0);
    }
    close(alive[1]);
    uint64_t got = read_until_death(bell[0], alive[0]);
    bool killed = ends_killed(child);
    CHECK(killed || got == SENT || atomic_load(&shared->ring.tail)); /* all, but for a ring that was full */
    close(alive[0]);
    close(bell[0]);
    close(bell[1]);
    return killed;
}

static bool kill_reader_at(int point)
{
    int bell[2], alive[2];
    begin(bell);
    CHECK(!pipe(alive));
    pid_t child = fork();
    if (!child) {
        close(alive[1]);
        points_left = point;
        read_until_death(bell[0], alive[0]);
        _exit(0);
    }
    palmi_out out = {.ring = &shared->ring, .bell = &shared->bell, .wake = bell[1], .number = 3};
    close(alive[0]);
    send_some(&out, SENT);
    usleep(point % 8 ? 0 : 500);
    close(alive[1]);
    bool killed = ends_killed(child);
    while (killed && palmi_ring_begin(&out, SIZE)) /* nobody makes room any more */
        palmi_ring_end(&out, SIZE, 0);
    palmi_ring_call(&out);
    close(bell[0]);
    close(bell[1]);
    return killed;
}

int main(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    int killed[2] = {0};
    for (int point = 0; point < MOST_POINTS; point++) {
        killed[0] += kill_writer_at(point);
        killed[1] += kill_reader_at(point);
    }
    printf("killed: %d writers, %d readers\n", killed[0], killed[1]);
    CHECK(killed[0] >= 3 * SENT && killed[0] < MOST_POINTS && killed[1] >= SENT); /* each point was reached */
    return 0;
}
