/* SPDX-License-Identifier: BSD-3-Clause
 * The book by single cases, its memory, and what it does without. tests/test_core_book.py compares it with a model. */
#include "check.h"

#include <malloc.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------- memory */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);

static size_t in_use;
static long fail_at = -1; /* this many succeed, then all fail; -1: none fails */

static bool fails(void)
{
    if (fail_at < 0)
        return false;
    if (!fail_at)
        return true;
    fail_at--;
    return false;
}
static void *counted(void *p)
{
    in_use += p ? malloc_usable_size(p) : 0;
    return p;
}
void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : counted(__real_malloc(n));
}
void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(n, size));
}
void __wrap_free(void *p)
{
    in_use -= p ? malloc_usable_size(p) : 0;
    __real_free(p);
}
void *__wrap_realloc(void *p, size_t n)
{
    if (fails())
        return NULL;
    in_use -= p ? malloc_usable_size(p) : 0;
    return counted(__real_realloc(p, n));
}

/* -------------------------------------------------------------------------------------------------------- words */

enum {
    LEAF_NEW = PALM_BOOK_NEW | PALM_BOOK_COMPLETED,
    DONE = LEAF_NEW | PALM_BOOK_INPUT_DONE,
    BITS = 0xffff,
    N_DUMP = 1 << 16
};
#define AT(hop, index) ((uint64_t)(hop) << 48 | (index))
#define PATH(...) (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)
#define ROOT NULL, 0
#define MOST ((uint64_t)1 << 48)

static palm_book *new_book(uint64_t inputs)
{
    palm_book *book;
    CHECK_OK(palm_book_new(&book));
    CHECK_OK(palm_book_begin(book, 0, inputs));
    return book;
}
static uint32_t settle(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n)
{
    uint32_t verdict = UINT32_MAX;
    CHECK_OK(palm_book_settle(book, number, path, n, &verdict));
    return verdict;
}
static uint32_t prune(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n)
{
    uint32_t verdict = UINT32_MAX;
    CHECK_OK(palm_book_prune(book, number, path, n, &verdict));
    return verdict;
}
static uint32_t close_at(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n, uint64_t children)
{
    uint32_t verdict = UINT32_MAX;
    CHECK_OK(palm_book_close(book, number, path, n, children, &verdict));
    return verdict;
}
static uint32_t grant(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n, uint64_t upto)
{
    uint32_t verdict = UINT32_MAX;
    CHECK_OK(palm_book_grant(book, number, path, n, upto, &verdict));
    return verdict;
}
static uint64_t first(const palm_book *book)
{
    uint64_t number;
    return palm_book_next(book, 0, &number) ? number : UINT64_MAX;
}
static bool same(const palm_book *a, const palm_book *b)
{
    static uint64_t one[N_DUMP], other[N_DUMP];
    size_t n = palm_book_dump(a, one, N_DUMP);
    CHECK(n <= N_DUMP);
    return palm_book_dump(b, other, N_DUMP) == n && !memcmp(one, other, n * sizeof *one) &&
           palm_book_live(a) == palm_book_live(b) && palm_book_open_inputs(a) == palm_book_open_inputs(b);
}

/* -------------------------------------------------------------------------------------------------------- inputs */

static void skips_what_never_was(void)
{
    palm_book *book = new_book(3);
    uint64_t number, far = (UINT64_C(1) << 40) + 63;
    CHECK_ERR(palm_book_skip(book, 2), PALM_EINVAL);
    CHECK_OK(palm_book_skip(book, far));
    CHECK_ERR(palm_book_begin(book, 3, 1), PALM_EINVAL);
    CHECK_OK(palm_book_begin(book, far, 2));
    CHECK(palm_book_open_inputs(book) == 5 && palm_book_live(book) == 5);
    CHECK(palm_book_is_open(book, 2) && !palm_book_is_open(book, 3) && !palm_book_is_open(book, far - 1));
    CHECK(palm_book_next(book, 3, &number) && number == far);
    palm_book_free(book);
}

