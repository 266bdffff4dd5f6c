# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
"""The attributes of a connection as slots, and what is called for each message as C functions: an attribute of an ordinary
object costs 100 to 150 instructions in compiled code (docs/decisions/round-trip.md)."""

cimport cython
from libc.stdint cimport uint16_t, uint32_t

from palm._core.batch cimport Batch
from palm._core.lock cimport Condition, check_signals, monotonic
from palm._core.node cimport Event, Node


cdef long _pid


cdef class Answer:
    cdef public bint done
    cdef public object value, error


cdef class Connection:
    cdef public Node node
    cdef public str endpoint
    cdef public Condition changed
    cdef public dict works, _incoming, _opened, _gone
    cdef public object later, settled, _handles
    cdef public Py_ssize_t awaited, _waiters
    cdef public set _ready
    cdef public list on_gone
    cdef public bint closed, _pumping
    cdef public double _patience, _ask_at
    cdef public long _pid
    cdef object __weakref__

    cpdef check(self)
    cpdef bint send(self, uint32_t link, int says, uint32_t handle, uint16_t hop, Batch batch) except -1
    cpdef bint send_kept(self, uint32_t link, int says, uint32_t handle, uint16_t hop, Batch batch) except -1
    cpdef bint wait(self, condition, timeout=*) except -1
    cpdef bint wait_for(self, Answer answer, timeout) except -1
    cpdef bint _receive_until(self, condition, Answer answer, timeout) except -1
    cpdef _wait(self, double timeout)
    cpdef _ask_idle(self)
    @cython.locals(event=Event)
    cpdef _pump(self, double timeout)
    cpdef call_later(self)
    cpdef _dispatch(self, Event event)
    cpdef _data(self, Event event)
    cpdef _receive(self, work, Event event)
