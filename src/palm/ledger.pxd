# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint64_t

from palm._core.book cimport Book


cdef class Ledger:
    cdef public Book book, order
    cdef public bint parted

    cpdef begin(self, uint64_t first, uint64_t n)
    cpdef forget(self, uint64_t number)