static void begins_in_order(void)
{
    palm_book *book = new_book(0);
    uint64_t number;
    CHECK_ERR(palm_book_begin(book, 1, 1), PALM_EINVAL);
    CHECK_OK(palm_book_begin(book, 0, 3));
    CHECK_ERR(palm_book_begin(book, 0, 1), PALM_EINVAL);
    CHECK_ERR(palm_book_begin(book, 4, 1), PALM_EINVAL);
    CHECK_ERR(palm_book_begin(book, 3, UINT64_MAX), PALM_EINVAL);
    CHECK_ERR(palm_book_begin(book, 3, UINT64_MAX - 3), PALM_ENOMEM);
    CHECK_OK(palm_book_begin(book, 3, 10000));
    CHECK(palm_book_open_inputs(book) == 10003 && palm_book_live(book) == 10003);
    CHECK(palm_book_is_open(book, 10002) && !palm_book_is_open(book, 10003) && !palm_book_is_open(book, UINT64_MAX));
    CHECK(palm_book_next(book, 10002, &number) && number == 10002);
    CHECK(!palm_book_next(book, 10003, &number) && !palm_book_next(book, UINT64_MAX, &number));
    palm_book_free(book);
}

static void settles_roots(void)
{
    palm_book *book = new_book(20000);
    for (uint64_t i = 0; i < 20000; i += 2)
        CHECK(settle(book, i, ROOT) == DONE);
    for (uint64_t i = 0; i < 20000; i += 2)
        CHECK(settle(book, i, ROOT) == 0 && prune(book, i, ROOT) == 0 && close_at(book, i, ROOT, 3) == 0);
    CHECK(settle(book, 20000, ROOT) == 0 && close_at(book, UINT64_MAX, ROOT, 0) == 0);
    uint64_t n = 0, wanted = 1;
    for (bool more = palm_book_next(book, 0, &n); more; more = palm_book_next(book, n + 1, &n), wanted += 2)
        CHECK(n == wanted && palm_book_is_open(book, n) && !palm_book_is_open(book, n - 1));
    CHECK(wanted == 20001 && palm_book_open_inputs(book) == 10000);
    for (uint64_t i = 19999; i > 1; i -= 2)
        CHECK(settle(book, i, ROOT) == DONE && first(book) == 1);
    CHECK(settle(book, 1, ROOT) == DONE && palm_book_open_inputs(book) == 0 && first(book) == UINT64_MAX);
    CHECK_OK(palm_book_begin(book, 20000, 1));
    CHECK(first(book) == 20000 && settle(book, 20000, ROOT) == DONE);
    palm_book_free(book);
}

static void forgets(void)
{
    palm_book *book = new_book(3);
    CHECK(settle(book, 1, PATH(AT(0, 4), AT(1, 2))) == (LEAF_NEW | 2 << 16));
    CHECK(grant(book, 1, ROOT, 100) == PALM_BOOK_NEW);
    palm_book_forget(book, 1);
    palm_book_forget(book, 1);
    palm_book_forget(book, 77);
    CHECK(!palm_book_is_open(book, 1) && palm_book_live(book) == 2);
    CHECK(settle(book, 1, PATH(AT(0, 4), AT(1, 2))) == 0 && grant(book, 1, ROOT, 200) == 0);
    palm_book_free(book);
}

/* --------------------------------------------------------------------------------------------------------- trees */

static void completes(void)
{
    palm_book *book = new_book(2);
    CHECK(settle(book, 0, PATH(AT(0, 1), AT(1, 0))) == (LEAF_NEW | 2 << 16));
    CHECK(close_at(book, 0, PATH(AT(0, 1)), 1) == (LEAF_NEW | 1 << 16));
    CHECK(close_at(book, 0, ROOT, 2) == PALM_BOOK_NEW && close_at(book, 0, ROOT, 2) == 0);
    CHECK(settle(book, 0, PATH(AT(0, 1))) == PALM_BOOK_CONTRADICTION); /* that was a node */
    CHECK(settle(book, 0, PATH(AT(0, 1), AT(1, 0))) == 0);
    CHECK(palm_book_live(book) == 3);
    CHECK(settle(book, 0, PATH(AT(0, 0))) == DONE && settle(book, 0, PATH(AT(0, 0))) == 0);
    CHECK(close_at(book, 1, ROOT, 0) == DONE && palm_book_live(book) == 0);
    palm_book_free(book);
}

