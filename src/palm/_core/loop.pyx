# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""The loop in which a server runs a function over the messages of an event, and what stands on its page meanwhile."""

import types

from numpy import ndarray

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cimport numpy as cnp

from palm._core.batch cimport Batch
from palm._core.clock cimport now_ns, tick
from palm._core.cpalm cimport *
from palm._core.node cimport FLUSH_NS, Event, Node, path_of
from palm._core.decode cimport get_value
from palm._core.encode cimport extend, put_value

cdef object Generator = types.GeneratorType

# Bytes of a result that are put so quickly that it need not be known how quickly.
cdef enum:
    LITTLE = 4096


# What takes less than QUICK_NS, its payload's way included, is timed by TOGETHER at a time: to read the clock costs a tenth of it.
# The kernel's tick, some ms long, costs a fifth of that: it tells when one of them took long.
cdef enum:
    QUICK_NS = 1000
    TOGETHER = 16

# Whose fault it is if something is raised: a message's that has failed, or PALM's own.
ctypedef enum Whose:
    HOST, FUNCTION, RESULT

cdef struct Watch:
    palm_counters *c
    palm_function_counters *f
    bint alone       # one by one
    uint64_t read    # when the clock was last read
    uint64_t tick    # the kernel's, then
    uint32_t unread  # executions that have ended since then
    uint64_t usual   # ns that one took of late


cdef uint64_t begun(Watch *w, bint goes_on) noexcept nogil:
    """When the next execution begins. `goes_on`: what happened since the last one ended is its time, or this one's. No two
    begin at the same time, since that is what they are known by."""
    if not goes_on:
        settle(w)
        w.read, w.tick = now_ns(), tick()
    return w.read + w.unread


cdef uint64_t ended(Watch *w, bint look) noexcept nogil:
    """One is over: when. `look`: what follows is not to count as its time."""
    w.unread += 1
    if look or w.alone or w.unread == TOGETHER or w.usual >= QUICK_NS or tick() != w.tick:
        count_unread(w, now_ns())
    return w.read


cdef void settle(Watch *w) noexcept nogil:
    """What follows is nobody's time."""
    if w.unread:
        count_unread(w, now_ns())


