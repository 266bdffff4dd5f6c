# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

cimport numpy as cnp

from palm._core.cpalm cimport palm_batch


cdef enum:
    NOBODY_ELSE = 1 << 24  # more references than anything has that is let go of


cdef bint let_go(PyObject *a, Py_ssize_t expected) noexcept
cdef int put_value(palm_batch *b, object value, Py_ssize_t expected, uint64_t number, uint64_t deadline, path,
                   uint32_t flags) except -1
cdef bint extend(palm_batch *b, object value, uint64_t number, uint64_t deadline) noexcept
cdef int put_message(palm_batch *b, object value, Py_ssize_t expected, uint64_t number, uint64_t deadline) except -1
cdef int put_rows(palm_batch *b, cnp.ndarray rows, Py_ssize_t expected, uint64_t number, uint64_t deadline) except -1
cdef bint are_rows(object value) except -1
