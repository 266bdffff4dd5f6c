# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True
"""Locks for what signal handlers must not interrupt: no handler runs in any of these calls, and none of them raises.

Python's own are not for that: a handler may raise between `threading.Condition.__enter__`'s two lines, which leaves the
lock locked for ever, and in `Lock.acquire`, which then has not locked (docs/decisions/signals.md).
"""

import threading
from threading import get_ident

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (NOWAIT_LOCK, WAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock,
                               PyThread_release_lock)

cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)

# A wait of the main thread is cut into slices of this length, so that a signal that comes just before one is seen soon.
cdef double SLICE = 0.05
cdef double LONG = 1.0

cdef object main_ident = threading.main_thread().ident


def check_signals():
    """Runs the handlers of signals that have come, in the main thread; what they raise is raised here. Call it without
    locks: a handler may use whatever it likes."""
    PyErr_CheckSignals()


cdef class Lock:
    """To be held for moments only: who waits for it does not hear Ctrl-C."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cpdef acquire(self):
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)

    cpdef release(self):
        """Who calls it holds it."""
        PyThread_release_lock(self.lock)

    def locked(self):
        if PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            PyThread_release_lock(self.lock)
            return False
        return True

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, kind, value, traceback):  # named: `*exc` would be a tuple, made each time
        PyThread_release_lock(self.lock)


cdef class Condition(Lock):
    """A lock, and a wait for what changes under it."""

    def __cinit__(self):
        self.waiting = []

    def wait(self, double timeout):
        """With the lock, which is let go of meanwhile. Returns after a notification, after `timeout` seconds or sooner, or
        when a signal has come: look at what you wait for, and call `check_signals`."""
        cdef Lock mine = Lock.__new__(Lock)
        cdef double most = SLICE if get_ident() == main_ident else LONG
        cdef long long us = <long long> (max(0.0, min(timeout, most)) * 1e6)
        PyThread_acquire_lock(mine.lock, NOWAIT_LOCK)
        self.waiting.append(mine)
        PyThread_release_lock(self.lock)
        with nogil:
            PyThread_acquire_lock_timed(mine.lock, us, 1)
        self.acquire()
        if mine in self.waiting:
            self.waiting.remove(mine)

    def notify(self):
        """One of those who wait gets on; with the lock."""
        if self.waiting:
            PyThread_release_lock((<Lock> self.waiting.pop(0)).lock)

    def notify_all(self):
        """All who wait get on; with the lock."""
        while self.waiting:
            PyThread_release_lock((<Lock> self.waiting.pop(0)).lock)
