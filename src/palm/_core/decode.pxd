# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport numpy as cnp

from palm._core.cpalm cimport palm_event

# msgpack extension types of a tree; docs/wire.md
cdef enum:
    EXT_ARRAY = 1    # u32, big-endian: which array of the record
    EXT_TUPLE = 2    # msgpack array
    EXT_SCALAR = 3   # dtype text, NUL, the scalar's bytes
    EXT_COMPLEX = 4  # two float64, big-endian
    EXT_INT = 5      # an int beyond 64 bits: two's complement, big-endian
    EXT_BYTES = 6    # u32, big-endian: which array of the record has them

cdef enum:
    MOST_KNOWN = 4096  # dtypes, and texts of such, that are remembered


cdef object new_view(object dtype, int n, const Py_ssize_t *shape, const Py_ssize_t *strides, void *data, object base)
cdef object scalar_at(void *data, object dtype)
cdef int check_reach(const palm_event *event, uint32_t i, cnp.dtype dtype) except -1
cdef object get_array(palm_event *event, uint32_t i, list holders)
cdef object get_value(palm_event *event, uint32_t i, list holders)
cdef bint is_plain_number(const uint8_t *body, uint64_t size) noexcept
cdef object plain_number(const uint8_t *body)
