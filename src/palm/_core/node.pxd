# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from palm._core cimport batch as sent
from palm._core.book cimport Book
from palm._core.cpalm cimport palm_counters, palm_event, palm_node, palm_record, palm_run
from palm._core.results cimport ResultQueue

# What a server has made goes on its way when it has worked for so long, though the batch is not over.
cdef enum:
    FLUSH_NS = 1000000


cdef class Event


cdef tuple path_of(const palm_event *event, const palm_record *r)


cdef class Node:
    cdef palm_node *node
    cdef palm_counters *c
    cdef long pid
    cdef int inside
    cdef bint closing
    cdef bint hears_signals

    cdef palm_node *live(self) except NULL
    cpdef Event next(self, double timeout, bint handlers=*)
    cpdef bint tell(self, uint32_t link, uint32_t handle, uint64_t number, uint32_t count) except -1
    cpdef bint send(self, uint32_t link, int kind, uint32_t handle, uint16_t hop, sent.Batch batch) except -1
    cpdef bint send_kept(self, uint32_t link, int kind, uint32_t handle, uint16_t hop, sent.Batch batch) except -1


cdef class Event:
    cdef Node node
    cdef palm_event event
    cdef list holders

    cpdef done(self)
    cpdef bint is_data(self) noexcept
    cpdef tuple origin(self)
    cpdef tuple settle_lone(self, Book book)
    cpdef list outcomes(self)
    cdef const palm_record *at(self, Py_ssize_t i) except NULL
    cdef tuple outcome(self, uint32_t i)
    cdef uint32_t plain_run(self, uint32_t first, uint32_t limit) noexcept
    cdef uint32_t take_run(self, Book book, uint32_t first, uint32_t end, ResultQueue results) except? 0xFFFFFFFF
    cdef bint are_numbers(self, const palm_run *run) noexcept
    cdef uint32_t take_rows(self, Book book, const palm_run *run, ResultQueue results) except? 0xFFFFFFFF
    cdef int take_one(self, Book book, uint32_t i, ResultQueue results, list rest) except -1