static void completes_upwards(void)
{
    palm_book *book = new_book(1);
    uint64_t path[PALM_MAX_PATH + 1];
    for (uint32_t i = 0; i <= PALM_MAX_PATH; i++)
        path[i] = AT(i, 0);
    for (uint32_t n = 0; n < PALM_MAX_PATH; n++)
        CHECK(close_at(book, 0, path, n, 1) == PALM_BOOK_NEW);
    uint32_t verdict;
    CHECK_ERR(palm_book_settle(book, 0, path, PALM_MAX_PATH + 1, &verdict), PALM_ELIMIT);
    CHECK_ERR(palm_book_close(book, 0, path, PALM_MAX_PATH + 1, 0, &verdict), PALM_ELIMIT);
    CHECK(palm_book_live(book) == 1 + PALM_MAX_PATH);
    CHECK(settle(book, 0, path, PALM_MAX_PATH) == DONE && palm_book_live(book) == 0);
    palm_book_free(book);
}

static void says_how_far_up(void)
{
    palm_book *book = new_book(1);
    CHECK(close_at(book, 0, ROOT, 2) == PALM_BOOK_NEW && close_at(book, 0, PATH(AT(0, 0)), 1) == PALM_BOOK_NEW);
    CHECK(close_at(book, 0, PATH(AT(0, 0), AT(1, 0)), 1) == PALM_BOOK_NEW);
    CHECK(prune(book, 0, PATH(AT(0, 0), AT(1, 0), AT(2, 0))) == (LEAF_NEW | 1 << 16));
    CHECK(settle(book, 0, PATH(AT(0, 0))) == PALM_BOOK_CONTRADICTION);
    CHECK(close_at(book, 0, PATH(AT(0, 1)), 0) == DONE);
    CHECK_OK(palm_book_begin(book, 1, 1));
    CHECK(close_at(book, 1, PATH(AT(0, 0)), 1) == PALM_BOOK_NEW);
    CHECK(grant(book, 1, PATH(AT(0, 0), AT(1, 0)), 1) == PALM_BOOK_NEW);
    CHECK(prune(book, 1, PATH(AT(0, 0), AT(1, 0))) == (LEAF_NEW | 1 << 16));
    CHECK(settle(book, 1, PATH(AT(0, 0))) == PALM_BOOK_CONTRADICTION); /* a node, whatever was pruned below */
    palm_book_free(book);
}

/* A node that completes asks for no memory. */
static void completes_many_nodes(void)
{
    palm_book *book = new_book(1);
    for (uint64_t i = 0; i < 200; i += 2)
        CHECK(grant(book, 0, PATH(AT(0, i)), 1) == PALM_BOOK_NEW);
    fail_at = 0;
    for (uint64_t i = 0; i < 200; i += 2)
        CHECK(close_at(book, 0, PATH(AT(0, i)), 0) == (LEAF_NEW | 1 << 16));
    fail_at = -1;
    for (uint64_t i = 1; i < 199; i += 2)
        CHECK(settle(book, 0, PATH(AT(0, i))) == (LEAF_NEW | 1 << 16));
    CHECK(close_at(book, 0, ROOT, 199) == DONE);
    palm_book_free(book);
}

/* What were two kinds of children stays known as such when they are joined. */
static void joins_kinds(void)
{
    palm_book *book = new_book(1);
    CHECK(settle(book, 0, PATH(AT(0, 1))) == (LEAF_NEW | 1 << 16));
    CHECK(close_at(book, 0, PATH(AT(0, 3)), 0) == (LEAF_NEW | 1 << 16));
    CHECK(settle(book, 0, PATH(AT(0, 2))) == (LEAF_NEW | 1 << 16));
    CHECK(close_at(book, 0, PATH(AT(0, 3)), 0) == 0 && settle(book, 0, PATH(AT(0, 1))) == 0);
    CHECK(close_at(book, 0, PATH(AT(0, 4)), 0) == (LEAF_NEW | 1 << 16) && close_at(book, 0, PATH(AT(0, 4)), 0) == 0);
    CHECK(close_at(book, 0, PATH(AT(0, 0)), 0) == (LEAF_NEW | 1 << 16) && close_at(book, 0, PATH(AT(0, 0)), 0) == 0);
    palm_book_free(book);
}

