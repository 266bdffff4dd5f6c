# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from palm._core.cpalm cimport palm_batch, palm_event


cdef int put_value(palm_batch *b, object value, Py_ssize_t expected, uint64_t number, uint64_t deadline, path,
                   uint32_t flags) except -1
cdef object get_value(palm_event *event, uint32_t i, list holders)
