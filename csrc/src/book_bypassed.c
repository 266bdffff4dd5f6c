/* SPDX-License-Identifier: BSD-3-Clause
 * A book that only counts, in place of the others where meson's option `tracking` is off: what `palm bench tracking`
 * measures the real one against. It believes that every input has one result, once, whatever it is told. */
#include "palm_book.h"

#include <stdlib.h>
#include <string.h>

struct palm_book {
    uint64_t begun, settled;
};

palm_err palm_book_new(palm_book **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? PALM_OK : PALM_ENOMEM;
}

void palm_book_free(palm_book *book)
{
    free(book);
}

palm_err palm_book_copy(const palm_book *book, palm_book **out)
{
    palm_err err = palm_book_new(out);
    if (!err)
        memcpy(*out, book, sizeof *book);
    return err;
}

palm_err palm_book_begin(palm_book *book, uint64_t first, uint64_t n)
{
    (void)first;
    book->begun += n;
    return PALM_OK;
}

palm_err palm_book_skip(palm_book *book, uint64_t next)
{
    (void)book, (void)next;
    return PALM_OK;
}

palm_err palm_book_settle(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict)
{
    (void)number, (void)path, (void)n_path;
    book->settled++;
    *verdict = PALM_BOOK_NEW | PALM_BOOK_COMPLETED | PALM_BOOK_INPUT_DONE;
    return PALM_OK;
}

bool palm_book_are_open(const palm_book *book, uint64_t first, uint64_t n)
{
    (void)book, (void)first, (void)n;
    return true;
}

void palm_book_settle_all(palm_book *book, uint64_t first, uint64_t n)
{
    (void)first;
    book->settled += n;
}

palm_err palm_book_close(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t children,
                         uint32_t *verdict)
{
    (void)children;
    return palm_book_settle(book, number, path, n_path, verdict);
}

palm_err palm_book_prune(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict)
{
    return palm_book_settle(book, number, path, n_path, verdict);
}

void palm_book_forget(palm_book *book, uint64_t number)
{
    uint32_t verdict;
    palm_book_settle(book, number, NULL, 0, &verdict);
}

uint64_t palm_book_open_inputs(const palm_book *book)
{
    return book->begun - book->settled;
}

bool palm_book_is_open(const palm_book *book, uint64_t number)
{
    return number < book->begun && book->begun != book->settled;
}

uint64_t palm_book_unsettled(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    (void)path, (void)n_path;
    return palm_book_is_open(book, number);
}

bool palm_book_next(const palm_book *book, uint64_t from, uint64_t *number)
{
    *number = from;
    return palm_book_is_open(book, from);
}

bool palm_book_is_next(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    (void)book, (void)number, (void)path, (void)n_path;
    return true;
}

palm_book_state palm_book_ranges(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                                 palm_range *ranges, uint32_t room, uint32_t *n)
{
    (void)book, (void)number, (void)path, (void)n_path, (void)ranges, (void)room;
    *n = 0;
    return PALM_BOOK_UNKNOWN;
}

palm_err palm_book_grant(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t upto,
                         uint32_t *verdict)
{
    (void)book, (void)number, (void)path, (void)n_path, (void)upto;
    *verdict = 0;
    return PALM_OK;
}

uint64_t palm_book_granted(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    (void)book, (void)number, (void)path, (void)n_path;
    return 0;
}

uint64_t palm_book_live(const palm_book *book)
{
    return palm_book_open_inputs(book);
}

size_t palm_book_dump(const palm_book *book, uint64_t *out, size_t room)
{
    if (room)
        out[0] = palm_book_open_inputs(book);
    return 1;
}