static void prunes(void)
{
    palm_book *book = new_book(1);
    CHECK(settle(book, 0, PATH(AT(0, 0), AT(1, 0), AT(2, 0))) == (LEAF_NEW | 3 << 16));
    CHECK(settle(book, 0, PATH(AT(0, 0), AT(1, 5), AT(2, 0))) == (LEAF_NEW | 3 << 16));
    CHECK(prune(book, 0, PATH(AT(0, 0))) == (LEAF_NEW | 1 << 16) && prune(book, 0, PATH(AT(0, 0))) == 0);
    CHECK(settle(book, 0, PATH(AT(0, 0), AT(1, 1))) == 0 && close_at(book, 0, PATH(AT(0, 0)), 9) == 0);
    CHECK(settle(book, 0, PATH(AT(0, 0))) == 0 && palm_book_live(book) == 1);
    CHECK(settle(book, 0, PATH(AT(0, 1))) == (LEAF_NEW | 1 << 16) && prune(book, 0, PATH(AT(0, 1))) == 0);
    CHECK(prune(book, 0, ROOT) == DONE && palm_book_live(book) == 0);
    palm_book_free(book);
}

static void finds_contradictions(void)
{
    palm_book *book = new_book(1), *before;
    CHECK(settle(book, 0, PATH(AT(3, 2))) == (LEAF_NEW | 1 << 16));
    CHECK(close_at(book, 0, PATH(AT(3, 5)), 4) == PALM_BOOK_NEW);
    CHECK(close_at(book, 0, PATH(AT(3, 1)), 0) == (LEAF_NEW | 1 << 16)); /* joins the leaf at 2 */
    CHECK(settle(book, 0, PATH(AT(3, 8))) == (LEAF_NEW | 1 << 16));
    CHECK(close_at(book, 0, PATH(AT(3, 7)), 0) == (LEAF_NEW | 1 << 16));
    CHECK(settle(book, 0, PATH(AT(3, 10))) == (LEAF_NEW | 1 << 16));
    CHECK(close_at(book, 0, PATH(AT(3, 12)), 0) == (LEAF_NEW | 1 << 16));
    CHECK_OK(palm_book_copy(book, &before));
    CHECK(close_at(book, 0, ROOT, 12) == PALM_BOOK_CONTRADICTION);               /* 12 is there */
    CHECK(close_at(book, 0, PATH(AT(3, 5)), 3) == PALM_BOOK_CONTRADICTION);      /* closed with 4 */
    CHECK(settle(book, 0, PATH(AT(3, 5), AT(4, 4))) == PALM_BOOK_CONTRADICTION); /* 0 to 3 */
    CHECK(grant(book, 0, PATH(AT(3, 5), AT(4, 4)), 1) == PALM_BOOK_CONTRADICTION);
    CHECK(settle(book, 0, PATH(AT(2, 0))) == PALM_BOOK_CONTRADICTION);           /* it fans out after 3 steps */
    CHECK(close_at(book, 0, PATH(AT(4, 2)), 0) == PALM_BOOK_CONTRADICTION);
    CHECK(settle(book, 0, ROOT) == PALM_BOOK_CONTRADICTION);                     /* a node */
    CHECK(settle(book, 0, PATH(AT(3, 5))) == PALM_BOOK_CONTRADICTION);
    CHECK(settle(book, 0, PATH(AT(3, 12))) == PALM_BOOK_CONTRADICTION);
    CHECK(close_at(book, 0, PATH(AT(3, 10)), 1) == PALM_BOOK_CONTRADICTION);     /* a leaf */
    CHECK(grant(book, 0, PATH(AT(3, 10)), 1) == PALM_BOOK_CONTRADICTION);
    CHECK(prune(book, 0, PATH(AT(3, 10), AT(4, 0))) == PALM_BOOK_CONTRADICTION);
    CHECK(settle(book, 0, PATH(AT(3, 1))) == 0 && close_at(book, 0, PATH(AT(3, 2)), 4) == 0); /* not known any more */
    CHECK(settle(book, 0, PATH(AT(3, 2), AT(4, 0))) == 0);
    CHECK(same(book, before));
    palm_book_free(before);
    palm_book_free(book);
}

