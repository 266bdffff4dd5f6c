# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

cimport numpy as cnp

from palm._core.cpalm cimport palm_batch, palm_event, palm_run


cdef bint alike(palm_event *event, uint32_t i, uint32_t j) noexcept
cdef bint is_let_go(PyObject *result) noexcept
cdef object get_stacked(palm_event *event, list records, list holders)
cdef cnp.ndarray get_rows(palm_event *event, uint32_t first, const palm_run *run, Py_ssize_t k, list holders)


cdef class Items:
    cdef cnp.ndarray array
    cdef Py_ssize_t at  # of the next one

    cdef bint is_over(self) noexcept
    cdef Py_ssize_t put(self, palm_batch *b, Py_ssize_t most, uint64_t number, uint64_t deadline) except -1


cdef class Rows:
    cdef object result
    cdef bint is_taken_out
    cdef tuple columns

    cdef object row(self, Py_ssize_t n)
