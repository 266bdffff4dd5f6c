# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from palm._core.batch cimport Batch
from palm._core.loop cimport Place, Work
from palm._core.node cimport Event, Node


cdef class Lane


cdef class Tally:
    cdef readonly uint64_t done, busy
    cdef uint64_t counted, since

    cpdef begin(self, uint64_t now)
    cpdef bint end(self, uint64_t n, uint64_t now) noexcept
    cpdef tell(self, Node node, uint32_t link, uint32_t handle)


cdef class Way:
    cdef object assignment, function
    cdef int parameters
    cdef Work work
    cdef Batch out
    cdef uint32_t link, handle
    cdef uint16_t hop
    cdef dict making, tried
    cdef set given_up
    cdef Tally tally
    cdef bint tells_first

    cdef tell(self, Event event, Node node)
    cdef bint run(self, Event event, Lane lane) except -1


cdef class Lane:
    cdef Node node
    cdef Place place
    cdef object host, special, backlog
    cdef int64_t in_backlog  # messages
    cdef dict ways
    cdef readonly bint has_the_rest

    cpdef look(self)
    cdef bint take(self) except -1
    cpdef keep(self, Event event)
    cpdef shut(self)
    cdef void count_backlog(self, int64_t more) noexcept
    cdef Event first_of_backlog(self)
    cdef Way way_of(self, Event event)
