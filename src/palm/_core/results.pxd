# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint8_t, uint64_t

cimport numpy as cnp

from palm._core.cpalm cimport palm_frames
from palm._core.space cimport Holder


cdef class Run:
    cdef uint64_t number      # of the first
    cdef Py_ssize_t n, at     # how many; the next one that is to be taken
    cdef cnp.ndarray rows     # one for each; or, if that is None, pieces of these bytes:
    cdef Holder holder
    cdef const uint8_t *bytes
    cdef Py_ssize_t size
    cdef bint are_numbers

    cdef object value(self, Py_ssize_t i)


cdef class ResultQueue:
    cdef object items  # Runs, and other results one by one
    cdef Run head      # of which some were taken already
    cdef Py_ssize_t n  # results

    cdef int append_rows(self, uint64_t number, cnp.ndarray rows) except -1
    cdef int append_pieces(self, uint64_t number, palm_frames *frames, const uint8_t *bytes, Py_ssize_t size, Py_ssize_t n,
                           bint are_numbers) except -1
    cdef Run front(self)
    cdef Py_ssize_t step(self, Run run) noexcept
    cdef object next_value(self)
