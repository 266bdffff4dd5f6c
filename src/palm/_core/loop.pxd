# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from palm._core.batch cimport Batch
from palm._core.cpalm cimport palm_counters
from palm._core.node cimport Event


cdef bint is_late(uint64_t deadline) noexcept nogil
cdef bint is_to_run(Event event, uint32_t i, host, dict kept, dict refused, set given_up) except -1


cdef class Place:
    cdef public Py_ssize_t at
    cdef public object event, assignment, message

    cpdef begin(self, event, assignment)
    cpdef end(self)


cdef class Work:
    cdef bytes job
    cdef uint32_t hop
    cdef uint32_t index
    cdef uint32_t client
    cdef uint64_t limit_ns

    cdef void on(self, palm_counters *c, uint32_t together=*) noexcept


cpdef bint run(Event event, uint32_t first, uint32_t end, function, int parameters, Work work, Batch out, host, special, dict kept,
               dict refused, dict tried, set given_up) except -1