static void takes_the_largest(void)
{
    palm_book *book = new_book(1);
    uint32_t verdict;
    CHECK(settle(book, 0, PATH(AT(0xffff, MOST - 1))) == (LEAF_NEW | 1 << 16));
    CHECK(settle(book, 0, PATH(AT(0xffff, MOST - 2))) == (LEAF_NEW | 1 << 16));
    CHECK_ERR(palm_book_close(book, 0, ROOT, MOST + 1, &verdict), PALM_ELIMIT);
    CHECK_ERR(palm_book_grant(book, 0, ROOT, MOST + 1, &verdict), PALM_ELIMIT);
    CHECK(close_at(book, 0, ROOT, MOST - 1) == PALM_BOOK_CONTRADICTION);
    CHECK(close_at(book, 0, ROOT, MOST) == PALM_BOOK_NEW);
    CHECK(palm_book_live(book) == 1 + (uint64_t)UINT32_MAX);
    palm_book_free(book);
}

/* --------------------------------------------------------------------------------------------------------- order */

static void says_what_is_next(void)
{
    palm_book *book = new_book(3);
    CHECK(palm_book_is_next(book, 0, ROOT) && !palm_book_is_next(book, 1, ROOT));
    CHECK(!palm_book_is_next(book, 0, PATH(AT(0, 0)))); /* input 0 may be a leaf */
    CHECK(grant(book, 0, ROOT, 4) == PALM_BOOK_NEW);
    CHECK(palm_book_is_next(book, 0, PATH(AT(0, 0))) && !palm_book_is_next(book, 0, PATH(AT(0, 1))));
    CHECK(!palm_book_is_next(book, 0, PATH(AT(0, 0), AT(1, 0))));
    CHECK(settle(book, 0, PATH(AT(0, 1))) == (LEAF_NEW | 1 << 16));
    CHECK(!palm_book_is_next(book, 0, PATH(AT(0, 1))));
    CHECK(settle(book, 0, PATH(AT(0, 0), AT(1, 0))) == (LEAF_NEW | 2 << 16));
    CHECK(palm_book_is_next(book, 0, PATH(AT(0, 0), AT(1, 0))) && palm_book_is_next(book, 0, PATH(AT(0, 0), AT(1, 1))));
    CHECK(close_at(book, 0, PATH(AT(0, 0)), 1) == (LEAF_NEW | 1 << 16));
    CHECK(palm_book_is_next(book, 0, PATH(AT(0, 0), AT(1, 0)))); /* of a node that is complete */
    CHECK(palm_book_is_next(book, 0, PATH(AT(0, 2))) && !palm_book_is_next(book, 0, PATH(AT(0, 3))));
    CHECK(!palm_book_is_next(book, 1, ROOT));
    CHECK(close_at(book, 0, ROOT, 2) == DONE);
    CHECK(palm_book_is_next(book, 0, PATH(AT(0, 1))) && palm_book_is_next(book, 1, ROOT));
    CHECK(!palm_book_is_next(book, 2, ROOT));
    palm_book_free(book);
}

static void says_what_is_unsettled(void)
{
    palm_book *book = new_book(2);
    CHECK(palm_book_unsettled(book, 0, ROOT) == 1); /* it may be a leaf */
    CHECK(palm_book_unsettled(book, 7, ROOT) == 1);
    CHECK(settle(book, 0, PATH(AT(0, 1))) == (LEAF_NEW | 1 << 16));
    CHECK(palm_book_unsettled(book, 0, ROOT) == UINT64_MAX);
    CHECK(close_at(book, 0, ROOT, 3) == PALM_BOOK_NEW);
    CHECK(palm_book_unsettled(book, 0, ROOT) == 2); /* 0 and 2 */
    CHECK(grant(book, 0, PATH(AT(0, 0)), 2) == PALM_BOOK_NEW);
    CHECK(palm_book_unsettled(book, 0, ROOT) == UINT64_MAX);
    CHECK(close_at(book, 0, PATH(AT(0, 0)), 2) == PALM_BOOK_NEW);
    CHECK(palm_book_unsettled(book, 0, ROOT) == 3); /* 2, and two below 0 */
    CHECK(close_at(book, 0, PATH(AT(0, 2)), 1) == PALM_BOOK_NEW);
    CHECK(palm_book_unsettled(book, 0, ROOT) == 3);
    CHECK(settle(book, 0, PATH(AT(0, 2), AT(1, 0))) == (LEAF_NEW | 1 << 16));
    CHECK(settle(book, 0, PATH(AT(0, 0), AT(1, 1))) == (LEAF_NEW | 2 << 16));
    CHECK(palm_book_unsettled(book, 0, ROOT) == 1 && palm_book_unsettled(book, 1, ROOT) == 1);
    CHECK(palm_book_unsettled(book, 0, PATH(AT(0, 0))) == 1 && palm_book_unsettled(book, 0, PATH(AT(0, 2))) == 0);
    CHECK(palm_book_unsettled(book, 0, PATH(AT(0, 0), AT(1, 0))) == 1);
    palm_book_free(book);
}

