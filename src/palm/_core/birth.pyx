# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, freethreading_compatible=False
"""A fork whose child is a child of this process's parent."""

import os

from libc.errno cimport errno
from libc.stdint cimport int32_t
from libc.stdlib cimport exit
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

from palm._core.sibling cimport palm_sibling, palm_sibling_possible


cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Parent()
    void PyOS_AfterFork_Child()


def is_possible() -> bool:
    """True if this system can do it."""
    return palm_sibling_possible()


def fork_sibling(int fd) -> int:
    """Fork this process, which must have one thread only.

    Parameters
    ----------
    fd : int
        A file in memory. Its first four bytes become the pid, before the new process runs: who has the file too knows
        of it, even if this process dies before it can tell.

    Returns
    -------
    int
        The pid; 0 in the new process, whose parent is this one's parent.

    Raises
    ------
    OSError
        There is no new process.
    """
    cdef int32_t *told = <int32_t *> mmap(NULL, sizeof(int32_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    cdef int32_t pid
    cdef int why
    if told == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    PyOS_BeforeFork()
    pid = palm_sibling(told)
    why = errno
    if pid == 0:
        PyOS_AfterFork_Child()
    else:
        PyOS_AfterFork_Parent()
    munmap(told, sizeof(int32_t))
    if pid < 0:
        raise OSError(why, os.strerror(why))
    return pid


def end(int code):
    """The process ends, and the interpreter is not taken apart. What C has to do at the end, handlers and buffers, is done."""
    exit(code)
