# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
cimport cython

from palm._core cimport batch as sent
from palm._core.book cimport Book
from palm._core.node cimport Event
from palm.connection cimport Answer, Connection
from palm.delivery cimport Delivery


cdef class Calls:
    cdef public Connection connection
    cdef public Delivery delivery
    cdef public bytes key
    cdef public Book book
    cdef public dict futures, _deadlines, _results
    cdef public set _fanned
    cdef public bint retired
    cdef object __weakref__

    @cython.locals(batch=sent.Batch, delivery=Delivery)
    cpdef send(self, tuple values, future, timeout)
    @cython.locals(answer=Answer)
    cpdef wait(self, tuple values, timeout)
    cpdef receive(self, Event event)
    cpdef _take_in(self, Event event)
    cpdef _receive(self, Event event, int form, number, tuple path, value, count)
    cpdef _expect(self, number, future, deadline)
    cpdef resolve(self, number, error)
    @cython.locals(answer=Answer)
    cpdef _finish(self, number, value, error)
    cpdef _out(self, number)
    cpdef _value(self, number)
