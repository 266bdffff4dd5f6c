# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from palm._core.cpalm cimport palm_book


cdef class Book:
    cdef palm_book *book
