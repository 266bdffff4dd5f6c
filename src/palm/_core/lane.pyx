# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""The short way through a server: a message that comes alone, of whose handle all is known, is received, run and sent on with
no line of Python but its function's; and what has come meanwhile waits its turn here.

It does what `palm.host` and `palm.execution` do with such a message, and nothing else: what is not simple goes there.
"""

import collections

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from palm._core.clock cimport now_ns
from palm._core.cpalm cimport *
from palm._core.loop cimport run
from palm._core.node cimport FLUSH_NS

cdef enum:
    LOOK_AHEAD = 64  # envelopes taken off the queue while messages are worked on


cdef class Tally:
    """What a worker has done under one handle, as its leader is told.

    Attributes
    ----------
    done : int
        Messages.
    busy : int
        Nanoseconds that they took.
    """

    cpdef begin(self, uint64_t now):
        """An envelope, at `now` ns."""
        self.counted, self.since = 0, now

    cpdef bint end(self, uint64_t n, uint64_t now) noexcept:
        """`n` of its messages are done; False: that has been said."""
        if n == self.counted:
            return False
        self.done += n - self.counted
        self.busy += now - self.since
        self.counted, self.since = n, now
        return True

    cpdef tell(self, Node node, uint32_t link, uint32_t handle):
        node.tell(link, handle, self.busy, <uint32_t> self.done)


cdef class Way:
    """What messages of one handle are run with, and where their results go; whoever changes any of that shuts it.

    Parameters
    ----------
    assignment : object
        What the handle means to the host: ``function``, ``parameters``, ``work``, ``tried``, ``job.making`` and ``job.given_up``,
        as `palm._core.loop.run` has them (nothing is refused); ``reports``, whether the sender is told by ``tally`` what is
        done, ``asks``, whether it gets the results.
    outlet : object
        ``link``, ``handle`` and ``hop``, to which the results go in ``batch``, which is empty.
    """

    def __cinit__(self, assignment, outlet):
        self.assignment, self.function, self.parameters = assignment, assignment.function, assignment.parameters
        self.work, self.tried = assignment.work, assignment.tried
        self.making, self.given_up = assignment.job.making, assignment.job.given_up
        self.out, self.link, self.handle, self.hop = outlet.batch, outlet.link, outlet.handle, outlet.hop
        self.tally = assignment.tally if assignment.reports else None
        self.tells_first = not assignment.asks

    cdef bint run(self, Event event, Lane lane) except -1:
        """One event. False: it has not simply given a result, and the rest is the host's."""
        cdef bint plain
        cdef Node node = lane.node
        cdef Place place = lane.place
        cdef uint64_t began = now_ns()
        place.begin(event, self.assignment)
        if self.tally is not None:
            self.tally.begin(began)
        try:
            plain = run(event, 0, event.event.envelope.n_records, self.function, self.parameters, self.work, self.out, lane.host,
                        lane.special, self.making, None, self.tried, self.given_up)
            if plain:
                if self.tells_first:
                    self.tell(event, node)
                node.send(self.link, PALM_DATA, self.handle, self.hop, self.out)
                if not self.tells_first:
                    self.tell(event, node)
                event.done()
            else:
                lane.host.complete(event, self.assignment)
        finally:
            place.end()
        if now_ns() - began > FLUSH_NS:
            lane.look()
        return plain

    cdef tell(self, Event event, Node node):
        if self.tally is not None and self.tally.end(event.event.envelope.n_records, now_ns()):
            self.tally.tell(node, event.event.link, event.event.envelope.handle)


cdef class Lane:
    """Of one host.

    Parameters
    ----------
    node : Node
    place : Place
    host, special : object
        As `palm._core.loop.run` has them. ``host.complete(event, assignment)`` is called when a message has not simply
        given a result, ``host.notice(event)`` with what has come meanwhile, and brings no messages: it may end what waits.

    Attributes
    ----------
    has_the_rest : bool
        `take_the_rest` has been called.
    """

    def __cinit__(self, Node node not None, Place place not None, host, special):
        self.node, self.place, self.host, self.special, self.ways = node, place, host, special, {}
        self.backlog = collections.deque()

    @property
    def has_backlog(self):
        """Something has come before what the node has."""
        return bool(self.backlog)

    def open(self, uint32_t link, uint32_t handle, Way way not None):
        """What comes alone under this handle goes this way from now on."""
        self.ways[<uint64_t> link << 32 | handle] = way

    cpdef shut(self):
        """No handle's messages go this way: something has changed."""
        self.ways.clear()

    cpdef look(self):
        """At what has come while messages are worked on: what ends work is done at once, the rest waits its turn, as long
        as that is not more than `LOOK_AHEAD` envelopes. Not after `take_the_rest`."""
        while not self.has_the_rest and len(self.backlog) < LOOK_AHEAD and self.take():
            pass

    def take_the_rest(self):
        """All that has come, as `look` does; what comes from now on is not looked at."""
        while self.take():
            pass
        self.has_the_rest = True

    cdef bint take(self) except -1:
        cdef Event event = self.node.next(0.0)
        if event is None:
            return False
        if event.is_data():
            self.keep(event)
        else:
            self.shut()
            self.host.notice(event)
        return True

    cpdef keep(self, Event event):
        """It waits its turn."""
        if event is None:
            raise TypeError("no event")
        self.backlog.append(event)
        self.count_backlog(event.event.envelope.n_records)

    cdef void count_backlog(self, int64_t more) noexcept:
        self.in_backlog += more
        palm_gauge(&self.node.c.backlog, <uint64_t> self.in_backlog)

    def next(self, double patience, uint64_t rejected):
        """As `Node.next`, but for messages that go this way. An event of no kind: the host has to look what there is to do
        now. rejected: messages of which it has told that they were."""
        cdef Event event
        cdef Way way
        while True:
            event = self.first_of_backlog() if self.backlog else self.node.next(patience)
            way = self.way_of(event) if event is not None else None
            if way is None:
                return event
            if not way.run(event, self):
                break
            if not self.ways or self.node.c.rejected != rejected:
                break
            PyErr_CheckSignals()  # there may be no Python in between
        return Event.__new__(Event)

    cdef Event first_of_backlog(self):
        cdef Event event = self.backlog.popleft()
        self.count_backlog(-<int64_t> event.event.envelope.n_records)
        return event

    cdef Way way_of(self, Event event):
        cdef palm_event *e = &event.event
        if not self.ways or not event.is_data() or e.envelope.n_records != 1:
            return None
        way = <Way> self.ways.get(<uint64_t> e.link << 32 | e.envelope.handle)
        return way
