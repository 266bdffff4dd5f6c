/* SPDX-License-Identifier: BSD-3-Clause
 * The space among processes: limits, fork, orphans, the dead. The fork handlers see every space of a process, so what
 * stands for another process is forked while none is open. */
#include "test_space.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ----------------------------------------------------------------------------------------------------------- limits */

static int run_in_child(void (*body)(void))
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        body();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void with_small_files(void)
{
    struct rlimit limit = {40 * MIB, 40 * MIB};
    CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
    palm_space *space = open_space(64 * MIB);
    CHECK(palm_space_has_arena(space) && palm_space_alloc(space, 20 * MIB, false));
    CHECK(!palm_space_alloc(space, 20 * MIB, false));
    limit.rlim_cur = MIB;
    CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
    space = open_space(64 * MIB);
    CHECK(!palm_space_has_arena(space) && palm_space_page(space));
}

static void with_few_addresses(void)
{
    struct rlimit limit = {400 * MIB, 400 * MIB};
    CHECK(!setrlimit(RLIMIT_AS, &limit));
    palm_space *space = open_space(0);
    void *p = palm_space_alloc(space, 4 * MIB, false);
    CHECK(palm_space_has_arena(space) == (p != NULL));
    limit.rlim_cur = MIB;
    CHECK(!setrlimit(RLIMIT_AS, &limit));
    space = open_space(0);
    CHECK(!palm_space_has_arena(space) && !palm_space_alloc(space, 4096, true));
}