static void gives_ranges(void)
{
    palm_book *book = new_book(2);
    palm_range r[8];
    uint32_t n;
    CHECK(palm_book_ranges(book, 0, ROOT, r, 8, &n) == PALM_BOOK_UNKNOWN && n == 0);
    CHECK(palm_book_ranges(book, 2, ROOT, r, 8, &n) == PALM_BOOK_UNKNOWN && n == 0);
    for (uint64_t i = 20; i; i -= 2)
        CHECK(settle(book, 0, PATH(AT(0, i))) == (LEAF_NEW | 1 << 16));
    CHECK(palm_book_ranges(book, 0, ROOT, r, 8, &n) == PALM_BOOK_OPEN && n == 10);
    for (uint64_t i = 0; i < 8; i++)
        CHECK(r[i].from == 2 * i + 2 && r[i].to == 2 * i + 3);
    for (uint64_t i = 3; i < 19; i += 2)
        CHECK(settle(book, 0, PATH(AT(0, i))) == (LEAF_NEW | 1 << 16));
    CHECK(palm_book_ranges(book, 0, ROOT, r, 8, &n) == PALM_BOOK_OPEN && n == 2);
    CHECK(r[0].from == 2 && r[0].to == 19 && r[1].from == 20 && r[1].to == 21);
    CHECK(palm_book_ranges(book, 0, PATH(AT(0, 4)), r, 8, &n) == PALM_BOOK_OVER && n == 0);
    CHECK(palm_book_ranges(book, 0, PATH(AT(0, 19)), r, 8, &n) == PALM_BOOK_UNKNOWN && n == 0);
    CHECK(settle(book, 1, ROOT) == DONE);
    CHECK(palm_book_ranges(book, 1, PATH(AT(0, 4)), r, 8, &n) == PALM_BOOK_OVER && n == 0);
    palm_book_free(book);
}

/* --------------------------------------------------------------------------------------------------------- slots */

static void counts_slots(void)
{
    palm_book *book = new_book(2);
    CHECK(grant(book, 0, ROOT, 8) == PALM_BOOK_NEW && palm_book_live(book) == 10);
    CHECK(grant(book, 0, ROOT, 6) == 0 && palm_book_granted(book, 0, ROOT) == 8);
    CHECK(settle(book, 0, PATH(AT(0, 3))) == (LEAF_NEW | 1 << 16) && palm_book_live(book) == 9);
    CHECK(settle(book, 0, PATH(AT(0, 11))) == (LEAF_NEW | 1 << 16)); /* beyond: stands for those before it */
    CHECK(palm_book_granted(book, 0, ROOT) == 12 && palm_book_live(book) == 2 + 12 - 2);
    CHECK(grant(book, 0, ROOT, 12) == 0 && grant(book, 0, ROOT, 16) == PALM_BOOK_NEW && palm_book_live(book) == 16);
    CHECK(grant(book, 0, PATH(AT(0, 5)), 3) == PALM_BOOK_NEW && palm_book_live(book) == 19);
    CHECK(grant(book, 0, PATH(AT(0, 6)), 0) == PALM_BOOK_NEW && grant(book, 0, PATH(AT(0, 6)), 0) == 0);
    CHECK(close_at(book, 0, ROOT, 13) == PALM_BOOK_NEW && palm_book_live(book) == 16); /* what was not sent is free */
    CHECK(grant(book, 0, ROOT, 20) == 0 && palm_book_granted(book, 0, ROOT) == 13);
    CHECK(close_at(book, 0, PATH(AT(0, 5)), 0) == (LEAF_NEW | 1 << 16) && palm_book_live(book) == 12);
    CHECK(prune(book, 0, PATH(AT(0, 6))) == (LEAF_NEW | 1 << 16) && palm_book_live(book) == 11);
    CHECK(palm_book_granted(book, 0, PATH(AT(0, 6))) == 0 && palm_book_granted(book, 1, ROOT) == 0);
    palm_book_forget(book, 0);
    CHECK(palm_book_live(book) == 1);
    palm_book_free(book);
}

