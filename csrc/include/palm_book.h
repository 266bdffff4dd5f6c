/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_book.h: what became of each input of a job (book*.c).
 */
#ifndef PALM_BOOK_H
#define PALM_BOOK_H

#include "palm_err.h"
#include "palm_limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

PALM_BEGIN_DECLS

/* What its client knows of a job (DELIVERY 2): of each input that is not done a tree of names, which only grows. Pure: no
 * I/O, no clock, no lock; one thread at a time. Out of memory (PALM_ENOMEM), the book is as it was.
 *
 * A name is a number and a path as in records. A leaf settles; the message of a generator is a node, complete when it is
 * closed and all its children are complete; an input is done when its root, the name without a path, is complete.
 * Every event may come again, in any order, from any execution: the first one counts. A path of more than PALM_MAX_PATH
 * components, or more than 2^48 children, is PALM_ELIMIT.
 *
 * The book has what is open, not what has been: nodes are at most open names times depth, a node's ranges at most one
 * more than its open children. So what contradicts something complete is noticed only where that is still known. */
typedef struct palm_book palm_book;

enum {                            /* what an event was to the book */
    PALM_BOOK_NEW = 1,            /* the first of its kind; without this bit, nothing has changed */
    PALM_BOOK_COMPLETED = 2,      /* names are complete now: the topmost has palm_book_depth(verdict) components */
    PALM_BOOK_INPUT_DONE = 4,     /* that one is the root */
    PALM_BOOK_CONTRADICTION = 8   /* two executions disagree (DELIVERY 1); the input is to be failed and forgotten */
};                                /* 0: known already, or the input is done, forgotten or has not begun */
static inline uint32_t palm_book_depth(uint32_t verdict)
{
    return verdict >> 16;
}

palm_err palm_book_new(palm_book **out);
void palm_book_free(palm_book *book);
/* The inputs first..first+n-1 are on their way. PALM_EINVAL: not the next ones; the first of all is 0. */
palm_err palm_book_begin(palm_book *book, uint64_t first, uint64_t n);
/* `next` is the next input: those before it that were not on their way count as done. PALM_EINVAL: it was on its way. */
palm_err palm_book_skip(palm_book *book, uint64_t next);
/* A message has ended without children: it has a result, or the function returned None. */
palm_err palm_book_settle(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict);
/* Whether each of the inputs first..first+n-1, n > 0, is open, and has no children that are known of; false, too, where that is
 * not found out quickly. */
bool palm_book_are_open(const palm_book *book, uint64_t first, uint64_t n);
/* The same as to settle each of them, where palm_book_are_open. */
void palm_book_settle_all(palm_book *book, uint64_t first, uint64_t n);
/* A generator has ended after so many children. */
palm_err palm_book_close(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t children,
                         uint32_t *verdict);
/* A message has ended for a reason that is not the function's alone, and all below it has: it was set aside, has failed,
 * found no room, came too late. Contradicts neither a close nor a result of the same name. */
palm_err palm_book_prune(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict);
/* Gives an input up: what still comes of it is unknown. */
void palm_book_forget(palm_book *book, uint64_t number);

uint64_t palm_book_open_inputs(const palm_book *book);
bool palm_book_is_open(const palm_book *book, uint64_t number);
/* How many names at or below this one are not complete that are not known to have children; UINT64_MAX if more may come: one
 * has children, and it is not known how many. 0: it is complete. */
uint64_t palm_book_unsettled(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path);
/* The smallest open number that is at least `from`. */
bool palm_book_next(const palm_book *book, uint64_t from, uint64_t *number);
/* No unsettled name can sort before this one any more, those above it excepted. False as long as a name above it is not
 * known to have children. */
bool palm_book_is_next(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path);

typedef enum palm_book_state {
    PALM_BOOK_UNKNOWN = 0, /* no node of this name is known, nor that there can be none */
    PALM_BOOK_OPEN,
    PALM_BOOK_OVER         /* it is complete, or a name above it is; the input is done or forgotten */
} palm_book_state;
typedef struct palm_range { uint64_t from, to; } palm_range; /* to: the first one behind */
/* Which children of an open node are complete: the first `room` of *n sorted ranges that do not touch. */
palm_book_state palm_book_ranges(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                                 palm_range *ranges, uint32_t room, uint32_t *n);

/* Slots (DELIVERY 5). A generator may send `upto` children; less than it has already changes nothing. The name is known
 * to be a node from now on. */
palm_err palm_book_grant(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t upto,
                         uint32_t *verdict);
/* How many children an open node may have sent; 0 if it is not one. A generator makes its children in order, so one that
 * arrives beyond the grant stands for all before it: they count as granted. */
uint64_t palm_book_granted(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path);
/* Slots held: one for each open input, and for each open node what it may have sent, or once it is closed its children,
 * less those that are complete. Of one node, 2^32 - 1 at most. */
uint64_t palm_book_live(const palm_book *book);

/* For those who explore what can become of a book. Books with the same dump behave alike from now on; out has the first
 * `room` of as many words as are returned. Takes a time quadratic in the open nodes below one. */
palm_err palm_book_copy(const palm_book *book, palm_book **out);
size_t palm_book_dump(const palm_book *book, uint64_t *out, size_t room);

PALM_END_DECLS
#endif
