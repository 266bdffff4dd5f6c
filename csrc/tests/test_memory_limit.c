/* SPDX-License-Identifier: BSD-3-Clause
 * The bound of private memory, what does not count, and what the page says after a death. Each case in a process of its own. */
#include "../src/spare.h"
#include "../src/warm.h"
#include "check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static palm_memory *page;

static void *mapped(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void limit_to(size_t size)
{
    palm_memory_limit_set(size, 0);
    size_t had = palm_memory_limit_had();
    palm_memory_limit_set(size, had); /* what is there now does not count */
    palm_memory_watch(page, size);
    CHECK(had && palm_memory_limit_had() < MIB);
}

static void takes_no_more(void)
{
    limit_to(64 * MIB);
    CHECK(!mapped(65 * MIB));
    void *p = mapped(60 * MIB);
    CHECK(p && palm_memory_limit_had() >= 60 * MIB);
    CHECK(!mapped(60 * MIB));
    palm_memory_limit_room(64 * MIB);
    void *q = mapped(60 * MIB);
    CHECK(q);
    munmap(q, 60 * MIB);
    palm_memory_limit_room(0);
    CHECK(!mapped(60 * MIB));
    palm_memory_limit_room(UINT64_MAX);
    CHECK(mapped(200 * MIB));
}

static void malloc_may_keep_so_much(void)
{
    limit_to(64 * MIB);
    CHECK(mapped(60 * MIB) && !mapped(10 * MIB));
    palm_memory_limit_keep(UINT64_MAX, 16 * MIB);
    CHECK(!mapped(24 * MIB));
    void *p = mapped(10 * MIB);
    CHECK(p);
    munmap(p, 10 * MIB);
    palm_memory_limit_keep(0, 16 * MIB); /* of these, more were reserved from the beginning */
    CHECK(!mapped(10 * MIB));
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) /* which has a malloc of its own */
/* As a long list is freed, from its end: the pieces that malloc keeps at hand lie last in its heap. */
static void a_heap_of_small_pieces_shrinks(void)
{
    enum { PIECES = 30000, SIZE = 1000 };
    static void *pieces[PIECES];
    limit_to(64 * MIB);
    for (int i = 0; i < PIECES; i++)
        CHECK(pieces[i] = malloc(SIZE));
    CHECK(palm_memory_limit_had() > 28 * MIB);
    for (int i = PIECES - 1; i >= 0; i--)
        free(pieces[i]);
    palm_memory_limit_trim();
    CHECK(palm_memory_limit_had() < 2 * MIB);
}

static void warm_memory_and_spare_batches_are_given_back(void)
{
    enum { PIECES = 8, SIZE = 300 << 10 };
    void *pieces[PIECES];
    palm_batch *batches[PIECES];
    limit_to(64 * MIB);
    for (int i = 0; i < PIECES; i++)
        CHECK(pieces[i] = palmi_warm_take(SIZE));
    for (int i = 0; i < PIECES; i++) {
        CHECK_OK(palm_batch_new(&batches[i]));
        CHECK_OK(palmi_batch_grow_body(batches[i], SIZE));
    }
    for (int i = 0; i < PIECES; i++) {
        palmi_warm_give(pieces[i]);
        palm_batch_free(batches[i]);
    }
    CHECK(palm_memory_limit_had() >= 2 * PIECES * SIZE);
    palm_memory_limit_trim();
    CHECK(palm_memory_limit_had() < MIB);
}
#endif

/* An arena of 16 GiB has tables of some 66 MiB, which are hardly touched. */
static void arenas_do_not_count(void)
{
    limit_to(32 * MIB);
    palm_space *space;
    CHECK_OK(palm_space_open(&(palm_space_options){.bound = 4096 * MIB}, &space));
    CHECK(palm_space_has_arena(space));
    CHECK(palm_memory_limit_had() < 16 * MIB);
    CHECK(!mapped(32 * MIB));
}

static void aborts_near_the_limit(void)
{
    limit_to(64 * MIB);
    CHECK(mapped(60 * MIB));
    abort();
}

static void aborts_far_from_it(void)
{
    limit_to(64 * MIB);
    CHECK(mapped(8 * MIB));
    abort();
}

static void crashes_near_the_limit(void)
{
    signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would end the process in its own way */
    limit_to(64 * MIB);
    CHECK(mapped(60 * MIB));
    raise(SIGSEGV);
}

static void ends_of_it(void)
{
    limit_to(64 * MIB);
    palm_memory_ended(page, true);
}

/* Returns how the process has ended. */
static int in_a_process(void (*does)(void))
{
    memset(page, 0, sizeof *page);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        does();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

int main(void)
{
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    CHECK(in_a_process(takes_no_more) == 0);
    CHECK(page->limit == 64 * MIB && !page->lacked && !page->had);
    CHECK(in_a_process(malloc_may_keep_so_much) == 0);
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) /* which has a malloc of its own */
    CHECK(in_a_process(a_heap_of_small_pieces_shrinks) == 0);
    CHECK(in_a_process(warm_memory_and_spare_batches_are_given_back) == 0);
#endif
    CHECK(in_a_process(arenas_do_not_count) == 0);
    CHECK(in_a_process(aborts_near_the_limit) == -SIGABRT);
    CHECK(page->lacked && page->had >= 60 * MIB && page->had <= 64 * MIB);
    CHECK(in_a_process(aborts_far_from_it) == -SIGABRT);
    CHECK(!page->lacked && page->had >= 8 * MIB && page->had < 16 * MIB);
    CHECK(in_a_process(crashes_near_the_limit) == -SIGSEGV);
    CHECK(page->lacked);
    CHECK(in_a_process(ends_of_it) == 0);
    CHECK(page->lacked && page->had < MIB);
    return 0;
}
