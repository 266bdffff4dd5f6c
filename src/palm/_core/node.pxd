# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from palm._core.cpalm cimport palm_batch, palm_counters, palm_event, palm_node, palm_record


cdef class Work:
    cdef bytes job
    cdef uint32_t hop
    cdef uint32_t index
    cdef uint32_t client
    cdef uint64_t limit_ns

    cdef void on(self, palm_counters *c) noexcept


cdef class Batch:
    cdef palm_batch *batch


cdef class Node:
    cdef palm_node *node
    cdef palm_counters *c
    cdef long pid
    cdef int inside
    cdef bint closing

    cdef palm_node *live(self) except NULL


cdef class Event:
    cdef Node node
    cdef palm_event event
    cdef list holders

    cdef const palm_record *at(self, Py_ssize_t i) except NULL
    cdef tuple outcome(self, uint32_t i)
