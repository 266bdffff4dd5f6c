# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""What became of each input of a job: the client's record, by which it knows when a job is complete (R3)."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from palm._core.cpalm cimport *
from palm._core.space cimport check

# Bits of a verdict, and states of a node; the numbers of palm_book.h
NEW, COMPLETED, INPUT_DONE, CONTRADICTION = (PALM_BOOK_NEW, PALM_BOOK_COMPLETED, PALM_BOOK_INPUT_DONE,
                                             PALM_BOOK_CONTRADICTION)
UNKNOWN, OPEN, OVER = PALM_BOOK_UNKNOWN, PALM_BOOK_OPEN, PALM_BOOK_OVER


cdef uint32_t unpack(path, uint64_t *components) except? 0xffffffff:
    """Writes up to PALM_MAX_PATH components; more are a CoreError."""
    cdef uint32_t n = 0
    for component in path:
        if n == PALM_MAX_PATH:
            check(PALM_ELIMIT)
        components[n] = component
        n += 1
    return n


def depth(uint32_t verdict):
    """How many components the topmost name has that is complete now, if the verdict has COMPLETED."""
    return palm_book_depth(verdict)


cdef class Book:
    """The inputs of a job, begun in the order of their numbers, and of each that is not done a tree of names.

    A name is a number and a path of components hop << 48 | index. Every event may come again, and in any order; the first
    one counts. Events return a verdict: bits of NEW, COMPLETED, INPUT_DONE, CONTRADICTION, and see `depth`; 0 if all of it
    was known, or the input is not open. csrc/include/palm_book.h says more. One thread at a time.

    Raises
    ------
    CoreError
        From all that take one: a path is longer than 32 (MAX_PATH), or there are more than 2**48 children.
    MemoryError
        The book is as it was.
    """

    def __cinit__(self):
        check(palm_book_new(&self.book))

    def __dealloc__(self):
        palm_book_free(self.book)

    def __len__(self):
        """Inputs that are open."""
        return palm_book_open_inputs(self.book)

    def __contains__(self, uint64_t number):
        return palm_book_is_open(self.book, number)

    def first(self):
        """The smallest number that is open, or None."""
        cdef uint64_t number = 0
        return number if palm_book_next(self.book, 0, &number) else None

    def unsettled(self, uint64_t number, path=()):
        """How many names at or below this one are not complete that are not known to have children; -1 if more may come."""
        cdef uint64_t[PALM_MAX_PATH] components
        cdef uint32_t n_path = unpack(path, components)
        cdef uint64_t n = palm_book_unsettled(self.book, number, components, n_path)
        return -1 if n == <uint64_t> -1 else n

    cpdef bint any_open(self, uint64_t first, uint64_t end) except -1:
        """True if an input of first, ..., end - 1 is open."""
        cdef uint64_t number = 0
        return palm_book_next(self.book, first, &number) and number < end

    def numbers(self):
        """All that are open, as a sorted list."""
        cdef uint64_t number = 0
        cdef list found = []
        cdef bint more = palm_book_next(self.book, 0, &number)
        while more:
            found.append(number)
            more = palm_book_next(self.book, number + 1, &number)
        return found

    cpdef begin(self, uint64_t first, uint64_t n=1):
        """The inputs first, ..., first + n - 1 are on their way.

        Raises
        ------
        ValueError
            They are not the next ones.
        """
        check(palm_book_begin(self.book, first, n))

    def skip(self, uint64_t next):
        """This is the next input; those before it that were not on their way count as done.

        Raises
        ------
        ValueError
            It was on its way.
        """
        check(palm_book_skip(self.book, next))

    cpdef uint32_t settle(self, uint64_t number, path=()) except? 0xFFFFFFFF:
        """A message has ended without children: it has a result, or the function returned None."""
        cdef uint64_t components[PALM_MAX_PATH]
        cdef uint32_t verdict = 0, n = unpack(path, components)
        check(palm_book_settle(self.book, number, components, n, &verdict))
        return verdict

    def close(self, uint64_t number, path, uint64_t children):
        """A generator has ended after so many children."""
        cdef uint64_t components[PALM_MAX_PATH]
        cdef uint32_t verdict = 0, n = unpack(path, components)
        check(palm_book_close(self.book, number, components, n, children, &verdict))
        return verdict

    def prune(self, uint64_t number, path=()):
        """A message has ended for a reason that is not the function's alone, and all below it has: an error, set aside."""
        cdef uint64_t components[PALM_MAX_PATH]
        cdef uint32_t verdict = 0, n = unpack(path, components)
        check(palm_book_prune(self.book, number, components, n, &verdict))
        return verdict

    cpdef forget(self, uint64_t number):
        """Gives an input up: what still comes of it is unknown."""
        palm_book_forget(self.book, number)

    def is_next(self, uint64_t number, path=()):
        """True if no unsettled name can sort before this one any more, those above it excepted."""
        cdef uint64_t components[PALM_MAX_PATH]
        cdef uint32_t n = unpack(path, components)
        return palm_book_is_next(self.book, number, components, n)

    def ranges(self, uint64_t number, path=()):
        """Which children of a node are complete.

        Returns
        -------
        state : int
            UNKNOWN, OPEN or OVER.
        ranges : list of (int, int)
            Of an open node: half-open, sorted, apart from each other.
        """
        cdef uint64_t components[PALM_MAX_PATH]
        cdef uint32_t i, count = 0, n = unpack(path, components)
        cdef palm_range few[16]
        cdef palm_range *found = few
        cdef palm_book_state state = palm_book_ranges(self.book, number, components, n, few, 16, &count)
        if count > 16:
            found = <palm_range *> malloc(count * sizeof(palm_range))
            if not found:
                raise MemoryError
            palm_book_ranges(self.book, number, components, n, found, count, &count)
        try:
            return state, [(found[i].from_, found[i].to) for i in range(count)]
        finally:
            if found != few:
                free(found)

    def grant(self, uint64_t number, path, uint64_t upto):
        """A generator may send so many children in all; only grows. Its name is known to be a node from now on."""
        cdef uint64_t components[PALM_MAX_PATH]
        cdef uint32_t verdict = 0, n = unpack(path, components)
        check(palm_book_grant(self.book, number, components, n, upto, &verdict))
        return verdict

    def granted(self, uint64_t number, path=()):
        """How many children an open node may have sent; 0 if it is none."""
        cdef uint64_t components[PALM_MAX_PATH]
        cdef uint32_t n = unpack(path, components)
        return palm_book_granted(self.book, number, components, n)

    @property
    def live(self):
        """Slots held: by the open inputs, and by the children that open nodes may have sent."""
        return palm_book_live(self.book)

    def copy(self):
        cdef Book copy = Book.__new__(Book)
        cdef palm_book *book = NULL
        check(palm_book_copy(self.book, &book))
        palm_book_free(copy.book)
        copy.book = book
        return copy

    def dump(self):
        """All that the book knows, as bytes: equal for books that behave alike from now on."""
        cdef uint64_t few[256]
        cdef size_t n = palm_book_dump(self.book, few, 256)
        if n <= 256:
            return PyBytes_FromStringAndSize(<char *> few, n * sizeof(uint64_t))
        found = PyBytes_FromStringAndSize(NULL, n * sizeof(uint64_t))
        palm_book_dump(self.book, <uint64_t *> <char *> found, n)
        return found
