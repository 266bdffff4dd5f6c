# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from libc.stdint cimport uint32_t

from palm._core.cpalm cimport palm_arena, palm_counters, palm_err, palm_frames, palm_pulse, palm_space


cdef palm_space *space() except NULL
cdef palm_counters *counters() except NULL
cdef palm_pulse *pulse() except NULL
cdef int check(palm_err err) except -1
cdef int whose(object arr) noexcept


cdef class Holder:
    cdef palm_arena *arena
    cdef uint32_t index
    cdef palm_frames *frames

    @staticmethod
    cdef Holder of_block(palm_arena *arena, uint32_t index)

    @staticmethod
    cdef Holder of_frames(palm_frames *frames)
