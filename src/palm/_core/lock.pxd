# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from cpython.pythread cimport PyThread_type_lock


cdef class Lock:
    cdef PyThread_type_lock lock

    cpdef acquire(self)
    cpdef release(self)


cdef class Condition(Lock):
    cdef list waiting  # a locked lock for each thread; who notifies takes it out, and unlocks it
