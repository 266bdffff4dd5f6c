# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True
"""Locks for what signal handlers must not interrupt: no handler runs in any of these calls, and none of them raises.

Python's own are not for that: a handler may raise between `threading.Condition.__enter__`'s two lines, which leaves the
lock locked for ever, and in `Lock.acquire`, which then has not locked (docs/decisions/signals.md).
"""

import threading
from threading import get_ident

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (NOWAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock,
                               PyThread_release_lock, PyThread_type_lock)

from palm._core.clock cimport now_ns

cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_trylock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

# A wait of the main thread is cut into slices of this length, so that a signal that comes just before one is seen soon.
cdef double SLICE = 0.05
cdef double LONG = 1.0

cdef object main_ident = threading.main_thread().ident


cpdef double monotonic() noexcept:
    """`time.monotonic`, without the way there."""
    return now_ns() * 1e-9


cpdef check_signals():
    """Runs the handlers of signals that have come, in the main thread; what they raise is raised here. Call it without
    locks: a handler may use whatever it likes."""
    PyErr_CheckSignals()


cdef class Lock:
    """To be held for moments only: who waits for it does not hear Ctrl-C. A mutex of pthread, since Python's lock reads the clock
    each time, to find that it is free."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cpdef acquire(self):
        if pthread_mutex_trylock(&self.mutex):
            with nogil:
                pthread_mutex_lock(&self.mutex)

    cpdef release(self):
        """Who calls it holds it."""
        pthread_mutex_unlock(&self.mutex)

    def locked(self):
        if pthread_mutex_trylock(&self.mutex):
            return True
        pthread_mutex_unlock(&self.mutex)
        return False

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, kind, value, traceback):  # named: `*exc` would be a tuple, made each time
        pthread_mutex_unlock(&self.mutex)


cdef class Sleeper:
    """A thread that waits: it takes the lock a second time, which whoever wakes it lets go of."""

    cdef PyThread_type_lock lock

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.lock, NOWAIT_LOCK)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef void wake(self):
        PyThread_release_lock(self.lock)


cdef class Condition(Lock):
    """A lock, and a wait for what changes under it."""

    def __cinit__(self):
        self.waiting = []

    def wait(self, double timeout):
        """With the lock, which is let go of meanwhile. Returns after a notification, after `timeout` seconds or sooner, or
        when a signal has come: look at what you wait for, and call `check_signals`."""
        cdef Sleeper mine = Sleeper.__new__(Sleeper)
        cdef double most = SLICE if get_ident() == main_ident else LONG
        cdef long long us = <long long> (max(0.0, min(timeout, most)) * 1e6)
        self.waiting.append(mine)
        pthread_mutex_unlock(&self.mutex)
        with nogil:
            PyThread_acquire_lock_timed(mine.lock, us, 1)
        self.acquire()
        if mine in self.waiting:
            self.waiting.remove(mine)

    def notify(self):
        """One of those who wait gets on; with the lock."""
        if self.waiting:
            (<Sleeper> self.waiting.pop(0)).wake()

    def notify_all(self):
        """All who wait get on; with the lock."""
        while self.waiting:
            (<Sleeper> self.waiting.pop(0)).wake()
