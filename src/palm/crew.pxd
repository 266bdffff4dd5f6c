# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
"""A leader asks for each envelope, and each report, who gets more: slots and C functions (docs/decisions/workers.md)."""

cimport cython


cdef class Load:
    cdef public object assignment
    cdef public str function
    cdef public long long sent, done, busy

    cpdef long long outstanding(self)


cdef class Worker:
    cdef public long index, link, pid
    cdef public str endpoint
    cdef public dict services, loads, waiting
    cdef public long long outstanding, _left
    cdef public bint is_leaving
    cdef object __weakref__

    cpdef give(self, Load load, long long n)
    @cython.locals(left=cython.longlong)
    cdef _count(self, str function, long long n)
    @cython.locals(load=Load)
    cpdef keep(self, is_wanted)
    @cython.locals(seconds=cython.double)
    cpdef double backlog(self)
    @cython.locals(service=cython.double)
    cdef double _service(self, str function)
    cdef long long _room_behind_long(self, str function, long long most)
    cpdef long long appetite(self, str function)
    @cython.locals(n=cython.longlong)
    cdef long long _appetite(self, double service)
    @cython.locals(service=cython.double, limit=cython.longlong, half=cython.longlong, room=cython.longlong,
                   little=cython.longlong, most=cython.longlong)
    cpdef long long room(self, str function, long long share, double backlog)
    @cython.locals(load=Load, more=cython.longlong, took=cython.double)
    cpdef reported(self, handle, long long done, long long busy)


cdef class Crew:
    cdef dict _workers

    cpdef add(self, Worker worker)
    cpdef remove(self, link)
    cpdef of(self, link)
    cpdef list all(self)
    cpdef double service(self, str function)
    @cython.locals(worker=Worker)
    cpdef idle(self)
    @cython.locals(worker=Worker, found=Worker, backlog=cython.double, least=cython.double, n=cython.longlong,
                   share=cython.longlong, room=cython.longlong)
    cpdef next(self, str function, long long waiting)


@cython.locals(n=cython.longlong)
cdef long long _up(double x)
