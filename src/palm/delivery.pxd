# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
cimport cython
from libc.stdint cimport uint32_t, uint64_t

from palm._core.batch cimport Batch
from palm._core.book cimport Book
from palm._core.lock cimport Lock
from palm.connection cimport Connection
from palm.ledger cimport Ledger


cdef class Delivery:
    cdef public bytes key
    cdef public Connection connection
    cdef public Ledger ledger
    cdef public Book book
    cdef public Lock lock
    cdef public object route, reductions, _directory, _seed, _fail
    cdef public uint64_t sent
    cdef public uint32_t _handle, _link
    cdef public object epoch, _fruitless, _fruitless_most, _found
    cdef public bint start, over, stopped, _calls, _recovering, _lost_again
    cdef public dict _kept, _keepers, _told, _losses
    cdef public Py_ssize_t _kept_bytes, _sweep_at, _sweep_at_bytes
    cdef object __weakref__

    @cython.locals(n=Py_ssize_t)
    cpdef send(self, Batch batch)
    cpdef done(self, number)
    cpdef settled(self, number, tuple path)
    cpdef tell_keepers(self)
