# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, freethreading_compatible=False
"""This process's shared memory: opened once, at the first use; numpy's hook into it; who holds what."""

import os
import time

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdio cimport _IOLBF, setvbuf, stdout
from libc.string cimport memcpy

from palm._core.cpalm cimport *
from palm._core.nep49 cimport PALM_NEP49_THRESHOLD, palm_nep49_install, palm_nep49_restore, palm_nep49_setup, palm_nep49_whose

cdef palm_space *the_space = NULL
cdef palm_pulse *the_pulse = NULL
cdef long the_pid = 0


class CoreError(RuntimeError):
    """A call of the core failed for a reason that has no exception of Python's own; `code` is the name of its enumerator."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code

    def __reduce__(self):  # of a pool's worker, to whoever waits for it
        return type(self), (*self.args, self.code)


LENT = PALM_NEP49_THRESHOLD  # bytes from which on arrays lie in shared memory

# One table from codes to exceptions; everything else is a CoreError.
EXCEPTIONS = {
    PALM_ENOMEM: MemoryError, PALM_EINVAL: ValueError, PALM_EINTR: InterruptedError,
    PALM_EAGAIN: BlockingIOError,
}


def error(int code):
    """The exception for a palm_err."""
    cdef bytes text = palm_strerror(<palm_err> code)
    message = text.decode()
    if code > PALM_ESYS:
        return OSError(code - PALM_ESYS, message)
    if code in EXCEPTIONS:
        return EXCEPTIONS[code](message)
    name = palm_errname(<palm_err> code)
    return CoreError(message, (<bytes> name).decode() if name != NULL else str(code))


cdef int check(palm_err err) except -1:
    if err != PALM_OK:
        raise error(err)
    return 0


cdef int whose(object arr) noexcept:
    return palm_nep49_whose(arr)


def open_space(uint64_t bound=0, bint no_arena=False):
    """Open this process's shared memory and start its pulse; without effect where that was done before.

    Parameters
    ----------
    bound : int
        Bytes that arrays of this process may fill; 0: a share of what the cgroup or the machine has.
    no_arena : bool
        Use heap and frames alone.
    """
    global the_space, the_pulse, the_pid
    cdef palm_space_options options
    if the_space != NULL:
        if the_pid != os.getpid():
            raise error(PALM_EFORK)
        if the_pulse == NULL:  # there was no thread to be had
            check(palm_pulse_start(the_space, &the_pulse))
        return
    options.bound = bound
    options.floor = 0
    options.idle_ns = 0
    options.no_arena = no_arena
    check(palm_space_open(&options, &the_space))
    the_pid = os.getpid()
    palm_nep49_setup(the_space)
    check(palm_pulse_start(the_space, &the_pulse))


cdef palm_space *space() except NULL:
    if the_space == NULL or the_pulse == NULL or the_pid != os.getpid():
        open_space()
    return the_space


cdef palm_counters *counters() except NULL:
    return <palm_counters *> palm_space_page(space())


cdef palm_pulse *pulse() except NULL:
    space()
    return the_pulse


def has_arena() -> bool:
    """True if arrays of this process can lie in shared memory."""
    return palm_space_has_arena(space())


def identity() -> tuple:
    """(pid, fd) by which others can read this process's page of counters."""
    cdef palm_identity me
    palm_space_identity(space(), &me)
    return me.pid, me.fd, me.arena_hi, me.arena_lo


def stats() -> dict:
    """The state of the space: bytes and blocks by who holds them (R27)."""
    cdef palm_space_stats s
    palm_space_get_stats(space(), &s)
    return s


def tick(uint64_t now_ns):
    """What the pulse does ten times a second, now: for tests."""
    palm_space_tick(space(), now_ns)


def watch_owner(int fd, int grace_ms, str unlink_path):
    """End this process when the write end of the pipe `fd` is closed: softly at once, hard after `grace_ms` (R15)."""
    cdef bytes path = os.fsencode(unlink_path)
    palm_pulse_watch_owner(pulse(), fd, grace_ms, path)


def ask_for_gil(int fd):
    """Write to this eventfd while a function runs for long, so that somebody takes the GIL, and then calls `had_gil`. -1:
    no longer."""
    palm_pulse_ask(pulse(), fd)


