# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True
"""The iterator over what a job has brought: a message costs a call of C, not one of a Python method."""

import collections


cdef class Results:
    """Gives the last component of each tuple that is in `_taken`, oldest first; any number of threads at once.

    Subclasses have ``_take()``, which adds to it, or raises what ends the iteration.
    """

    cdef readonly object _taken
    cdef object popleft

    def __cinit__(self):
        self._taken = collections.deque()
        self.popleft = self._taken.popleft

    def __iter__(self):
        return self

    def __next__(self):
        while not len(self._taken):
            self._take()
        return (<tuple> self.popleft())[2]  # with the GIL since it was looked at, so it is still there
