# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from palm._core.cpalm cimport palm_event


cdef bint alike(palm_event *event, uint32_t i, uint32_t j) noexcept
cdef bint is_let_go(PyObject *result) noexcept
cdef object get_stacked(palm_event *event, list records, list holders)


cdef class Rows:
    cdef object result
    cdef bint is_taken_out
    cdef tuple columns

    cdef object row(self, Py_ssize_t n)
