# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint64_t

from palm._core.book cimport Book
from palm._core.cpalm cimport palm_batch
from palm._core.lock cimport Lock
from palm._core.stack cimport Items


cdef class Batch:
    cdef palm_batch *batch

    cpdef put(self, value, uint64_t number, path=*, uint64_t deadline=*)
    cpdef set_number(self, uint64_t number)
    cpdef clear(self)
    cpdef Py_ssize_t size(self) noexcept
    cdef tuple fill_at_hand(self, iterator, uint64_t number, Py_ssize_t most, uint64_t deadline, Book book, Lock lock)
    cdef tuple fill_rows(self, Items items, uint64_t number, Py_ssize_t most, uint64_t deadline, Lock lock)
