# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""A process on the wire, and what it receives."""

import os
import struct
import sys
import threading

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strncpy
from posix.time cimport nanosleep, timespec

from palm._core.book cimport Book
from palm._core.clock cimport now_ns
from palm._core.cpalm cimport *
from palm._core.decode cimport get_value, is_plain_number
from palm._core.encode cimport are_rows
from palm._core.results cimport ResultQueue
from palm._core.space cimport check, counters, pulse, space
from palm._core.stack cimport get_rows

from palm._core.batch import Batch  # for those who have a node
from palm._core.decode import BlockLost

# What events and records say; the numbers of palm_node.h and palm_envelope.h
MESSAGE, READY, GONE, WAKE, STOP = (PALM_EVENT_MESSAGE, PALM_EVENT_READY, PALM_EVENT_GONE, PALM_EVENT_WAKE,
                                    PALM_EVENT_STOP)
OPEN, DATA, FORGET, CANCEL, RELEASE = PALM_OPEN, PALM_DATA, PALM_FORGET, PALM_CANCEL, PALM_RELEASE
TREE = PALM_TREE
DROP, CLOSE, ERROR, ASK, LOST, ASIDE, REDUCED = (PALM_DROP, PALM_CLOSE, PALM_ERROR, PALM_ASK, PALM_LOST, PALM_ASIDE,
                                                  PALM_REDUCED)
DROP_SLOW = PALM_DROP_SLOW  # `count` of a DROP: why
MAX_PATH, MAX_STEPS, LITTLE_PART = PALM_MAX_PATH, PALM_MAX_STEPS, PALM_LITTLE_PART
TRACKED = bool(PALM_TRACKED)  # False: a build to measure against, which keeps nothing

# A wait is cut into slices of this length, so that a signal that comes just before one is seen within it.
# Who need not look for signals, since it is not the main thread or they wake it, waits longer: each time costs 0.1 ms.
cdef enum:
    SLICE_MS = 50
    LONG_SLICE_MS = 5000

# Bytes that are sent in less time than it takes to let go of the GIL and take it again.
cdef enum:
    LITTLE = 4096

cdef unsigned long main_ident = threading.main_thread().ident


cdef void sleep_ms() noexcept nogil:
    cdef timespec t
    t.tv_sec = 0
    t.tv_nsec = 1000000
    nanosleep(&t, NULL)


cdef int copy_key(uint8_t *to, bytes key) except -1:
    if len(key) != PALM_KEY_BYTES:
        raise ValueError(f"a key has {PALM_KEY_BYTES} bytes, not {len(key)}")
    memcpy(to, <const char *> key, PALM_KEY_BYTES)
    return 0


def allow(list keys):
    """Whose public keys, 32 bytes each, nodes of this process with keys let in from now on; at first nobody's."""
    cdef bytes joined = b"".join(keys)
    if len(joined) != len(keys) * PALM_KEY_BYTES:
        raise ValueError(f"keys have {PALM_KEY_BYTES} bytes each")
    check(palm_gate_allow(<const uint8_t (*)[32]> <const char *> joined, <uint32_t> len(keys)))