/* -------------------------------------------------------------------------------------------------------- memory */

static void needs_what_is_open(void)
{
    size_t before = in_use;
    palm_book *book = new_book(1); /* input 0 stays open */
    for (uint64_t i = 1; i < 3000000; i += 1000) {
        CHECK_OK(palm_book_begin(book, i, 1000));
        for (uint64_t k = 1000; k--;)
            CHECK(settle(book, i + k, ROOT) == DONE);
        CHECK(in_use - before < 8192);
    }
    for (uint64_t i = 0; i < 1000000; i++)
        CHECK(settle(book, 0, PATH(AT(0, i ^ 1))) == (LEAF_NEW | 1 << 16));
    CHECK(in_use - before < 8192);
    CHECK(close_at(book, 0, ROOT, 1000000) == DONE);
    CHECK(in_use - before < 4096);
    palm_book_free(book);
    CHECK(in_use == before);
}

/* A window of 64 children in any order, of a generator of 200000 messages, each a generator of 3. */
static void needs_the_window_times_depth(void)
{
    size_t before = in_use, most = 0;
    palm_book *book = new_book(1);
    uint64_t waiting[64], sent = 64;
    uint32_t random = 1;
    for (uint64_t i = 0; i < 64; i++)
        waiting[i] = i;
    for (uint64_t n = 0; n < 200000; n++) {
        random = random * 1664525 + 1013904223;
        uint32_t pick = random >> 26;
        for (uint64_t i = 3; i--;)
            CHECK(settle(book, 0, PATH(AT(0, waiting[pick]), AT(1, i))) == (LEAF_NEW | 2 << 16));
        CHECK(close_at(book, 0, PATH(AT(0, waiting[pick])), 3) == (LEAF_NEW | 1 << 16));
        waiting[pick] = sent++;
        most = in_use - before > most ? in_use - before : most;
    }
    CHECK(most < 64 * 256);
    palm_book_free(book);
    CHECK(in_use == before);
}

static void gives_memory_back(void)
{
    palm_book *book = new_book(1);
    size_t before = in_use;
    for (uint64_t i = 1; i < 20000; i += 2)
        CHECK(settle(book, 0, PATH(AT(0, i))) == (LEAF_NEW | 1 << 16));
    CHECK(in_use - before > 10000 * sizeof(palm_range));
    for (uint64_t i = 0; i < 20000; i += 2)
        CHECK(settle(book, 0, PATH(AT(0, i))) == (LEAF_NEW | 1 << 16));
    CHECK(in_use - before < 2048);
    palm_book_free(book);
}

/* A peer's indices decide about nothing but values. */
static void does_not_trust_indices(void)
{
    size_t before = in_use;
    palm_book *book = new_book(1);
    for (uint64_t i = 0; i < 1000; i++)
        CHECK(settle(book, 0, PATH(AT(0, (MOST / 1000) * i), AT(1, MOST - 1 - i))) == (LEAF_NEW | 2 << 16));
    CHECK(in_use - before < 1000 * 400);
    CHECK(palm_book_live(book) == 1 + (uint64_t)UINT32_MAX * 1001);
    palm_book_free(book);
    CHECK(in_use == before);
}

static palm_err some_event(palm_book *book, uint32_t *random, uint64_t *begun)
{
    uint64_t path[4];
    uint32_t verdict, r = *random = *random * 1664525 + 1013904223, n = r >> 8 & 3;
    for (uint32_t i = 0; i < n; i++)
        path[i] = AT(i, (r >> (10 + 4 * i)) % (i ? 5 : 9));
    uint64_t number = *begun - (r >> 26) % 4 - 1;
    switch (r >> 4 & 15) {
    case 0:
        if (palm_book_open_inputs(book) > 40)
            return PALM_OK;
        palm_err err = palm_book_begin(book, *begun, 2000);
        *begun += err ? 0 : 2000;
        return err;
    case 1:
        palm_book_forget(book, number);
        return PALM_OK;
    case 2: case 3: case 4:
        return palm_book_close(book, number, path, n, (r >> 22) % 9, &verdict);
    case 5: case 6:
        return palm_book_grant(book, number, path, n, (r >> 22) % 9, &verdict);
    case 7:
        return palm_book_prune(book, number, path, n, &verdict);
    default:
        return palm_book_settle(book, number, path, n, &verdict);
    }
}