static void keeps_to_limits(void)
{
    CHECK(run_in_child(with_small_files) == 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they need all addresses */
    CHECK(run_in_child(with_few_addresses) == 0);
#else
    (void)with_few_addresses;
#endif
}

/* ------------------------------------------------------------------------------------------------------------- fork */

static int said_by(int fd)
{
    char c = 0;
    return read(fd, &c, 1) == 1 ? c : -1;
}

static void say(int fd, char c) { CHECK(write(fd, &c, 1) == 1); }

typedef struct family { int to_child[2], to_parent[2]; } family;

static void child_of_fork(family *f, palm_space *a, uint8_t *own, held mapped, palm_block offer)
{
    palm_block out;
    palm_identity me;
    held h;
    uint32_t slot;
    size_t size;
    CHECK(palm_space_forked(a) && !palm_space_alloc(a, 4096, false) && !palm_space_resize(a, own, 63 * KIB));
    CHECK(palm_space_owns(a, own) && palm_space_usable(a, own) == 64 * KIB);
    CHECK(is_filled(own, 64 * KIB, 1) && is_filled(mapped.first, 64 * KIB, 2));
    memset(own, 9, 64 * KIB);
    palm_space_free(a, own);
    CHECK_ERR(palm_space_take(a, &offer, &h.arena, &h.index, &h.first), PALM_EFORK);
    CHECK_ERR(palm_block_lend(mapped.arena, mapped.index, &out), PALM_EFORK);
    CHECK_ERR(palm_space_hold(a, own, 1, &h.arena, &h.index, &h.first, &size), PALM_EFORK);
    palm_space_identity(a, &me);
    CHECK(me.fd == 0);
    CHECK_ERR(palm_space_attach(a, &me, &slot), PALM_EFORK);
    drop(mapped);
    palm_space_tick(a, now());
    palm_space_close(a);
    say(f->to_parent[1], 'a');
    CHECK(said_by(f->to_child[0]) == 'b'); /* the parent has let go of both, and allocated anew */
    CHECK(is_filled(mapped.first, 64 * KIB, 2) && own[0] == 9 && own[64 * KIB - 1] == 9);
    if (!fork()) { /* a grandchild outlives it */
        CHECK(said_by(f->to_child[0]) == 'c');
        CHECK(is_filled(mapped.first, 64 * KIB, 2));
        say(f->to_parent[1], 'd');
        _exit(0);
    }
    _exit(0);
}

static void survives_fork(void)
{
    family f;
    int status;
    CHECK(!pipe(f.to_child) && !pipe(f.to_parent));
    palm_space *a = open_space(64 * MIB), *b = open_space(64 * MIB);
    uint8_t *own = palm_space_alloc(a, 64 * KIB, false), *theirs = palm_space_alloc(b, 64 * KIB, false);
    fill(own, 64 * KIB, 1);
    fill(theirs, 64 * KIB, 2);
    palm_block offer = offer_of(b, theirs);
    held mapped = take(a, &offer);
    palm_space_free(b, theirs);
    pid_t child = fork();
    if (!child)
        child_of_fork(&f, a, own, mapped, offer);
    close(f.to_parent[1]);
    CHECK(said_by(f.to_parent[0]) == 'a');
    CHECK(is_filled(own, 64 * KIB, 1) && is_filled(mapped.first, 64 * KIB, 2));
    palm_space_free(a, own);
    drop(mapped);
    palm_space_tick(a, now());
    palm_space_tick(b, now());
    CHECK(stats(a).blocks_held == 2 && stats(b).blocks_lent == 1); /* pinned: the child reads them */
    uint8_t *p = palm_space_alloc(a, 64 * KIB, false), *q = palm_space_alloc(b, 64 * KIB, false);
    CHECK(p != own && q != theirs);
    memset(p, 5, 64 * KIB);
    memset(q, 5, 64 * KIB);
    say(f.to_child[1], 'b');
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    palm_space_tick(a, now());
    CHECK(stats(a).blocks_held == 3); /* the grandchild reads them still */
    say(f.to_child[1], 'c');
    CHECK(said_by(f.to_parent[0]) == 'd');
    CHECK(said_by(f.to_parent[0]) == -1); /* it has ended, or is about to */
    for (int i = 0; stats(a).blocks_held != 1 && i < 5000; i++) {
        usleep(1000);
        palm_space_tick(a, now());
    }
    palm_space_tick(b, now());
    CHECK(stats(a).blocks_held == 1 && stats(b).blocks_lent == 0);
    palm_space_free(a, p);
    palm_space_free(b, q);
    palm_space_close(a);
    palm_space_close(b);
}

/* --------------------------------------------------------------------------------------------------- other processes */

typedef struct message { palm_identity identity; palm_block offers[3]; } message;

static void read_message(int fd, message *m)
{
    CHECK(read(fd, m, sizeof *m) == (ssize_t)sizeof *m);
}

/* An owner that offers a small block, a large one, and one that it fills and punches nothing of. */
static void owner_main(int out, size_t unheld)
{
    palm_space *space = open_space(512 * MIB);
    message m = {0};
    palm_space_identity(space, &m.identity);
    size_t sizes[3] = {64 * KIB, 3 * MIB, unheld};
    for (int i = 0; i < 3; i++) {
        uint8_t *p = palm_space_alloc(space, sizes[i], false);
        CHECK(p);
        fill(p, sizes[i], 100 + (uint64_t)i);
        m.offers[i] = offer_of(space, p);
    }
    memset(palm_space_page(space), 'p', PALM_PAGE_BYTES);
    CHECK(write(out, &m, sizeof m) == (ssize_t)sizeof m);
    for (;;)
        pause();
}

static pid_t start_owner(message *m, size_t unheld)
{
    int fds[2];
    CHECK(!pipe(fds));
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child)
        owner_main(fds[1], unheld);
    close(fds[1]);
    read_message(fds[0], m);
    close(fds[0]);
    return child;
}

static void end_process(pid_t pid)
{
    CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
}

static void reads_a_page(void)
{
    message m;
    const void *page;
    pid_t owner = start_owner(&m, 4096);
    CHECK_OK(palm_page_open(&m.identity, &page));
    CHECK(((const char *)page)[0] == 'p' && ((const char *)page)[PALM_PAGE_BYTES - 1] == 'p');
    end_process(owner);
    CHECK(((const char *)page)[5] == 'p');
    palm_page_close(page);
    CHECK_ERR(palm_page_open(&m.identity, &page), PALM_EUNREACHABLE);
    m.identity.fd = 0;
    CHECK_ERR(palm_page_open(&m.identity, &page), PALM_EUNREACHABLE);
}