def had_gil():
    palm_gauge(&counters().gil_had_ns, <uint64_t> time.monotonic_ns())


def relieve(int fd):
    """`fd` is a pipe into which this process prints, and its number the process's: when it stays full for a second, the
    pulse empties it, so that nobody waits for ever for who has to read it."""
    cdef int own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK)
    palm_pulse_relieve(pulse(), own)


def buffer_lines():
    """C's stdout is to be written line by line, though it is no terminal: what was printed before a crash is there."""
    setvbuf(stdout, NULL, _IOLBF, 0)


def zmq_load(str path):
    """Resolve libzmq from the shared object at `path`; the name of what is missing, or None."""
    cdef const char *missing = NULL
    cdef bytes p = os.fsencode(path)
    cdef palm_err err = palm_zmq_load(p, &missing)
    if missing != NULL:
        return (<bytes> missing).decode()
    check(err)
    return None


def zmq_version() -> tuple:
    cdef int major = 0, minor = 0, patch = 0
    palm_zmq_version(&major, &minor, &patch)
    return major, minor, patch


def zmq_has(str capability) -> bool:
    return palm_zmq_has(capability.encode())


cdef class arena:
    """Context manager: arrays that numpy makes in it, in this thread, are born in shared memory.

    They are sent without a copy even while you keep them: do not write to an array after you have sent it, for the
    receiver reads the same memory. Arrays below 8 KiB stay on the heap; so do all when the arena is full.

    Parameters
    ----------
    shared : bool
        False, as in servers: arrays that are kept by whoever made them are copied when they are sent.
    """
    cdef bint shared
    cdef list before

    def __init__(self, bint shared=True):
        self.shared = shared
        self.before = []

    def __enter__(self):
        space()
        self.before.append(palm_nep49_install(self.shared))
        return self

    def __exit__(self, *exc):
        palm_nep49_restore(self.before.pop())
        return None


cdef class Holder:
    """What keeps the memory of a received array: one reference of a block, or of the frames of a message."""

    def __cinit__(self):
        self.arena = NULL
        self.frames = NULL

    def __init__(self):
        raise TypeError("made by the core alone")

    @staticmethod
    cdef Holder of_block(palm_arena *arena, uint32_t index):
        cdef Holder holder = Holder.__new__(Holder)
        holder.arena = arena
        holder.index = index
        return holder

    @staticmethod
    cdef Holder of_frames(palm_frames *frames):
        cdef Holder holder = Holder.__new__(Holder)
        palm_frames_hold(frames)
        holder.frames = frames
        return holder

    def __dealloc__(self):
        if self.arena != NULL:
            palm_block_drop(self.arena, self.index)
        if self.frames != NULL:
            palm_frames_drop(self.frames)


cdef uint64_t idle_ns(const palm_counters *c):
    """With what it has slept since it last woke; in this order, so that it is never counted twice."""
    cdef uint64_t slept = c.idle_ns, since = c.sleeps_since_ns, now = <uint64_t> time.monotonic_ns()
    return slept + (now - since if since and now > since else 0)