/* Each event is tried with 0, 1, 2, ... pieces of memory. */
static void is_unchanged_without_memory(void)
{
    palm_book *book = new_book(4), *before;
    uint64_t begun = 4;
    uint32_t random = 7;
    long failures = 0;
    for (int i = 0; i < 60000; i++) {
        CHECK_OK(palm_book_copy(book, &before));
        CHECK(same(book, before));
        uint32_t start = random;
        for (long pieces = 0;; pieces++) {
            random = start;
            fail_at = pieces;
            palm_err err = some_event(book, &random, &begun);
            fail_at = -1;
            if (err == PALM_OK)
                break;
            CHECK_ERR(err, PALM_ENOMEM);
            CHECK(same(book, before));
            failures++;
        }
        palm_book_free(before);
        if (palm_book_open_inputs(book) > 40) /* only the last few are spoken of */
            for (uint64_t n = first(book); n < begun - 4; n++)
                palm_book_forget(book, n);
    }
    CHECK(failures > 1000);
    for (long pieces = 0;; pieces++) {
        fail_at = pieces;
        palm_err err = palm_book_copy(book, &before);
        fail_at = -1;
        if (err == PALM_OK)
            break;
        CHECK_ERR(err, PALM_ENOMEM);
    }
    palm_book_free(before);
    palm_book_free(book);
}

/* Many at once, or each alone: the same, wherever runs begin and end, whatever else is open. */
static void settles_many_at_once(void)
{
    palm_book *whole = new_book(5000);
    CHECK(palm_book_are_open(whole, 4000, 200)); /* in two pages */
    palm_book_settle_all(whole, 0, 5000);
    CHECK(!palm_book_open_inputs(whole) && first(whole) == UINT64_MAX);
    palm_book_free(whole);
    srand(5);
    for (int round = 0; round < 300; round++) {
        uint64_t inputs = 1 + (uint64_t)rand() % 9000, from = (uint64_t)rand() % inputs, n = 1 + (uint64_t)rand() % 300;
        palm_book *all = new_book(inputs), *one = new_book(inputs);
        for (int k = 0; k < 40; k++) {
            uint64_t number = k % 2 ? from + (uint64_t)rand() % 600 : (uint64_t)rand() % inputs;
            if (number < inputs && rand() % 4)
                CHECK(settle(all, number, ROOT) == settle(one, number, ROOT));
            else if (number < inputs)
                CHECK(settle(all, number, PATH(AT(0, 1))) == settle(one, number, PATH(AT(0, 1))));
        }
        uint64_t next = from, end = from + n;
        while (next < end) {
            uint64_t to = next;
            while (to < end && palm_book_are_open(all, next, to - next + 1))
                to++;
            for (uint64_t i = next; i < to; i++)
                CHECK(settle(one, i, ROOT) == (PALM_BOOK_NEW | PALM_BOOK_COMPLETED | PALM_BOOK_INPUT_DONE));
            if (to > next)
                palm_book_settle_all(all, next, to - next);
            else
                CHECK(settle(all, next, ROOT) == settle(one, next, ROOT)); /* not open, or with children */
            CHECK(same(all, one) && first(all) == first(one));
            next = to > next ? to : next + 1;
        }
        palm_book_free(all);
        palm_book_free(one);
    }
}

int main(void)
{
    begins_in_order();
    skips_what_never_was();
    settles_roots();
    settles_many_at_once();
    forgets();
    completes();
    completes_upwards();
    says_how_far_up();
    completes_many_nodes();
    joins_kinds();
    prunes();
    finds_contradictions();
    takes_the_largest();
    says_what_is_next();
    says_what_is_unsettled();
    gives_ranges();
    counts_slots();
    needs_what_is_open();
    needs_the_window_times_depth();
    gives_memory_back();
    does_not_trust_indices();
    is_unchanged_without_memory();
    CHECK(in_use == 0);
    return 0;
}