static void unmaps_an_orphan(void)
{
    message m;
    pid_t owner = start_owner(&m, 4096);
    palm_space *a = open_space(64 * MIB);
    held small = take(a, &m.offers[0]), large = take(a, &m.offers[1]);
    palm_space_tick(a, now());
    end_process(owner);
    CHECK(is_filled(small.first, 64 * KIB, 100) && is_filled(large.first, 3 * MIB, 101));
    palm_space_tick(a, now());
    CHECK(stats(a).peers == 1 && stats(a).evacuated == 0); /* much of it is held: it stays */
    CHECK(is_filled(small.first, 64 * KIB, 100) && is_filled(large.first, 3 * MIB, 101));
    held last = take(a, &m.offers[2]); /* recycled by nobody, so it can still be had */
    drop(small);
    drop(large);
    drop(last);
    palm_space_tick(a, now());
    CHECK(stats(a).peers == 0 && stats(a).mapped == 0);
    check_take(a, m.offers[0], PALM_EUNREACHABLE);
    palm_space_close(a);
}

static void evacuates_an_orphan(void)
{
    message m;
    pid_t owner = start_owner(&m, 128 * MIB);
    palm_space *a = open_space(64 * MIB), *b = open_space(64 * MIB);
    held small = take(a, &m.offers[0]), large = take(a, &m.offers[1]);
    palm_block onward;
    CHECK_OK(palm_block_lend(small.arena, small.index, &onward));
    held at_b = take(b, &onward);
    end_process(owner);
    palm_space_tick(a, now());
    CHECK(stats(a).evacuated == 2 && stats(a).peers == 1 && stats(a).blocks_held == 2);
    CHECK(is_filled(small.first, 64 * KIB, 100) && is_filled(large.first, 3 * MIB, 101));
    CHECK(hold(a, (const uint8_t *)large.first + MIB, MIB).index == large.index);
    CHECK_ERR(palm_block_lend(small.arena, small.index, &onward), PALM_EUNREACHABLE);
    CHECK_OK(palm_block_lend(at_b.arena, at_b.index, &onward)); /* b has the memfd still, and so has a again */
    held twice = take(a, &onward);
    CHECK(twice.arena != small.arena && is_filled(twice.first, 64 * KIB, 100));
    CHECK(stats(a).peers == 2);
    drop(twice);
    drop(small);
    drop(large);
    CHECK(is_filled(large.first, 3 * MIB, 101)); /* one reference is left */
    drop(large);
    palm_space_tick(a, now());
    CHECK(stats(a).peers == 0);
    palm_space_tick(b, now());
    CHECK(stats(b).evacuated == 1 && is_filled(at_b.first, 64 * KIB, 100));
    palm_space_close(b);
    CHECK(is_filled(at_b.first, 64 * KIB, 100));
    drop(at_b);
    palm_space_close(a);
}

static void holder_main(palm_block offer, int out)
{
    palm_space *space = open_space(MIB);
    held h = take(space, &offer);
    (void)h;
    say(out, 'h');
    for (;;)
        pause();
}

static void sweeps_the_dead(void)
{
    int to_child[2], to_parent[2];
    palm_block offer;
    CHECK(!pipe(to_child) && !pipe(to_parent));
    pid_t child = fork(); /* before there is a space: the child is a process of its own */
    CHECK(child >= 0);
    if (!child) {
        CHECK(read(to_child[0], &offer, sizeof offer) == (ssize_t)sizeof offer);
        holder_main(offer, to_parent[1]);
    }
    palm_space *a = open_space(64 * MIB);
    uint8_t *p = palm_space_alloc(a, 64 * KIB, false);
    offer = offer_of(a, p);
    CHECK(write(to_child[1], &offer, sizeof offer) == (ssize_t)sizeof offer);
    CHECK(said_by(to_parent[0]) == 'h');
    palm_space_free(a, p);
    palm_space_tick(a, now());
    CHECK(stats(a).blocks_lent == 1 && stats(a).swept == 0);
    end_process(child);
    palm_space_tick(a, now());
    CHECK(stats(a).blocks_lent == 0 && stats(a).swept == 1 && stats(a).arena_in_use == 0);
    palm_space_close(a);
}

int main(void)
{
    keeps_to_limits();
    survives_fork();
    reads_a_page();
    unmaps_an_orphan();
    evacuates_an_orphan();
    sweeps_the_dead();
    return 0;
}