cdef dict counters_dict(const palm_counters *c):
    cdef dict d = {
        "messages_in": c.messages_in, "messages_out": c.messages_out, "bytes_in": c.bytes_in, "bytes_out": c.bytes_out,
        "bytes_copied": c.bytes_copied, "batches": c.batches, "errors": c.errors, "retries": c.retries,
        "rejected": c.rejected, "dropped": c.dropped, "queue_depth": c.queue_depth, "in_flight": c.in_flight, "busy_seconds": c.busy_ns / 1e9,
        "idle_seconds": idle_ns(c) / 1e9, "serves_since_ns": c.serves_since_ns,
        "sent_arena": c.sent_arena, "sent_inline": c.sent_inline, "sent_frames": c.sent_frames,
        "by_ring": c.by_ring, "by_socket": c.by_socket,
        "links": {"ring": c.links_ring, "socket": c.links_socket, "TCP": c.links_tcp},
        "copied_kept": c.copied_kept, "copied_foreign": c.copied_foreign, "copied_thread": c.copied_thread,
        "alloc_arena": c.alloc_arena, "alloc_small": c.alloc_small, "alloc_full": c.alloc_full,
        "stale": c.stale, "lost_links": c.lost_links, "pulse_ns": c.pulse_ns,
        "gil_asked_ns": c.gil_asked_ns, "gil_had_ns": c.gil_had_ns,
        "arena_in_use": c.arena_in_use, "arena_idle": c.arena_idle, "mapped": c.mapped, "memory_limit": c.memory.limit,
        "backlog": c.backlog + c.held, "unread": c.unread.envelopes, "unread_pid": c.unread.pid,
        "running_since_ns": c.at_work.since_ns, "running_number": c.at_work.number, "completed": c.at_work.completed,
    }
    cdef palm_waiting waiting
    if palm_wait_read(&c.waiting, &waiting):
        d["waiting_since_ns"] = waiting.since_ns
        d["waiting_for"] = (<bytes> waiting.servers).decode("utf-8", "replace").splitlines()
    functions = {}
    cdef int i
    for i in range(PALM_MAX_FUNCTIONS):
        if c.functions[i].name[0] == 0:
            break
        name = (<bytes> c.functions[i].name[:PALM_NAME_BYTES]).split(b"\0")[0].decode("utf-8", "replace")
        functions[name] = {
            "calls": c.functions[i].calls, "busy_seconds": c.functions[i].busy_ns / 1e9,
            "service_time": {"le_seconds": [2.0**k / 1e9 for k in range(PALM_HISTOGRAM - 1)] + [None],
                             "counts": [c.functions[i].histogram[k] for k in range(PALM_HISTOGRAM)]},
        }
        if c.at_work.since_ns and c.at_work.function == <uint64_t> i:
            d["running"] = name
    d["functions"] = functions
    d["own"] = own_dict(c)
    return d


cdef dict own_dict(const palm_counters *c):
    """Those of the user: a total, or as `service_time` above."""
    cdef palm_own_counter own
    cdef dict found = {}
    cdef double total
    cdef uint32_t i = 0
    while palm_own_read(c, i, &own):
        memcpy(&total, &own.sum, sizeof(total))
        name = (<bytes> own.name).decode("utf-8", "replace")
        found[name] = total if own.kind == PALM_OWN_COUNTER else {
            "count": own.count, "sum": total,
            "le": [2.0 ** (PALM_OWN_LEAST + k) for k in range(PALM_OWN_BUCKETS - 1)] + [None],
            "counts": [own.histogram[k] for k in range(PALM_OWN_BUCKETS)],
        }
        i += 1
    return found


cdef add_own(palm_own_kind kind, str name, double value):
    cdef bytes n = name.encode()
    cdef palm_err err = palm_own_add(counters(), kind, n, len(n), value)
    if err == PALM_ELIMIT:
        raise ValueError(f"there are {PALM_MAX_OWN} counters and histograms of your own in this process: no {name!r} besides")
    if err:
        raise ValueError(f"{name!r} is longer than {PALM_NAME_BYTES - 1} bytes, or counts and observes at the same time")


def count_own(str name, double n):
    """Adds to a counter of the user's own, which others read off the page.

    Raises
    ------
    ValueError
        `n` is below 0 or no number; or the name is too long, of a histogram, or one too many.
    """
    if not n >= 0:
        raise ValueError(f"a counter only grows: {name!r} cannot be counted by {n!r}")
    add_own(PALM_OWN_COUNTER, name, n)


def observe_own(str name, double value):
    """The same of a histogram; a value that is no number (nan) is refused."""
    if value != value:
        raise ValueError(f"{name!r}: nan is in no bucket of a histogram")
    add_own(PALM_OWN_HISTOGRAM, name, value)


def wait_begin(servers: list) -> None:
    """The page says from now on that somebody here waits for room in one of these servers. One thread at a time."""
    cdef bytes names = "".join([name + "\n" for name in servers]).encode()
    palm_wait_begin(&counters().waiting, names, len(names), time.monotonic_ns())


def wait_end() -> None:
    """Nobody waits for room. One thread at a time."""
    palm_wait_end(&counters().waiting)


def limit_memory(uint64_t limit, uint64_t reserved) -> None:
    """This process's private memory is bounded from now on: by so many bytes, beside those that are reserved, and never
    touched."""
    palm_memory_limit_set(limit, reserved)


