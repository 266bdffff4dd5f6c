# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
from palm._core.cpalm cimport palm_space


cdef extern from "nep49.h":
    enum:
        PALM_NEP49_THRESHOLD
    int palm_nep49_setup(palm_space *space) except -1
    object palm_nep49_install(int shared)
    int palm_nep49_restore(object handler) except -1
    int palm_nep49_whose(object arr) noexcept
