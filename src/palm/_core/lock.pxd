# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass


cpdef double monotonic() noexcept
cpdef check_signals()


cdef class Lock:
    cdef pthread_mutex_t mutex

    cpdef acquire(self)
    cpdef release(self)


cdef class Condition(Lock):
    cdef list waiting  # a Sleeper for each thread; who notifies takes it out, and wakes it
