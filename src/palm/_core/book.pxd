# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from palm._core.cpalm cimport palm_book


cdef class Book:
    cdef palm_book *book

    cpdef begin(self, uint64_t first, uint64_t n=*)
    cpdef uint32_t settle(self, uint64_t number, path=*) except? 0xFFFFFFFF
    cpdef bint any_open(self, uint64_t first, uint64_t end) except -1
    cpdef forget(self, uint64_t number)