cdef void count_unread(Watch *w, uint64_t now) noexcept nogil:
    """Of several that took longer than usual, it was one: such are rare, and else would be timed alone."""
    cdef uint64_t took = now - w.read
    cdef uint64_t each = min(w.usual, took // w.unread)
    if w.unread > 1:
        palm_count_calls(w.f, w.unread - 1, each)
    palm_count_call(w.f, took - (w.unread - 1) * each)
    palm_tally(&w.c.busy_ns, took)
    w.usual, w.read, w.tick, w.unread = took // w.unread, now, tick(), 0


cdef bint is_little(object result) noexcept:
    """It is put so quickly that it need not be known how quickly."""
    t = type(result)
    if t is bytes:
        return PyBytes_GET_SIZE(result) < LITTLE
    if t is ndarray:
        return cnp.PyArray_NBYTES(<cnp.ndarray> result) < LITTLE
    return t is int or t is float or t is bool


cdef bint is_late(uint64_t deadline) noexcept nogil:
    cdef timespec t
    if deadline == 0:
        return False
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t> t.tv_sec * 1000000000 + <uint64_t> t.tv_nsec > deadline


cdef class Place:
    """What a host's function works on.

    Attributes
    ----------
    at : int
        The record; -1: none.
    event : Event or None
        It is one of this.
    assignment : object
        What the event's handle means; None: nothing is at work.
    message : object
        What the host has found out of the record; None: nothing yet.
    """

    def __cinit__(self):
        self.at = -1

    cpdef begin(self, event, assignment):
        self.event, self.assignment = event, assignment

    cpdef end(self):
        self.event = self.assignment = self.message = None
        self.at = -1


cdef class Work:
    """What executions of one step of a job have in common.

    Parameters
    ----------
    job : bytes
        16 of them.
    hop, index : int
        The step's, and the function's number, by which it is counted.
    client : int
        The link to who waits for it; 0: nobody knows.
    limit : float
        Seconds that an execution may take; 0: any time.
    """

    def __cinit__(self, bytes job not None, uint32_t hop, uint32_t index, uint32_t client=0, double limit=0):
        if len(job) != 16:
            raise ValueError(f"a job's name has 16 bytes, not {len(job)}")
        self.job, self.hop, self.index, self.client = job, hop, index, client
        self.limit_ns = <uint64_t> (limit * 1e9)

    def begin(self, Node node not None, uint64_t number, tuple path not None):
        """From now on the message of this name is at work, in place of the one that was."""
        cdef uint64_t[PALM_MAX_PATH] components
        cdef Py_ssize_t k, n = len(path)
        if n > PALM_MAX_PATH:
            raise ValueError(f"a path of {n} components")
        for k in range(n):
            components[k] = path[k]
        palm_work_begin(&node.c.at_work, number, components, <uint32_t> n, now_ns())

    cdef void on(self, palm_counters *c, uint32_t together=1) noexcept:
        palm_work_on(&c.at_work, <const uint8_t *> <const char *> self.job, self.hop, self.index, together, self.client)


cdef bint is_to_run(Event event, uint32_t i, host, dict kept, dict refused, set given_up) except -1:
    """False if record i is no message, or one that is not run, as `run` says; then the host has been told."""
    cdef const palm_record *r = &event.event.envelope.records[i]
    if r.form > PALM_TREE:
        return False
    if given_up and r.number in given_up:
        return False
    if kept and (r.number, path_of(&event.event, r)) in kept and host.again(i):
        return False
    if is_late(r.deadline):
        host.late(i)
        return False
    if refused is not None and (r.number, path_of(&event.event, r)) in refused:
        host.refuse(i)
        palm_work_end(&event.node.c.at_work, True)  # a message less that kills: the server gets on
        return False
    return True


cpdef bint run(Event event, uint32_t first, uint32_t end, function, int parameters, Work work, Batch out, host, special, dict kept,
               dict refused, dict tried, set given_up) except -1:
    """Call `function` with the messages `first` to `end` - 1 of the event and put what it returns into `out`. True: each
    has given a result, and the host had nothing to do but to `spread`.

    What is not simple is the host's: ``host.make(i, generator or instance of special)``, ``host.drop(i)``,
    ``host.fail(i, exception)``, ``host.late(i)`` where the deadline has passed before it was begun; the host's `place` has
    the number of the record while its function runs. ``host.spread(function, value)`` calls a function that has
    not exactly one parameter, or gets an empty message. ``host.flush()`` is called when `out` should go; False: the rest is
    not wanted any more. Messages whose (number, path) is in `kept`, since this server may have made many of them already,
    are not run if ``host.again(i)`` says so; those in `refused` are ``host.refuse(i)``'s. `tried`: how often a message has
    been run before, by (number, path), where that is not never. Inputs whose number is in `given_up` are passed over.

    While a message is at work, its name stands in the page of counters: job, hop, number and path. It stays there
    when the process dies of it, by an exception too that is none of Exception.
    """
    if event is None or work is None or out is None:
        raise TypeError("no event, work or batch")
    cdef palm_counters *c = event.node.c
    cdef const palm_record *r
    cdef uint32_t i = first, attempt, attempt_before = 0
    cdef uint64_t put, over = now_ns(), flushed = over, deadline_before = 0
    cdef bint completed, look
    cdef bint goes_on = True  # since the last one ended, next to nothing was done
    cdef bint plain = True
    cdef Whose whose = HOST
    cdef Watch watch
    cdef Place place = host.place
    if end > event.event.envelope.n_records:
        raise IndexError(f"record {end} of {event.event.envelope.n_records}")
    watch.c, watch.f = c, &c.functions[min(work.index, PALM_MAX_FUNCTIONS - 1)]  # the last is for all others
    watch.read, watch.tick, watch.unread, watch.usual = over, tick(), 0, QUICK_NS
    watch.alone = work.limit_ns != 0  # whoever sees to the limit wants to know when it began
    work.on(c)
    while i < end:
        try:  # around all of them: to enter it takes as long as to receive a message
            while i < end:
                if over - flushed > FLUSH_NS or palm_batch_full(out.batch):  # after the last one it goes anyway
                    settle(&watch)
                    plain = goes_on = False
                    if not host.flush():
                        end = i
                        break
                    flushed = over
                r = &event.event.envelope.records[i]
                place.at = i
                if r.form > PALM_TREE or r.deadline or given_up or kept or refused is not None:
                    if not is_to_run(event, i, host, kept, refused, given_up):
                        goes_on = plain = False
                        i += 1
                        continue
                attempt = 1 + tried.get((r.number, path_of(&event.event, r)), 0) if tried else 1
                if attempt != attempt_before or r.deadline != deadline_before:
                    palm_work_terms(&c.at_work, attempt, work.limit_ns, 0, r.deadline)
                    attempt_before, deadline_before = attempt, r.deadline
                palm_work_begin(&c.at_work, r.number, event.event.envelope.paths + r.path_at if r.path_count else NULL,
                                r.path_count, begun(&watch, goes_on))
                if not watch.unread:
                    palm_gauge(&c.queue_depth, end - i - 1)
                completed, goes_on = True, False
                whose = FUNCTION
                if parameters == 1 and r.form != PALM_NOTHING:
                    result = function(get_value(&event.event, i, event.holders))
                else:
                    result = host.spread(function, get_value(&event.event, i, event.holders))
                whose = HOST
                look = not is_little(result)
                over = ended(&watch, look)
                if not look and not r.path_count and extend(out.batch, result, r.number, r.deadline):
                    goes_on = True
                elif result is None:
                    plain = False
                    host.drop(i)
                elif look and (type(result) is Generator or type(result) is special):
                    completed, plain = type(result) is not Generator, False  # nothing of it has run yet
                    host.make(i, result)
                else:
                    put = palm_batch_bytes(out.batch)
                    whose = RESULT
                    put_value(out.batch, result, 1, r.number, r.deadline,
                              path_of(&event.event, r) if r.path_count else None, 0)
                    whose = HOST
                    goes_on = palm_batch_bytes(out.batch) - put < LITTLE
                result = None
                palm_work_end(&c.at_work, completed)
                i += 1
        except Exception as e:
            if whose == HOST:
                raise
            if whose == FUNCTION:
                over = ended(&watch, True)
            else:
                settle(&watch)
            whose, plain, result = HOST, False, None
            host.fail(i, e)
            palm_work_end(&c.at_work, True)
            i += 1
    settle(&watch)
    palm_gauge(&c.queue_depth, 0)
    place.at = -1
    return plain


def forward(Event event not None, uint32_t first, uint32_t most, Batch out not None, host, dict refused, set given_up):
    """Put the messages from `first` on into `out` as they are, for another process to work on; returns the number of the
    first one that is not dealt with: `most` were added, or `out` is full, or that was the last.

    ``host.late(i)``, ``host.refuse(i)``, ``host.fail(i, exception)`` (a block cannot be taken), `refused` and `given_up`
    are as in `run`.
    """
    cdef const palm_record *r
    cdef uint32_t i = first, n = 0, took
    cdef Place place = host.place
    cdef bint each = given_up or refused is not None  # one by one: something has to be asked of each
    while i < event.event.envelope.n_records and n < most and not palm_batch_full(out.batch):
        r = &event.event.envelope.records[i]
        place.at = i
        took = 1
        if r.form > PALM_TREE or (given_up and r.number in given_up):
            pass
        elif is_late(r.deadline):
            host.late(i)
        elif refused is not None and (r.number, path_of(&event.event, r)) in refused:
            host.refuse(i)
        else:
            took = hand_on(event, i, 1 if each else most - n, out, host)
            n += took
            took = max(took, 1)
        i += took
    place.at = -1
    return i


cdef uint32_t hand_on(Event event, uint32_t i, uint32_t most, Batch out, host) except 0xFFFFFFFF:
    """Message i, and of those that follow it in a run as many as can go with it; returns how many. 0: it has failed."""
    cdef const palm_record *r = &event.event.envelope.records[i]
    cdef uint32_t took = 0
    cdef palm_err err = palm_batch_relay(out.batch, &event.event, i, most, &took)
    if err == PALM_OK:
        return took
    try:
        value = get_value(&event.event, i, event.holders)
        put_value(out.batch, value, 0, r.number, r.deadline, path_of(&event.event, r) if r.path_count else None, 0)
    except Exception as e:
        host.fail(i, e)
        return 0
    return 1


def advance(generator, Batch out not None, uint64_t number, tuple path not None, uint64_t deadline, special,
            Node node not None, Work work not None, uint32_t attempt, uint64_t spent_ns):
    """Add what the generator yields next, under `path`; StopIteration when it ends. Returns what it yielded instead if
    that is None or an instance of `special`, which the caller has to deal with; else True.

    The message at work, as `run` has it, is the generator's own: its path is `path` without the last component. `spent_ns`:
    of the time that its execution may take.
    """
    cdef palm_counters *c = node.c
    cdef uint64_t[PALM_MAX_PATH] parent
    cdef uint64_t began
    cdef Py_ssize_t k, n = len(path) - 1
    if not 0 <= n <= PALM_MAX_PATH:
        raise ValueError(f"a path of {len(path)} components")
    for k in range(n):
        parent[k] = path[k]
    work.on(c)
    palm_work_terms(&c.at_work, attempt, work.limit_ns, spent_ns, deadline)
    began = now_ns()
    palm_work_begin(&c.at_work, number, parent, <uint32_t> n, began)
    try:
        value = next(generator)
        if value is not None and type(value) is not special:
            put_value(out.batch, value, 1, number, deadline, path, 0)
            value = True
    except Exception:
        step_ended(c, work, began)
        raise
    step_ended(c, work, began)
    return value


cdef void step_ended(palm_counters *c, Work work, uint64_t began) noexcept:
    cdef uint64_t took = now_ns() - began
    palm_tally(&c.busy_ns, took)
    palm_count_step(&c.functions[min(work.index, PALM_MAX_FUNCTIONS - 1)], took)  # the last is for all others
    palm_work_end(&c.at_work, True)
