# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""What a process sends, put together: messages, and what is said about them."""

import struct

from numpy import ndarray

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t, uint64_t

from palm._core.book cimport Book
from palm._core.clock cimport now_ns
from palm._core.cpalm cimport *
from palm._core.encode cimport put_message, put_value
from palm._core.lock cimport Lock
from palm._core.nep49 cimport PALM_NEP49_THRESHOLD
from palm._core.space cimport check
from palm._core.stack cimport Items

# An iterator that takes so long over an input makes no stream of small messages: what it gave goes at once.
cdef enum:
    SLOW_NS = 50000
cdef frozenset AT_HAND = frozenset(type(iter(of_it)) for of_it in ((), [], range(0)))  # iterators that take no time

cdef extern from "Python.h":
    PyObject *PyIter_Next(object iterator) except? NULL

cdef object END = object()


cdef object next_of(object iterator):
    """What it gives next, or END: to catch a StopIteration for each would take longer than to ask."""
    cdef PyObject *got = PyIter_Next(iterator)
    if got == NULL:
        return END
    value = <object> got
    Py_DECREF(value)  # of the two references, ours
    return value


cdef class Batch:
    """What one envelope will carry."""

    def __cinit__(self):
        check(palm_batch_new(&self.batch))

    def __dealloc__(self):
        palm_batch_free(self.batch)

    def __len__(self):
        return palm_batch_count(self.batch)

    cpdef Py_ssize_t size(self) noexcept:
        """Bytes."""
        return <Py_ssize_t> palm_batch_bytes(self.batch)

    @property
    def full(self):
        """It should be sent before more is added."""
        return palm_batch_full(self.batch)

    cpdef clear(self):
        palm_batch_clear(self.batch)

    def take(self):
        """All that is in it, as another batch; this one is empty then."""
        cdef Batch taken = Batch.__new__(Batch)
        taken.batch, self.batch = self.batch, taken.batch
        return taken

    cpdef put(self, value, uint64_t number, path=None, uint64_t deadline=0):
        """Add a message. Its arrays count as kept by somebody if anything but the argument names them.

        Raises
        ------
        PayloadError
            The value cannot be sent; the batch is as it was.
        """
        # the argument itself: one reference of the caller's frame or argument vector, none of ours
        put_value(self.batch, value, 0, number, deadline, path, 0)

    cpdef set_number(self, uint64_t number):
        """Of the message added last, where it was not known yet."""
        if not len(self):
            raise IndexError("there is no message")
        palm_batch_set_number(self.batch, number)

    def event(self, int form, uint64_t number, path=None, uint32_t count=0):
        """Add a record without payload: DROP, CLOSE, ASK, LOST, ASIDE."""
        cdef palm_record *r = NULL
        cdef uint64_t component
        check(palm_batch_record(self.batch, <palm_form> form, number, &r))
        r.count = count
        for p in path or ():
            component = p
            check(palm_batch_path(self.batch, &component, 1))

    def error(self, tree, uint64_t number, path=None, uint32_t count=0):
        """Add the record of a failure, described by `tree`, after `count` children had been sent."""
        put_value(self.batch, tree, -1, number, 0, path, 0)  # none of it in a block, which could be lost with its owner
        palm_batch_set_form(self.batch, PALM_ERROR, count)

    def reduced(self, tree, uint32_t epoch):
        """Add what a Reduce tells the client of its state."""
        put_value(self.batch, tree, 0, 0, 0, None, 0)
        palm_batch_set_form(self.batch, PALM_REDUCED, epoch)

    def release(self, uint64_t number, path, ranges, uint32_t granted, bint over):
        """Add what a keeper is told of its children: those of the half-open `ranges` are settled; `granted` so many may have
        been sent; over: all are settled, and none will be asked for again."""
        put_value(self.batch, struct.pack(f"<{2 * len(ranges)}Q", *[end for r in ranges for end in r]), 0, number, 0, path, over)
        palm_batch_set_form(self.batch, PALM_BYTES, granted)

    def job(self, bytes key, uint64_t number=PALM_NO_NUMBER, bint stop=False):
        """Add what CANCEL and FORGET say: the end of a job, or of one of its inputs, or of its first generators."""
        put_value(self.batch, key, 0, number, 0, None, 0)
        palm_batch_set_form(self.batch, PALM_BYTES, stop)

    def add(self, Batch other not None, uint32_t i):
        """Add message i of another batch; what that lends is lent once more, not copied. False: there is no room for it, and
        this batch, which is as it was, has to be sent before."""
        cdef palm_err err = palm_batch_add(self.batch, other.batch, i)
        if err == PALM_EFULL:
            return False
        check(err)
        return True

    def fill(self, iterator, uint64_t number, Py_ssize_t most, uint64_t deadline, Book book not None, Lock lock not None):
        """Add what the iterator gives, as messages `number`, `number` + 1, ..., as long as that is quick: until there are
        `most`, or the batch is full, or the iterator took its time over one, or the `book` is empty: nothing else
        is under way, so nothing is gained by waiting. `lock` is held while the batch changes, not while the iterator is
        asked. An array that the iterator has let go of is not copied.

        Returns
        -------
        added : int
        ended : bool
            The iterator has no more. What else it raises is raised as it is.
        """
        if type(iterator) is Items:
            return self.fill_rows(iterator, number, most, deadline, lock)
        if type(iterator) in AT_HAND:
            return self.fill_at_hand(iterator, number, most, deadline, book, lock)
        cdef Py_ssize_t added = 0
        cdef bint is_slow = False, is_enough = False
        cdef uint64_t asked = now_ns(), got
        while added < most and not is_enough:
            value = next_of(iterator)
            if value is END:
                return added, True
            got = now_ns()
            is_slow, asked = got - asked > SLOW_NS, got
            lock.acquire()
            try:
                put_message(self.batch, value, 1, number + added, deadline)
                is_enough = is_slow or palm_batch_full(self.batch) or not palm_book_open_inputs(book.book)
            finally:
                lock.release()
            added += 1
            value = None
        return added, False

    cdef tuple fill_at_hand(self, iterator, uint64_t number, Py_ssize_t most, uint64_t deadline, Book book, Lock lock):
        """Of an iterator that takes no time, and calls nobody; but what it gives may have to be copied."""
        cdef Py_ssize_t added = 0
        cdef bint is_enough = False
        cdef uint64_t began
        lock.acquire()
        try:
            while added < most and not is_enough:
                value = next_of(iterator)
                if value is END:
                    return added, True
                began = now_ns() if type(value) is ndarray and value.nbytes >= PALM_NEP49_THRESHOLD else 0
                put_message(self.batch, value, 1, number + added, deadline)
                is_enough = palm_batch_full(self.batch) or not palm_book_open_inputs(book.book)
                if began and now_ns() - began > SLOW_NS:
                    is_enough = True
                added += 1
                value = None
        finally:
            lock.release()
        return added, False

    cdef tuple fill_rows(self, Items items, uint64_t number, Py_ssize_t most, uint64_t deadline, Lock lock):
        cdef Py_ssize_t added
        lock.acquire()
        try:
            added = items.put(self.batch, min(most, PALM_MAX_RECORDS - <Py_ssize_t> palm_batch_count(self.batch)), number, deadline)
        finally:
            lock.release()
        return added, items.is_over()

    def put_out_of(self, box, uint64_t number, uint64_t deadline=0, path=None, bint back=False):
        """Add `box.value`, and take it out of the box. back: it is there again afterwards, for those who only read it."""
        value = box.value
        box.value = None
        put_value(self.batch, value, 1, number, deadline, path, 0)
        if back:
            box.value = value
