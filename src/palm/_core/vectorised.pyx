# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""The loop in which a server runs a batch function: which messages of an envelope go into one call, and what became of
each of them."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from palm._core.batch cimport Batch
from palm._core.clock cimport now_ns
from palm._core.cpalm cimport *
from palm._core.loop cimport Work, is_late, is_to_run
from palm._core.node cimport FLUSH_NS, Event, path_of
from palm._core.decode cimport get_value
from palm._core.encode cimport NOBODY_ELSE, are_rows, put_message, put_rows, put_value
from palm._core.stack cimport Rows, alike, get_rows, get_stacked, is_let_go

from palm._core.stack import kind_of, stacked

# Bytes of results that go as one record; more go row by row, so that envelopes stay of a size that can be sent at all.
cdef enum:
    MOST_OF_A_RUN = 1 << 22

cdef object ARRAYS = object()  # the kind of messages that are an array each, and are compared where they lie


cdef int compared(const palm_event *event, const palm_record *a, const palm_record *b) noexcept:
    """The order of names: by number, then by path."""
    cdef uint32_t n
    cdef uint64_t p, q
    if a.number != b.number:
        return -1 if a.number < b.number else 1
    for n in range(min(a.path_count, b.path_count)):
        p, q = event.envelope.paths[a.path_at + n], event.envelope.paths[b.path_at + n]
        if p != q:
            return -1 if p < q else 1
    return <int> (a.path_count > b.path_count) - <int> (a.path_count < b.path_count)


