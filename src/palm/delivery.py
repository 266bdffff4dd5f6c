# SPDX-License-Identifier: BSD-3-Clause
"""The client's half of delivery (docs/delivery.md): inputs are kept until they are done, and sent again after a loss.

The client is the only judge of what is done: its book has a tree of names for each input. Whoever notices a loss (a
link that is gone, a server that reports one) brings it here; everything unfinished is then repeated, in a new epoch, to
where the servers are now. Repeats are harmless, since the first outcome of a name counts.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm._core.book import OPEN, OVER
from palm._core.lock import Lock
from palm._core.node import CANCEL, DATA, RELEASE, TRACKED
from palm.connection import Connection, start_thread
from palm.errors import Crashed, Disconnected, NotFound, PalmError
from palm.ledger import Ledger
from palm.remote import NO_MESSAGE, Route

if TYPE_CHECKING:
    from palm.directory import Directory
    from palm.reduce_client import Reductions

SWEEP, SWEEP_BYTES = 4, 1 << 21  # envelopes kept beyond those that have to be, before they are looked through
MAX_CHILDREN = (1 << 32) - 1  # of a message: a RELEASE counts no further, whatever place a peer has made up
RANGES = 256  # of settled children that a keeper is told at a time: 4 KiB
LOSSES = 8  # of the same message, in a row, while nothing dies: then its block cannot be had, and it has failed
FRUITLESS = 16  # cuts of our own links to other hosts, in a row, after which nothing has come though all live
FRUITLESS_BEYOND = 64  # losses that servers tell of, likewise: a worker of theirs may have died, and the next one may
BREATH = 0.002  # seconds between a loss and the repeat: reports within it are one

Path = tuple[int, ...]
Keeper = tuple[int, int]  # who keeps a message's children: link to it, and its own handle for the job


class Delivery:
    """Of one job.

    Parameters
    ----------
    connection, directory
        By which servers are reached, and found again.
    route : Route
    seed : int
        Of the job's random numbers.
    fail : callable
        What to do when the route cannot be had any more; called with the connection's lock, and with a function that
        makes the exception for an input, given its number.
    calls : bool
        Inputs have nothing to do with each other, and there is no end of them.
    start : bool
        The only input stands for those that the first function yields.
    """

    def __init__(
        self,
        connection: Connection,
        directory: Directory | None,
        route: Route,
        seed: int,
        fail: Callable[[Callable[[int], PalmError]], None],
        *,
        calls: bool = False,
        start: bool = False,
    ) -> None:
        self.key = os.urandom(16)
        self.connection, self._directory, self._seed = connection, directory, seed
        self.route, self._link = route, route.link
        self._fail, self._calls, self.start = fail, calls, start
        self.ledger = Ledger()
        self.book = self.ledger.book
        self.sent = 0
        self.over = False
        self.stopped = False  # with `lock`
        self.lock = Lock()  # of sending; taken before the connection's, never after
        self.epoch = 0
        self._handle = connection.handle()
        self._kept: dict[int, core.Batch] = {}  # envelopes, by the first number
        self._kept_bytes = 0  # by all that was sent since they were looked through
        self._sweep_at, self._sweep_at_bytes = SWEEP, SWEEP_BYTES
        self._keepers: dict[tuple[int, Path], Keeper] = {}
        self._told: dict[Keeper, core.Batch] = {}
        self._losses: dict[tuple[int, Path], int] = {}
        self._recovering = self._lost_again = False
        self._found: tuple[Any, ...] = ()  # by the last repeat: what is open, and who is there
        self._fruitless, self._fruitless_most = 0, FRUITLESS  # repeats since then, and how many there may be
        self.reductions: Reductions | None = None

    def open(self) -> None:
        """Tells the first server of the job: what comes back may come at once."""
        owed = self.book.granted(0) if self.epoch else 0  # of a job without inputs, whose generator may be told to stop
        self._open(self.route, self._handle, 0, stopped=self.stopped, owed=owed)

    def open_route(self, route: Route, hop: int) -> None:
        """Tells the server of a part of the route, after so many steps, of the job."""
        self._open(route, self.connection.handle(), hop)

    def _open(self, route: Route, handle: int, hop: int, **more: bool | int) -> None:
        key, endpoint = self.key, self.connection.endpoint
        more |= {"calls": self._calls, "start": self.start}
        self.connection.open(route.link, handle, route.meaning(key, self.epoch, endpoint, self._seed, **more), hop)

    # ----------------------------------------------------------------------------------------------- sending

    def send(self, batch: core.Batch) -> None:
        """Inputs, numbered from `sent` on; with `lock`. The batch is taken over. What cannot be sent now is repeated
        when the server is back."""
        self.connection.check()
        n = len(batch)
        self.connection.changed.acquire()
        try:
            self.ledger.begin(self.sent, n)
            if TRACKED:
                self._kept[self.sent] = batch
                self._kept_bytes += batch.size()
            self.sent += n
        finally:
            self.connection.changed.release()
        self.connection.send_kept(self._link, DATA, self._handle, 0, batch)

    def skip(self, n: int) -> None:
        """The next inputs are done already; with both locks."""
        self.sent += n
        self.ledger.skip(self.sent)

    def sweep(self) -> None:
        """Lets go of envelopes whose inputs are all done; with the connection's lock."""
        if len(self._kept) < self._sweep_at and self._kept_bytes < self._sweep_at_bytes:
            return
        book = self.book
        self._kept = {first: k for first, k in self._kept.items() if book.any_open(first, first + len(k))}
        self._kept_bytes = sum(batch.size() for batch in self._kept.values())
        self._sweep_at = len(self._kept) + max(SWEEP, len(self._kept) // 2)
        self._sweep_at_bytes = self._kept_bytes + max(SWEEP_BYTES, self._kept_bytes // 4)

    def done(self, number: int) -> None:
        """An input that was sent alone is done; with the connection's lock."""
        self._kept.pop(number, None)

    # ---------------------------------------------------------------------------------------- whoever keeps

    def keeps(self, event: core.Event, number: int, path: Path) -> None:
        """Who has sent this event keeps the children of that message."""
        if number in self.book:
            self._keepers[number, path] = event.link, event.handle

    def dismiss(self, event: core.Event, number: int, path: Path) -> None:
        """Who has sent this event makes or keeps children that nobody waits for."""
        self._tell_keeper((event.link, event.handle), number, path, [], 0, over=True)

    def asked(self, event: core.Event, number: int, path: Path, granted: int) -> bool:
        """A generator may make `granted` children, and would make more. False: it has been allowed more already, which
        one that was started anew does not know."""
        self.keeps(event, number, path)
        if granted >= self.book.granted(number, path):
            return True
        self.grant(number, path, 0)
        return False

    def grant(self, number: int, path: Path, more: int) -> None:
        """So many more children of this message may be made."""
        granted = min(self.book.granted(number, path) + more, MAX_CHILDREN)
        self.ledger.grant(number, path, granted)
        self._release(number, path, granted)

    def settled(self, number: int, path: Path) -> None:
        """After a message has come to an end: nodes above it may be complete."""
        if not self._keepers:
            return
        for depth in range(len(path), -1, -1):
            name = number, path[:depth]
            if name in self._keepers and self.book.ranges(*name)[0] == OVER:
                self._release(*name, 0)

    def prune(self, number: int, path: Path) -> int:
        """A message has ended, and all below it: who keeps something of that may let it go. The book's verdict."""
        has_children = self.book.ranges(number, path)[0] == OPEN
        verdict = self.ledger.prune(number, path)
        if has_children:
            for name in [name for name in self._keepers if name[0] == number and name[1][: len(path)] == path]:
                self._release(*name, 0)
        return verdict

    def _release(self, number: int, path: Path, granted: int) -> None:
        keeper = self._keepers.get((number, path))
        if keeper is None:
            return
        state, ranges = self.book.ranges(number, path)
        over = state == OVER
        self._tell_keeper(keeper, number, path, ranges[:RANGES], granted, over)
        if over:
            del self._keepers[number, path]

    def _tell_keeper(
        self, keeper: Keeper, number: int, path: Path, ranges: list[tuple[int, int]], granted: int, over: bool
    ) -> None:
        batch = self._told.setdefault(keeper, core.Batch())
        if batch.full:
            self._send_told(keeper, batch)
        batch.release(number, path, ranges, granted, over)

    def tell_keepers(self) -> None:
        """What they are to know by now; with the connection's lock."""
        if not self._told:
            return
        for keeper, batch in self._told.items():
            self._send_told(keeper, batch)
        self._told.clear()

    def _send_told(self, keeper: Keeper, batch: core.Batch) -> None:
        if not self.connection.closed:
            self.connection.send(keeper[0], RELEASE, keeper[1], 0, batch)

    def forget(self, number: int) -> None:
        """Whatever still comes of this input is unknown, and who keeps something of it may let it go."""
        self.ledger.forget(number)
        for name in [name for name in self._keepers if name[0] == number]:
            self._release(*name, 0)

    def end(self, links: set[int]) -> None:
        """The job is over: all who have something of it may forget it. Without the lock. links: to those who have said
        that they do, which `palm.to` may have brought to it."""
        with self.lock:  # after a repeat that has begun, whose OPEN it ends too
            with self.connection.changed:
                self.over = True
                self._kept.clear()
                links = links.union(self.route.links.values())
            self.connection.forget(links, self.key)

    def stop(self) -> None:
        """The generator of the first step ends, that of a later epoch too."""
        with self.lock:  # before a repeat's OPEN, which says it then, or after it
            self.stopped = True
            self.tell(stop=True)

    def tell(self, number: int = NO_MESSAGE, *, stop: bool = False) -> None:
        """All servers of the route are told to stop working on the job, or on one input of it; or, to `stop`, that
        its first generators have to come to their end."""
        for link in set(self.route.links.values()):
            batch = core.Batch()
            batch.job(self.key, number, stop)
            self.connection.send(link, CANCEL, 0, 0, batch)

    # ------------------------------------------------------------------------------------------------ losses

    def lost(self, link: int, reason: int) -> None:
        """A link is gone; with the connection's lock."""
        server = self.route.server_of(link)
        self._losses.clear()
        if server is not None and (self._directory is None or self._cannot_be_had_again(server)):
            self._fail(lambda number: self.route.crashed(server, number, reason))
        elif server is not None or (self.reductions is not None and self.reductions.leads(link)):
            self._recover(reason)

    def _cannot_be_had_again(self, server: str) -> bool:
        """It makes the inputs of the job, which it could not make once more."""
        is_source = self.start and server == self.route.steps[0].server
        return is_source and bool(self.route.servers[server].get("live")) and 0 in self.book

    def missed(self, link: int) -> None:
        """Not all that was sent over a link has arrived there; with the connection's lock."""
        if link in self.route.links.values():
            self.lost(link, 1)
        elif any(keeper[0] == link for keeper in self._keepers.values()) or (
            self.reductions is not None and self.reductions.leads(link)
        ):
            self._recover(1)

    def reported(self, number: int, path: Path, epoch: int) -> bool:
        """A link was lost, or (with a number) a message whose block could not be taken; with the connection's lock.
        False: the latter has happened too often."""
        if epoch < self.epoch:
            return True  # repeated since
        if number == NO_MESSAGE:
            self._fruitless_most = FRUITLESS_BEYOND
        else:
            name = number, path
            self._losses[name] = self._losses.get(name, 0) + 1
            if self._losses[name] > LOSSES:
                return False
        self._recover(1)
        return True

    def _recover(self, reason: int) -> None:
        self._lost_again = True
        if not self._recovering and not self.over:
            self._recovering = True
            start_thread(self._recovery, "palm-recovery", reason)

    def _recovery(self, reason: int) -> None:
        """Until all that is unfinished has been sent to where the servers are now."""
        try:
            while self._lost_again and not self.over:
                time.sleep(BREATH)
                self._lost_again = False
                self._repeat(*self._find_again())
                with self.connection.changed:
                    gone = any(self.connection.is_gone(link) for link in self.route.links.values())
                    self._lost_again |= gone
                    self._recovering = self._lost_again and not self.over
        except Exception as e:  # NotFound, Timeout, Disconnected, ...: whatever it is, the job must not wait for ever
            with self.connection.changed:
                self._recovering = False
                if not self.over and not self.connection.closed:
                    self._fail(self._why(e, reason))
            self.connection.call_later()
            self.connection.nudge()

    def _find_again(self) -> tuple[Route, dict[str, Route]]:
        """The job's route, and those of its reductions."""
        directory, reductions = self._directory, self.reductions
        assert directory is not None

        def find() -> tuple[Route, dict[str, Route]]:
            others = reductions.routes(directory, math.inf) if reductions is not None else {}
            return directory.route(self.route.steps, math.inf), others

        return directory.patiently(find, lambda: self.over)

    def _repeat(self, route: Route, others: dict[str, Route]) -> None:
        with self.lock:
            with self.connection.changed:
                if self.over:
                    return
                self.route, self._link = route, route.link
                self.epoch, self._handle = self.epoch + 1, self.connection.handle()
                self._check_fruit()
                self.sweep()
                kept = list(self._kept.items())
            self.open()
            if self.reductions is not None:
                self._lost_again |= not self.reductions.knows_all(others)
                self.reductions.open(others)
            again = core.Batch()
            for first, batch in kept:
                for i in range(len(batch)):
                    if first + i in self.book:
                        self._add_again(again, batch, i)
            self._send_again(again)

    def _check_fruit(self) -> None:
        """What can never arrive is not to be repeated for ever: a message that its receiver's `memory_limit` has no
        room for breaks each connection that it comes by, and nobody is told why."""
        servers = {name: (s["address"], s["pid"]) for name, s in self.route.servers.items()}
        absorbed = self.reductions.absorbed() if self.reductions is not None else 0
        found = self.book.dump(), servers, absorbed
        if found == self._found:
            self._fruitless += 1
        else:
            self._found, self._fruitless, self._fruitless_most = found, 0, FRUITLESS
        pids = self.route.pids  # 0: on another host
        remote = [repr(name) for name, (a, _) in servers.items() if a.startswith("tcp:") and not pids.get(a)]
        if self._fruitless >= self._fruitless_most and remote:
            raise PalmError(
                f"what was on its way to {' or '.join(remote)}, on another host, was lost {self._fruitless} times in a "
                "row, though its process lives. Its messages may be larger than what its memory_limit leaves them: "
                "make them smaller, or raise it; or else see what cuts connections"
            )

    def _add_again(self, again: core.Batch, batch: core.Batch, i: int) -> None:
        if not again.add(batch, i):  # the two together lend too much for an envelope
            self._send_again(again)
            again.add(batch, i)
        if again.full:
            self._send_again(again)

    def _send_again(self, batch: core.Batch) -> None:
        if len(batch):
            self.connection.node.count("retries", len(batch))
            self.connection.send(self._link, DATA, self._handle, 0, batch)

    def _why(self, error: Exception, reason: int) -> Callable[[int], PalmError]:
        """The job cannot go on: the death of the server that has no successor, or else what is known. Who left in good
        order had worked off what it had received: what is left was never there."""
        route, text = self.route, str(error)
        if reason == 0 and isinstance(error, (NotFound, Disconnected)):
            return lambda number: error
        gone = [s for s, link in route.links.items() if self.connection.is_gone(link)]
        if gone:
            return lambda number: route.crashed(gone[0], number, reason)
        server, function = route.steps[0].server, route.steps[0].function
        return lambda number: Crashed(
            text, server=server, function=function, number=number, type="Crashed", reason=text
        )
