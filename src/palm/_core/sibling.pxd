# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport int32_t


cdef extern from "sibling.h":
    bint palm_sibling_possible() noexcept nogil
    int32_t palm_sibling(int32_t *told) noexcept nogil