def keep_memory(uint64_t reserved, uint64_t most) -> None:
    """So many bytes are reserved by now, and not touched; `most` of what has come to them are added to the bound."""
    palm_memory_limit_keep(reserved, most)


def memory_room(bytes=None) -> None:
    """It may have so many more; None: as many as there are."""
    palm_memory_limit_room(<uint64_t> -1 if bytes is None else <uint64_t> bytes)


def trim_memory() -> None:
    """What malloc has free goes back; its addresses stay."""
    palm_memory_limit_trim()


def memory_had() -> int:
    """Bytes that there are of those that are bounded."""
    return palm_memory_limit_had()


def watch_memory(uint64_t limit) -> None:
    """The page says this bound, and what there was of it when the process dies of a signal."""
    palm_memory_watch(&counters().memory, limit)


def ended_for_want_of_memory() -> None:
    """Says the page of this process, which is about to end."""
    palm_memory_ended(&counters().memory, True)


def read_counters() -> dict:
    """This process's counters."""
    return counters_dict(counters())


cdef tuple _ENDS = ("", "overrun", "late", "unwanted")  # by palm_end


cdef class Page:
    """The page of counters of another process of this host, mapped: it can be read without disturbing that process, and
    after its death.

    Parameters
    ----------
    pid, fd : int
        A process that has the arena open, and as what.
    arena_hi, arena_lo : int
        The arena's id.

    Raises
    ------
    OSError, CoreError
        The process is gone, or its memory cannot be opened from here.
    """
    cdef const void *at

    def __cinit__(self, int32_t pid, int32_t fd, uint64_t arena_hi, uint64_t arena_lo):
        cdef palm_identity of_
        self.at = NULL
        palm_space_identity(space(), &of_)
        of_.pid, of_.fd, of_.arena_hi, of_.arena_lo = pid, fd, arena_hi, arena_lo
        check(palm_page_open(&of_, &self.at))

    def __dealloc__(self):
        palm_page_close(self.at)

    cdef const palm_counters *live(self) except NULL:
        if self.at == NULL:
            raise ValueError("the page is closed")
        return <const palm_counters *> self.at

    def close(self):
        """Let go of the memory, all of which a dead process's page keeps. Again: without effect."""
        palm_page_close(self.at)
        self.at = NULL

    def counters(self) -> dict:
        return counters_dict(self.live())

    def completed(self) -> int:
        """Executions that came to their end, and steps of generators."""
        return self.live().at_work.completed

    def ended(self):
        """Why the process has ended itself; exact when it is dead.

        Returns
        -------
        tuple or None
            "overrun", "late" or "unwanted"; True if what was at work then is to blame, and not what had begun in this very
            moment; and in how many seconds it had to be done. None: it has not.
        """
        cdef palm_at_work w
        palm_work_read(&self.live().at_work, &w)
        if not 0 < w.ended < len(_ENDS):
            return None
        return _ENDS[w.ended], w.since_ns != 0 and w.ended_since == w.since_ns, w.limit_ns / 1e9

    def memory(self) -> tuple:
        """The bound of the process's private memory, 0: none; how much it had when it died of a signal; and whether it
        died for want of memory."""
        cdef const palm_memory *m = &self.live().memory
        return m.limit, m.had, m.lacked != 0

    def at_work(self):
        """The message that is running, or was when the process died.

        Returns
        -------
        tuple or None
            Its name: job (16 bytes), hop, number, path as on the wire; then how many were executed together, and which
            attempt it is; and (number, path) of the last of those, by name, of which this is the first. None: idle.
        """
        cdef palm_at_work w
        if not palm_work_read(&self.live().at_work, &w):
            return None
        path = tuple([w.path[i] for i in range(w.path_count)])
        last = (w.last_number, tuple([w.last_path[i] for i in range(w.last_path_count)])) if w.together > 1 else (w.number, path)
        return (<const char *> w.job)[:16], w.hop, w.number, path, w.together, w.attempt, last


def read_counters_of(int32_t pid, int32_t fd, uint64_t arena_hi, uint64_t arena_lo) -> dict:
    """The counters of another process of this host, as `Page` finds them."""
    page = Page(pid, fd, arena_hi, arena_lo)
    try:
        return page.counters()
    finally:
        page.close()