cdef class Calls:
    """Those that are made of one envelope."""
    cdef Event event
    cdef palm_counters *c
    cdef palm_function_counters *f
    cdef Work work
    cdef Batch out
    cdef object function, spread, host, special, kept, given_up, pace
    cdef dict refused, tried
    cdef list alone
    cdef str what
    cdef int parameters
    cdef object members  # records of the next call: a range of them, if they are rows of `run`, else a list
    cdef list messages   # their values, a tuple each, if they are not ARRAYS
    cdef const palm_run *run
    cdef uint32_t next_run
    cdef uint64_t flushed

    cdef const palm_record *at(self, object i) noexcept:
        return &self.event.event.envelope.records[<uint32_t> i]

    cdef bint is_alone(self, uint32_t i) except -1:
        """It was run before, or with others of which one has ended the process."""
        if not self.tried and not self.alone:
            return False
        cdef tuple name = (self.at(i).number, path_of(&self.event.event, self.at(i)))
        if self.tried and name in self.tried:
            return True
        for first, last in self.alone or ():
            if first <= name <= last:
                return True
        return False

    cdef tuple read(self, uint32_t i):
        """The kind of a message, and its values; None: it fails by itself."""
        cdef palm_event *event = &self.event.event
        if self.at(i).form == PALM_ARRAY and self.parameters == 1 and event.envelope.arrays[self.at(i).array_at].ndim < PALM_MAX_DIMS:
            return ARRAYS, None
        try:
            message = self.spread(get_value(event, i, self.event.holders))
            return kind_of(message, self.what), message
        except Exception as e:
            self.host.fail(i, e)
            return None

    cdef const palm_run *run_at(self, uint32_t i) noexcept:
        """The run of which record i is one, or NULL."""
        cdef const palm_run *runs = self.event.event.runs
        while self.next_run < self.event.event.n_runs and runs[self.next_run].first + runs[self.next_run].count <= i:
            self.next_run += 1
        return &runs[self.next_run] if self.next_run < self.event.event.n_runs and runs[self.next_run].first <= i else NULL

    cdef bint are_plain(self, const palm_run *run) except -1:
        """Whether nothing has to be asked of each of its messages."""
        if run == NULL or self.parameters != 1 or self.kept or self.refused or self.tried or self.alone or self.given_up:
            return False
        return self.at(run.first).form == PALM_ARRAY and not is_late(self.at(run.first).deadline)

    cdef uint32_t gather(self, uint32_t i, uint32_t end) except *:
        """The members of the next call; returns from where on to look for those of the one after it."""
        self.run = self.run_at(i)
        if not self.are_plain(self.run):
            return self.gather_each(i, end)
        end = min(end, self.run.first + self.run.count, i + <uint32_t> self.pace.size)
        self.members, self.messages = range(i, end), []
        return end

    cdef uint32_t gather_each(self, uint32_t i, uint32_t end) except *:
        cdef object kind = None
        cdef Py_ssize_t most = self.pace.size
        cdef bint alone
        cdef tuple found
        self.members, self.messages = [], []
        while i < end and len(self.members) < most:
            if not is_to_run(self.event, i, self.host, self.kept, self.refused, self.given_up):
                i += 1
                continue
            alone = self.is_alone(i)
            if alone and self.members:
                break
            found = self.read(i)
            if found is None:
                i += 1
                continue
            if self.members and not self.is_like(i, kind, found[0]):
                break
            kind = found[0]
            self.members.append(i)
            if kind is not ARRAYS:
                self.messages.append(found[1])
            i += 1
            if alone:
                break
        return i

    cdef bint is_like(self, uint32_t i, kind, other) except -1:
        if kind is ARRAYS and other is ARRAYS:
            return alike(&self.event.event, self.members[0], i)
        return kind is not ARRAYS and other is not ARRAYS and kind == other

    cdef int begin(self, members) except -1:
        """The name on the page is the first one's; of several, those of all lie between it and the last one's."""
        cdef const palm_event *event = &self.event.event
        cdef const palm_record *first = self.at(members[0])
        cdef const palm_record *last = first
        cdef const palm_record *r
        cdef uint64_t deadline = first.deadline
        cdef uint32_t attempt = 1
        for i in members if type(members) is list else (members[len(members) - 1],):
            r = self.at(i)
            if compared(event, r, first) < 0:
                first = r
            if compared(event, r, last) > 0:
                last = r
            # the last of them says when nobody waits any more for any
            deadline = max(deadline, r.deadline) if deadline and r.deadline else 0
        if self.tried and len(members) == 1:
            attempt += self.tried.get((first.number, path_of(event, first)), 0)
        self.work.on(self.c, len(members))
        palm_work_terms(&self.c.at_work, attempt, self.work.limit_ns, 0, deadline)
        palm_work_upto(&self.c.at_work, last.number, event.envelope.paths + last.path_at, last.path_count)
        palm_work_begin(&self.c.at_work, first.number, event.envelope.paths + first.path_at, first.path_count, now_ns())
        return 0

    cdef object called(self, members, list messages):
        if messages:
            return self.function(*stacked(messages))
        if type(members) is range:
            return self.function(get_rows(&self.event.event, members[0], self.run, len(members), self.event.holders))
        return self.function(get_stacked(&self.event.event, members, self.event.holders))

    cdef bint call(self, members, list messages) except -1:
        """One call, and one for each member if it raises; False: the rest is not wanted any more."""
        cdef uint64_t began = now_ns()
        cdef bint fine = False
        result = None
        self.host.members = members
        self.begin(members)
        try:
            result = self.called(members, messages)
            fine = True
        except Exception as e:
            if len(members) == 1:
                self.host.fail(members[0], e)
        finally:
            self.host.members = ()
        self.count(members, now_ns() - began, fine)
        if fine:
            fine = self.put(members, result, is_let_go(<PyObject *> result))
            palm_work_end(&self.c.at_work, True)
            return fine and self.go_on()
        palm_work_end(&self.c.at_work, True)
        return self.go_on() and (len(members) == 1 or self.call_each(members, messages))

    cdef bint call_each(self, members, list messages) except -1:
        """So that nobody but the culprit fails."""
        for n, i in enumerate(members):
            if is_to_run(self.event, i, self.host, self.kept, self.refused, self.given_up):
                if not self.call([i], messages[n:n + 1]):
                    return False
        return True

    cdef int count(self, members, uint64_t took, bint fine) except -1:
        """A call of several is as many calls, each of its share of the time."""
        cdef Py_ssize_t k = len(members)
        palm_tally(&self.c.busy_ns, took)
        if fine or k == 1:
            palm_count_calls(self.f, k, took // <uint64_t> k)
        if fine:
            self.pace.tell(k, took * 1e-9)
        return 0

    cdef bint put(self, members, result, bint let_go) except -1:
        """Row n belongs to message n. False: the rest is not wanted any more."""
        cdef Rows rows
        cdef Py_ssize_t n
        if result is None:
            for i in members:
                self.host.drop(i)
            return True
        try:
            rows = Rows(result, len(members), self.what, let_go)
        except Exception as e:
            for i in members:
                self.host.fail(i, e)
            return True
        if type(members) is range and are_rows(result) and result.nbytes < MOST_OF_A_RUN and result.flags.c_contiguous:
            return self.put_run(members, result, let_go)
        for n in range(len(members)):
            self.put_row(members[n], rows, n, NOBODY_ELSE if let_go and not rows.is_taken_out else 1)
            if palm_batch_full(self.out.batch) and not self.host.flush():
                return False
        return True

    cdef bint put_run(self, members, rows, bint let_go) except -1:
        """All rows as one record; False as of `put`."""
        cdef const palm_record *r = self.at(members[0])
        if palm_batch_count(self.out.batch) + len(members) > PALM_MAX_RECORDS and not self.host.flush():
            return False
        try:
            put_rows(self.out.batch, rows, NOBODY_ELSE if let_go else 0, r.number, r.deadline)
        except Exception as e:
            for i in members:
                self.host.fail(i, e)
        return not palm_batch_full(self.out.batch) or self.host.flush()

    cdef int put_row(self, i, Rows rows, Py_ssize_t n, Py_ssize_t expected) except -1:
        cdef const palm_record *r = self.at(i)
        try:
            row = rows.row(n)
            if row is None:
                self.host.drop(i)
            elif type(row) is self.special:
                self.host.make(i, row)
            else:
                if r.path_count:
                    put_value(self.out.batch, row, expected, r.number, r.deadline, path_of(&self.event.event, r), 0)
                else:
                    put_message(self.out.batch, row, expected, r.number, r.deadline)
        except Exception as e:
            self.host.fail(i, e)
        return 0

    cdef bint go_on(self) except -1:
        cdef uint64_t now = now_ns()
        if now - self.flushed <= FLUSH_NS and not palm_batch_full(self.out.batch):
            return True
        self.flushed = now
        return self.host.flush()


def run_stacked(Event event not None, uint32_t first, uint32_t end, function, int parameters, spread, str what not None,
                Work work not None, Batch out not None, host, special, kept, dict refused, dict tried, given_up,
                list alone, pace):
    """As `loop.run`, for a batch function: it is called with several messages, each parameter's values stacked as an array.

    Parameters
    ----------
    spread : callable
        From a message to the tuple of its parameters' values.
    what : str
        The function, for errors.
    alone : list of (name, name)
        Messages between two names, both included, are executed one by one, and so are those in `tried`.
    pace : Pace
        Says how many go into one call, and is told how long it took.

    While the function runs, the host's `members` are its records. If it raises, each of them is executed alone once, so that
    only those fail in which it raises again.
    """
    if end > event.event.envelope.n_records:
        raise IndexError(f"record {end} of {event.event.envelope.n_records}")
    cdef Calls calls = Calls.__new__(Calls)
    cdef uint32_t i = first
    calls.event, calls.work, calls.out, calls.host, calls.special = event, work, out, host, special
    calls.function, calls.parameters, calls.spread, calls.what = function, parameters, spread, what
    calls.kept, calls.refused, calls.tried, calls.given_up = kept, refused, tried, given_up
    calls.alone, calls.pace = alone, pace
    calls.c = event.node.c
    calls.f = &calls.c.functions[min(work.index, PALM_MAX_FUNCTIONS - 1)]
    calls.flushed = now_ns()
    while i < end:
        i = calls.gather(i, end)
        palm_gauge(&calls.c.queue_depth, end - i)
        if calls.members and not calls.call(calls.members, calls.messages):
            break
    palm_gauge(&calls.c.queue_depth, 0)
