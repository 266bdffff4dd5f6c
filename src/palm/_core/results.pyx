# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""What a job has brought, until it is asked for: a run of results is one thing here, and a result of it costs a call of C."""

import collections

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t

cimport numpy as cnp

from palm._core.cpalm cimport palm_frames
from palm._core.decode cimport new_view, plain_number, scalar_at
from palm._core.space cimport Holder

cnp.import_array()

cdef extern from *:
    """
    static void inherit_next(PyObject *type)
    {
        ((PyTypeObject *)type)->tp_iternext = ((PyTypeObject *)type)->tp_base->tp_iternext;
    }
    """
    void inherit_next(object type)


cdef class Run:
    """Results of inputs that follow one another, which become values one by one: rows of an array, or pieces of bytes."""

    cdef object value(self, Py_ssize_t i):
        cdef cnp.ndarray rows = self.rows
        cdef const uint8_t *at_bytes
        if rows is None:
            at_bytes = self.bytes + i * self.size
            return plain_number(at_bytes) if self.are_numbers else PyBytes_FromStringAndSize(<const char *> at_bytes, self.size)
        cdef char *at = <char *> cnp.PyArray_DATA(rows) + i * cnp.PyArray_STRIDE(rows, 0)
        if cnp.PyArray_NDIM(rows) == 1:
            return scalar_at(at, <object> cnp.PyArray_DESCR(rows))
        return new_view(<object> cnp.PyArray_DESCR(rows), cnp.PyArray_NDIM(rows) - 1, <Py_ssize_t *> cnp.PyArray_DIMS(rows) + 1,
                        <Py_ssize_t *> cnp.PyArray_STRIDES(rows) + 1, at, cnp.get_array_base(rows))


cdef class ResultQueue:
    """Results (number, path, value), oldest first. With the GIL, no other thread is in a method while one is."""

    def __cinit__(self):
        self.items = collections.deque()

    def __len__(self):
        return self.n

    def append(self, tuple result not None):
        self.items.append(result)
        self.n += 1

    cdef int append_rows(self, uint64_t number, cnp.ndarray rows) except -1:
        cdef Run run = Run.__new__(Run)
        run.number, run.n, run.rows = number, cnp.PyArray_DIM(rows, 0), rows
        self.items.append(run)
        self.n += run.n
        return 0

    cdef int append_pieces(self, uint64_t number, palm_frames *frames, const uint8_t *bytes, Py_ssize_t size, Py_ssize_t n,
                           bint are_numbers) except -1:
        """n pieces of `size` bytes each, which lie in the frames; `are_numbers`: and of which each `is_plain_number`."""
        cdef Run run = Run.__new__(Run)
        run.number, run.n, run.bytes, run.size, run.are_numbers = number, n, bytes, size, are_numbers
        run.holder = Holder.of_frames(frames)
        self.items.append(run)
        self.n += n
        return 0

    def extend(self, ResultQueue others not None):
        """All that is in another one, which nobody else has, and of which nothing was taken."""
        self.items.extend(others.items)
        self.n += others.n

    def clear(self):
        self.items.clear()
        self.head = None
        self.n = 0

    cdef Run front(self):
        """The run that is at the front, and has more; None: there is a single result, or nothing."""
        if self.head is None:
            self.head = self.items.popleft() if self.n and type(self.items[0]) is Run else None
        return self.head

    cdef Py_ssize_t step(self, Run run) noexcept:
        """Which result of the run in front is the next one; it is taken."""
        cdef Py_ssize_t at = run.at
        run.at += 1
        self.n -= 1
        if run.at == run.n:
            self.head = None  # its memory is not needed any more
        return at

    def popleft(self):
        """The oldest one; IndexError: there is none."""
        cdef Run run = self.front()
        cdef Py_ssize_t at
        if run is None:
            result = self.items.popleft()
            self.n -= 1
            return result
        at = self.step(run)
        return run.number + at, (), run.value(at)

    cdef object next_value(self):
        """That of the oldest one, of which there is one."""
        cdef Run run = self.head
        cdef Py_ssize_t at
        if run is None:
            run = self.front()
        if run is None:
            return (<tuple> self.popleft())[2]
        at = self.step(run)
        return run.value(at)

    def popleft_rows(self):
        """The oldest ones, if they are rows of an array: the first one's number, and that array, read-only; else None."""
        cdef Run run = self.front()
        if run is None or run.rows is None:
            return None
        self.head = None
        self.n -= run.n - run.at
        return run.number + run.at, run.rows[run.at:]


def inherits_next(cls):
    """Decorates a class of Python that has the `__next__` of the class of C above it: `for` calls that at once, instead of looking
    it up by its name, as for a `__next__` that is written in Python."""
    inherit_next(cls)
    return cls


cdef class ResultIterator:
    """Gives the values of what is in `_taken`, oldest first; any number of threads at once.

    Subclasses have ``_take()``, which adds to it, or raises what ends the iteration.
    """

    cdef readonly ResultQueue _taken

    def __cinit__(self):
        self._taken = ResultQueue()

    def __iter__(self):
        return self

    def __next__(self):
        while not self._taken.n:
            self._take()
        return self._taken.next_value()  # with the GIL since it was looked at, so it is still there
