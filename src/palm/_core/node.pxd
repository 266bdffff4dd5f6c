# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from palm._core.book cimport Book
from palm._core.cpalm cimport palm_batch, palm_counters, palm_event, palm_node, palm_record, palm_run
from palm._core.lock cimport Lock
from palm._core.results cimport ResultQueue
from palm._core.stack cimport Items

# What a server has made goes on its way when it has worked for so long, though the batch is not over.
cdef enum:
    FLUSH_NS = 1000000


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t> t.tv_sec * 1000000000 + <uint64_t> t.tv_nsec


cdef tuple path_of(const palm_event *event, const palm_record *r)


cdef class Batch:
    cdef palm_batch *batch

    cdef tuple fill_at_hand(self, iterator, uint64_t number, Py_ssize_t most, uint64_t deadline, Book book, Lock lock)
    cdef tuple fill_rows(self, Items items, uint64_t number, Py_ssize_t most, uint64_t deadline, Lock lock)


cdef class Node:
    cdef palm_node *node
    cdef palm_counters *c
    cdef long pid
    cdef int inside
    cdef bint closing
    cdef bint hears_signals

    cdef palm_node *live(self) except NULL


cdef class Event:
    cdef Node node
    cdef palm_event event
    cdef list holders

    cdef const palm_record *at(self, Py_ssize_t i) except NULL
    cdef tuple outcome(self, uint32_t i)
    cdef uint32_t plain_run(self, uint32_t first, uint32_t limit) noexcept
    cdef uint32_t take_run(self, Book book, uint32_t first, uint32_t end, ResultQueue results) except? 0xFFFFFFFF
    cdef bint are_numbers(self, const palm_run *run) noexcept
    cdef uint32_t take_rows(self, Book book, const palm_run *run, ResultQueue results) except? 0xFFFFFFFF
    cdef Py_ssize_t take_one(self, Book book, uint32_t i, ResultQueue results, list rest) except -1