cdef class Node:
    """One inbound socket, and a link to each peer that this process sends to.

    Parameters
    ----------
    endpoint : str
        Where to receive: ``ipc:///path`` or ``tcp://address:port``.
    name : str
        What peers see.
    frames : bool
        Send arrays in frames even to processes that could map them; no rings either.
    sockets : bool
        Send through libzmq's sockets alone, even to processes of this host.
    sleeping : bool
        Never wait awake for what is about to come in a ring.
    keys : tuple of bytes, optional
        Public and secret CURVE key, 32 bytes each: TCP is encrypted with them, and connects to no one without.
    serves : bool
        To wait here is to be idle, and counted as such: of one node in a process.

    Any thread may close it at any time. With the GIL held, `inside` counts the threads that are in a call of the core
    without it; once `closing` is set nobody goes in, and the node is freed when all have left.
    """

    def __cinit__(self, str endpoint, str name="", bint frames=False, bint sockets=False, bint sleeping=False, keys=None,
                  bint serves=False):
        cdef palm_node_options options
        cdef palm_keys pair
        cdef bytes e = endpoint.encode()
        cdef bytes n = name.encode()
        cdef uint32_t unsent = 0
        cdef palm_err err
        options.endpoint = e
        options.name = n
        options.space = space()
        options.frames = frames
        options.sockets = sockets
        options.sleeping = sleeping
        options.keys = NULL
        if keys is not None:
            copy_key(pair.public_key, keys[0])
            copy_key(pair.secret_key, keys[1])
            options.keys = &pair
        options.serves = serves
        with nogil:
            err = palm_node_open(&options, &self.node)
        check(err)
        self.c = counters()
        self.pid = os.getpid()
        err = palm_pulse_add(pulse(), self.node)
        if err:
            palm_node_close(self.node, 0, &unsent)
            self.node = NULL
        check(err)

    cdef palm_node *live(self) except NULL:
        if self.node == NULL or self.closing:
            raise ValueError("the node is closed")
        return self.node

    def close(self, int linger_ms=1000):
        """Flush up to `linger_ms`, then close; returns the number of envelopes given up. Again: without effect."""
        cdef palm_node *node
        cdef uint32_t unsent = 0
        if self.node == NULL or self.closing:
            return 0
        self.closing = True
        if self.pid != os.getpid():
            return 0
        palm_node_shut(self.node)
        while self.inside:
            if sys.is_finalizing():
                return 0  # those inside never come back for the GIL: the end of the process closes it
            with nogil:
                sleep_ms()
        node = self.node
        self.node = NULL
        palm_pulse_remove(pulse(), node)
        with nogil:
            palm_node_close(node, linger_ms, &unsent)
        return unsent

    def __dealloc__(self):
        cdef uint32_t unsent = 0
        if self.node != NULL and self.pid == os.getpid():
            palm_pulse_remove(pulse(), self.node)
            palm_node_close(self.node, 0, &unsent)

    @property
    def endpoint(self):
        return (<bytes> palm_node_endpoint(self.live())).decode()

    def link(self, str endpoint, int pid=0, bint named=False):
        """The number of the link to `endpoint`, opened if there is none. pid: whose death is its end, on this host. named: a
        peer wants it; of such, 256 are kept that nobody answers from."""
        cdef uint32_t number = 0
        cdef bytes e = endpoint.encode()
        cdef const char *at = e
        cdef palm_node *node = self.live()
        cdef palm_err err
        self.inside += 1
        with nogil:
            err = palm_node_link_named(node, at, pid, &number) if named else palm_node_link(node, at, pid, &number)
        self.inside -= 1
        if err == PALM_ECLOSED:
            self.live()
        check(err)
        return number

    def ready(self, uint32_t link):
        """True when the hand-shake is over."""
        return palm_node_link_state(self.live(), link, NULL) == PALM_LINK_READY

    def stands(self, uint32_t link):
        """False when the peer is gone, or known to be dead."""
        return palm_node_link_state(self.live(), link, NULL) != PALM_LINK_GONE

    cpdef bint send(self, uint32_t link, int kind, uint32_t handle, uint16_t hop, sent.Batch batch) except -1:
        """Send the batch, which is empty afterwards, gone or not. False: the link is gone."""
        cdef bint stands = self.send_kept(link, kind, handle, hop, batch)
        palm_batch_clear(batch.batch)
        return stands

    cpdef bint send_kept(self, uint32_t link, int kind, uint32_t handle, uint16_t hop, sent.Batch batch) except -1:
        """Send the batch, which stays as it is, to be sent again if need be. False: the link is gone."""
        cdef palm_node *node = self.live()
        cdef palm_err err
        if batch is None:
            raise TypeError("nothing to send")
        self.inside += 1
        if palm_batch_bytes(batch.batch) < LITTLE:
            err = palm_node_send(node, link, <palm_kind> kind, handle, hop, batch.batch)
        else:
            with nogil:
                err = palm_node_send(node, link, <palm_kind> kind, handle, hop, batch.batch)
        self.inside -= 1
        if err == PALM_ECLOSED:
            self.live()
            return False
        check(err)
        return True

    cpdef bint tell(self, uint32_t link, uint32_t handle, uint64_t number, uint32_t count) except -1:
        """Send a RELEASE of no ranges, which says `number` and `count`; in one call, since a worker does so after each
        message. False: the link is gone."""
        cdef sent.Batch told = sent.Batch.__new__(sent.Batch)
        cdef palm_record *r = NULL
        check(palm_batch_record(told.batch, PALM_BYTES, number, &r))
        r.count = count
        return self.send(link, PALM_RELEASE, handle, 0, told)

    cpdef Event next(self, double timeout, bint handlers=True):
        """The next event, or None after `timeout` seconds. Signal handlers run in between, in the main thread; with
        `handlers` false they do not, and None is returned sooner, so that the caller may run them."""
        cdef Event event = Event.__new__(Event)
        cdef palm_node *node = self.live()
        cdef palm_err err
        cdef uint64_t now = now_ns()
        cdef uint64_t end = now + <uint64_t> (timeout * 1e9)
        cdef int ms
        cdef uint64_t slice_ms = LONG_SLICE_MS if self.hears_signals or PyThread_get_thread_ident() != main_ident else SLICE_MS
        event.node = self
        while True:
            ms = <int> slice_ms if end > now + slice_ms * 1000000 else 0 if end <= now else <int> ((end - now + 999999) // 1000000)
            self.inside += 1
            with nogil:
                err = palm_node_next(node, ms, &event.event)
            self.inside -= 1
            if err == PALM_OK:
                if event.event.envelope.n_arrays:
                    event.holders = [None] * (event.event.envelope.n_blocks + 1)
                return event
            if err == PALM_ECLOSED:
                self.live()
            if err != PALM_EAGAIN and err != PALM_EINTR:
                check(err)
            if not handlers:
                return None
            PyErr_CheckSignals()
            node = self.live()  # a handler may have closed it
            now = now_ns()
            if now >= end and err != PALM_EINTR:  # else it has not looked
                return None

    def hear_signals(self):
        """From now on who handles signals wakes this node, so that its waits need not be cut into slices: returns the fd
        for `signal.set_wakeup_fd`."""
        self.hears_signals = True
        return palm_node_door(self.live())

    def wake(self):
        """Make `next` return a WAKE event; any thread."""
        if self.node != NULL:
            palm_node_wake(self.node)

    def stop(self):
        """Make `next` return a STOP event; any thread."""
        if self.node != NULL:
            palm_node_stop(self.node)

    @property
    def rejections(self):
        """How many messages were rejected."""
        return self.c.rejected

    @property
    def rejected(self):
        """(how many messages were rejected, why the last one was)"""
        return self.c.rejected, (<bytes> palm_node_rejected(self.live())).decode("utf-8", "replace")

    def limit(self, double grace):
        """From now on a function of this node that takes longer than it may ends the process; `grace`: seconds, of what is
        late or unwanted; negative: such is not ended (palm_pulse.h, palm_pulse_limit)."""
        palm_pulse_limit(pulse(), self.live(), -1 if grace < 0 else <int> (grace * 1000))

    def unwanted(self):
        """True if the pulse has seen that nobody waits for the message at work."""
        cdef uint64_t since = self.c.at_work.since_ns
        return since != 0 and self.c.at_work.unwanted_since == since

    def give_up(self):
        """Nobody waits for the message at work: its time of grace begins, if it has not."""
        if self.c.at_work.since_ns:
            palm_work_unwanted(&self.c.at_work, self.c.at_work.since_ns, now_ns())

    def name_functions(self, names):
        """Name the places in which service times are counted; at most 64."""
        cdef bytes n
        for i, name in enumerate(names[:PALM_MAX_FUNCTIONS]):
            n = name.encode()[:PALM_NAME_BYTES - 1]
            strncpy(self.c.functions[<int> i].name, n, PALM_NAME_BYTES - 1)

    def count(self, str counter, uint64_t n=1):
        if counter == "errors":
            palm_count(&self.c.errors, n)
        elif counter == "retries":
            palm_count(&self.c.retries, n)
        elif counter == "dropped":
            palm_count(&self.c.dropped, n)
        elif counter == "in_flight":
            palm_gauge(&self.c.in_flight, n)
        elif counter == "queue_depth":
            palm_gauge(&self.c.queue_depth, n)
        else:
            raise ValueError(counter)


@cython.final
@cython.freelist(8)  # one for each envelope: it holds nothing that could hold it
@cython.no_gc
cdef class Event:
    """What has come. Use `done` when its values are no longer read out of it; values themselves may be kept."""

    def __cinit__(self):
        memset(&self.event, 0, sizeof(self.event))

    def __dealloc__(self):
        if self.event.frames != NULL:  # else it has nothing
            palm_event_done(&self.event)

    cpdef done(self):
        """Let go of the message: what is still held are the values that were made of it."""
        self.holders = None
        palm_event_done(&self.event)

    @property
    def kind(self):
        return self.event.kind

    @property
    def link(self):
        return self.event.link

    @property
    def reason(self):
        return self.event.reason

    @property
    def nbytes(self):
        """Of payload: the body, and the arrays beside it."""
        cdef uint32_t i
        cdef uint64_t n = self.event.envelope.body_size
        for i in range(self.event.envelope.n_arrays):
            if self.event.envelope.arrays[i].place != PALM_IN_BODY:
                n += self.event.envelope.arrays[i].size
        return n

    @property
    def says(self):
        """The envelope's kind: OPEN, DATA, FORGET, CANCEL."""
        return self.event.envelope.kind

    @property
    def handle(self):
        return self.event.envelope.handle

    cpdef bint is_data(self) noexcept:
        """It brings messages."""
        return self.event.kind == PALM_EVENT_MESSAGE and self.event.envelope.kind == PALM_DATA

    cpdef tuple origin(self):
        """Link and handle: of whom it is, and what it means there."""
        return self.event.link, self.event.envelope.handle

    @property
    def hop(self):
        return self.event.envelope.hop

    def __len__(self):
        return self.event.envelope.n_records

    cdef const palm_record *at(self, Py_ssize_t i) except NULL:
        if not 0 <= i < self.event.envelope.n_records:
            raise IndexError(f"record {i} of {self.event.envelope.n_records}")
        return &self.event.envelope.records[i]

    def number(self, Py_ssize_t i):
        return self.at(i).number

    def form(self, Py_ssize_t i):
        return self.at(i).form

    def children(self, Py_ssize_t i):
        return self.at(i).count

    def deadline(self, Py_ssize_t i):
        return self.at(i).deadline

    def path(self, Py_ssize_t i):
        """The components of the message's path, each ``hop << 48 | index``."""
        return path_of(&self.event, self.at(i))

    def value(self, Py_ssize_t i):
        """The payload of record i; its arrays are read-only views of what was received.

        Raises
        ------
        BlockLost
            It cannot be read any more, or is none that this version knows.
        """
        self.at(i)
        return get_value(&self.event, <uint32_t> i, self.holders)

    def take_plain(self, Book book not None, ResultQueue results not None):
        """The common case of `outcomes`, without a Python call a message: results without a path, of inputs that are open,
        are settled in the book and added to `results`; runs of them as such.

        Returns
        -------
        list
            All others, as `outcomes` has them.
        """
        cdef uint32_t i = 0, end, limit, n, next_run = 0
        cdef list rest = []
        while i < self.event.envelope.n_records:
            while next_run < self.event.n_runs and self.event.runs[next_run].first < i:
                next_run += 1
            limit = self.event.runs[next_run].first if next_run < self.event.n_runs else self.event.envelope.n_records
            if limit == i:
                n = self.take_rows(book, &self.event.runs[next_run], results)
                i += n
                if n:
                    continue
                limit += self.event.runs[next_run].count
            end = self.plain_run(i, limit)
            if end - i > 1 and palm_book_are_open(book.book, self.event.envelope.records[i].number, end - i):
                i += self.take_run(book, i, end, results)
                if i == end:
                    continue
            end = max(end, i + 1)
            while i < end:
                self.take_one(book, i, results, rest)
                i += 1
        return rest

    cdef uint32_t take_rows(self, Book book, const palm_run *run, ResultQueue results) except? 0xFFFFFFFF:
        """A run of open inputs' results, made values when they are asked for; 0 if it is none such."""
        cdef const palm_record *r = &self.event.envelope.records[run.first]
        if not palm_book_are_open(book.book, r.number, run.count) or (r.form == PALM_TREE and not self.are_numbers(run)):
            return 0
        try:
            if r.form == PALM_ARRAY:
                rows = get_rows(&self.event, run.first, run, run.count, self.holders)
                if rows.ndim == 1 and not are_rows(rows):
                    return 0  # no numbers: what they are as scalars, `get_value` knows
                results.append_rows(r.number, rows)
            else:
                results.append_pieces(r.number, self.event.frames, self.event.envelope.body + r.body_at, r.body_size,
                                      run.count, r.form == PALM_TREE)
        except BlockLost:
            return 0
        palm_book_settle_all(book.book, r.number, run.count)
        return run.count

    cdef bint are_numbers(self, const palm_run *run) noexcept:
        cdef const palm_record *r = &self.event.envelope.records[run.first]
        cdef const uint8_t *body = self.event.envelope.body + r.body_at
        cdef uint32_t i
        for i in range(run.count):
            if not is_plain_number(body + i * r.body_size, r.body_size):
                return False
        return True

    cdef uint32_t plain_run(self, uint32_t first, uint32_t limit) noexcept:
        """Results without a path, from here on, whose numbers follow one another: the end of them, before `limit`."""
        cdef const palm_record *records = self.event.envelope.records
        cdef uint32_t i = first
        while (i < limit and records[i].form <= PALM_TREE and not records[i].path_count
               and records[i].number == records[first].number + (i - first)):
            i += 1
        return i

    cdef uint32_t take_run(self, Book book, uint32_t first, uint32_t end, ResultQueue results) except? 0xFFFFFFFF:
        """Results of inputs that are open, of which nothing need be asked one by one; how many, up to one whose payload
        cannot be read."""
        cdef const palm_record *records = self.event.envelope.records
        cdef uint32_t i = first
        try:
            while i < end:
                results.append((records[i].number, (), get_value(&self.event, i, self.holders)))
                i += 1
        except BlockLost:
            pass
        finally:
            if i > first:
                palm_book_settle_all(book.book, records[first].number, i - first)
        return i - first

    cdef int take_one(self, Book book, uint32_t i, ResultQueue results, list rest) except -1:
        cdef uint32_t verdict = 0
        cdef const palm_record *r = &self.event.envelope.records[i]
        if r.form > PALM_TREE or r.path_count:
            rest.append(self.outcome(i))
            return 0
        try:
            value = get_value(&self.event, i, self.holders)
        except BlockLost as e:
            rest.append((r.form, r.number, (), e, 0))
            return 0
        check(palm_book_settle(book.book, r.number, NULL, 0, &verdict))
        if verdict & PALM_BOOK_NEW:
            results.append((r.number, (), value))
        elif verdict & PALM_BOOK_CONTRADICTION:
            rest.append(self.outcome(i))  # who settles it finds that too
        return 0

    cdef tuple outcome(self, uint32_t i):
        cdef const palm_record *r = &self.event.envelope.records[i]
        try:
            value = get_value(&self.event, i, self.holders)
        except BlockLost as e:
            value = e
        return r.form, r.number, path_of(&self.event, r), value, r.count

    cpdef tuple settle_lone(self, Book book):
        """If all that this brings is one result without a path, of an input that is open: settles it in the book, and returns
        its number and value. Else None: `outcomes` tells of it."""
        cdef uint32_t verdict = 0
        cdef tuple found
        cdef const palm_record *r = self.event.envelope.records
        if self.event.envelope.n_records != 1 or r.form > PALM_TREE or r.path_count:
            return None
        if not palm_book_are_open(book.book, r.number, 1):
            return None
        try:
            found = r.number, get_value(&self.event, 0, self.holders)
        except BlockLost:
            return None
        check(palm_book_settle(book.book, r.number, NULL, 0, &verdict))
        return found

    cpdef list outcomes(self):
        """All records: a list of (form, number, path, value, count); for a payload that cannot be read, value is the
        BlockLost."""
        return [self.outcome(i) for i in range(self.event.envelope.n_records)]

    def releases(self):
        """What a RELEASE says: a list of (number, path, ranges, granted, over)."""
        cdef uint32_t i
        cdef const palm_record *r
        cdef list found = []
        for i in range(self.event.envelope.n_records):
            r = &self.event.envelope.records[i]
            ends = struct.unpack_from(f"<{r.body_size // 16 * 2}Q", <bytes> self.event.envelope.body[r.body_at:r.body_at + r.body_size])
            found.append((r.number, path_of(&self.event, r), list(zip(ends[::2], ends[1::2])), r.count, bool(r.flags & 1)))
        return found


cdef tuple path_of(const palm_event *event, const palm_record *r):
    if r.path_count == 0:
        return ()
    return tuple([event.envelope.paths[r.path_at + k] for k in range(r.path_count)])
