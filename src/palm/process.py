# SPDX-License-Identifier: BSD-3-Clause
"""What a process of a cluster does: sets a server up, tells the registry, serves, and ends in good order.

`main` is what a child of `palm.Cluster` runs, with three fds as arguments: a file with the order, a socket on which to
say "ready", and the pipe that breaks when the owner ends. The order was pickled by the process's own parent: nothing
that came over a socket is ever unpickled (DESIGN 5.11).
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from palm import cpus, gil, memory_limit, places
from palm._core import space as core_space
from palm.errors import ConfigError
from palm.own_names import is_own
from palm.polling import readable
from palm.suspects import Suspect
from palm.template import Reduce, Server, Source, exposure
from palm.versions import versions

if TYPE_CHECKING:
    from palm.execution import Post
    from palm.host import Host
    from palm.leader import Leader
    from palm.log_handler import Handler
    from palm.membership import Enlistment
    from palm.registry import Registry

WORK_GRACE = 2.0  # seconds that a function goes on for which nobody waits any more: then its process is replaced
TEMPLATES = ("palm.template", "palm.scattergather")  # modules
GRACE = 1.5  # seconds between the owner's end and a hard one (R15: 3 s in all)
REGISTRY_GRACE = 2.6  # the registry runs no user code: it is the last to go, and clears up


importing = False  # True while the module of a template is imported


class Order(msgspec.Struct):
    """What a child is to run."""

    template: Any  # the class, or "module:Class"
    name: str
    registry: str  # endpoint
    directory: str  # of the cluster, on this host; "": there is none
    endpoint: str = ""  # where to receive; empty: one of its own
    setup: dict[str, Any] = {}
    owner_fd: int = -1
    memory: int = 0  # bytes of arena; 0: default
    path: list[str] = []
    is_registry: bool = False
    leads: bool = False  # it has workers
    worker: int | None = None  # its number among the workers of the leader `name`
    guest: bool = False  # a worker whose number the registry has to say, and that nobody watches
    work_grace: float = WORK_GRACE
    memory_limit: int = 0  # bytes of private memory; 0: as many as there are
    cpus: tuple[int, ...] = ()  # on which it runs; none: on all
    cache: int = 0  # bytes that its cache may take; 0: the default
    suspects: list[Suspect] = []  # messages in which its predecessors have died
    again: bool = False  # it has predecessors

    @property
    def is_ours(self) -> bool:
        """It runs no user code."""
        return is_own(self.name)

    @property
    def process(self) -> str:
        """Its name among the processes of the cluster: that of the server, and the number of the worker."""
        return self.name if self.worker is None else f"{self.name}/{self.worker}"

    @property
    def shown_worker(self) -> int | None:
        """In the log: which of those that run functions it is; None: it runs none."""
        if self.worker is None and not (self.leads or self.is_ours or self.guest):
            return 0
        return self.worker


def load(template: Any) -> type[Server]:
    """The class that ``"module:Class"`` names, or the class itself."""
    if isinstance(template, str):
        import importlib

        module, _, name = template.partition(":")
        if not name:
            raise ValueError(f'a template is a class or "module:Class", not {template!r}')
        template = getattr(importlib.import_module(module), name)
    if not (isinstance(template, type) and issubclass(template, Server)):
        raise TypeError(f"a template is a subclass of palm.Server, not {template!r}")
    return template


def describe(server: Server, order: Order, address: str, supervised: bool) -> dict[str, Any]:
    cls = type(server)
    base = next(c.__name__ for c in cls.__mro__ if c.__module__ in TEMPLATES)
    return {
        "name": order.process,
        "leads": order.leads,
        "worker": order.worker,
        "template": base,
        "class": cls.__qualname__,
        "module": cls.__module__,
        "versions": versions(),
        "host": socket.gethostname(),
        "where": places.pid_namespace(),
        "pid": os.getpid(),
        "began": places.start_time(os.getpid()),
        "supervised": supervised,
        "live": issubclass(cls, Source) and cls.live,
        "address": address,
        "page": list(core_space.identity()),
        "arena": core_space.has_arena(),
        "link": os.environ.get("PALM_LINK", ""),
        "cache": order.cache,
        **exposure(cls),
    }


def run(order: Order, ready: Callable[[], None], records: Handler | None = None) -> None:
    """Runs the server until it is stopped. records: where what is logged goes, which has to know of which message."""
    from palm.execution import Post

    cls = load(order.template)
    _allow_many_files()
    core_space.open_space(order.memory)
    endpoint = order.endpoint or places.endpoint(order.registry, order.name.replace("/", "-"))
    mark = _mark(endpoint, order)
    grace = REGISTRY_GRACE if order.is_registry else GRACE
    core_space.watch_owner(order.owner_fd, int(grace * 1000), str(mark or ""))
    from palm.capsule import Store  # 12 ms that a client need not wait for

    capsules = None if order.is_ours else Store(cls, order.setup)
    server = cls()
    server.name, server.worker = order.name, order.worker or 0
    membership = guest = None
    enlistment: Enlistment | None = None
    host: Host
    supervised = order.owner_fd >= 0
    if not order.is_registry:
        from palm.inner_client import InnerClient
        from palm.membership import Membership

        on_end = None if supervised else lambda: host.node.stop()
        client = InnerClient(order.registry, order.name, lambda: host.seconds_left())
        membership = Membership(client, lambda: describe(server, order, host.node.endpoint, supervised), on_end)
    if membership and order.guest:
        from palm.guest import Guest

        enlistment = guest = Guest(membership, order, cls, lambda: host.node.stop())
    host = _host(order, server, Post(order.name, endpoint, membership, order.suspects, capsules))
    if records:
        records.attach(host)
    if membership and order.worker is not None and guest is None:
        from palm.leader import JOIN
        from palm.membership import Enlistment

        enlistment = Enlistment(membership, order.name, JOIN)
    is_served = not (supervised or order.leads)
    _stop_on_signals(guest.leave if guest else host.node.stop, host.node.stop, is_served=is_served)
    if not is_served:  # else the process is the user's
        signal.set_wakeup_fd(host.node.hear_signals(), warn_on_full_buffer=False)
    try:
        took = _set_up(order, server, records)
        if not order.is_ours:  # to end that for one message that takes long would cost all of them
            host.node.limit(_work_grace(order, took))
        if membership:
            membership.join()
        if enlistment:
            enlistment.join()
        if order.leads and not supervised:
            from palm.tenure import Tenure

            cast("Leader", host).tenure = Tenure(time.monotonic())
        ready()
        _serve(host, order)
        if guest and guest.why is not None:
            raise guest.why
    finally:
        orphan = _owner_is_gone(order.owner_fd) if supervised else places.is_abandoned(order.registry)
        if membership and not supervised:  # else its supervisor tells
            why = host.why_it_ends()
            membership.leave("failed" if why else "removed", why or "stopped")
        if enlistment:
            enlistment.close()
        if not is_served:
            signal.set_wakeup_fd(-1)
        host.close(GRACE / 4 if orphan else 2.0)
        if membership:
            membership.close()
        if mark is not None:
            mark.unlink(missing_ok=True)
        if orphan and order.directory:
            _last_one_out(Path(order.directory), GRACE + 0.3 if order.is_registry else 0.3)


def _host(order: Order, server: Server, post: Post) -> Host:
    """What runs the functions of this process, or hands messages out to others that do."""
    from palm.faults import Faults
    from palm.host import Host

    host: Host
    if order.leads:
        host = _leader(server, post)
    elif isinstance(server, Reduce):
        from palm.reduce_worker import Folder

        host = Folder(server, post)
    else:
        host = Host(server, post)
    host.cache_bound = order.cache
    if order.is_registry:  # all have a link to it: it sees who is gone
        host.on_gone = functools.partial(_note_gone, cast("Registry", server), Path(order.directory))
    if order.owner_fd >= 0 and not order.is_ours:  # else nobody would start it again
        host.faults = Faults(Path(order.directory), order.name)
    return host


def _set_up(order: Order, server: Server, records: Handler | None) -> float:
    """Returns the seconds that it took."""
    began = time.monotonic()
    if server._host is not None:  # else nothing of it runs here
        memory_limit.begin(order.name, order.memory_limit)
        memory_limit.watch()
        with core_space.arena(shared=False):
            server.setup(**order.setup, **({"again": order.again} if order.is_registry else {}))
        _check_hidden(server)
        if records:
            records.settle()
    return time.monotonic() - began


def _mark(endpoint: str, order: Order) -> Path | None:
    """The file by which others see that this process lives in the cluster."""
    if endpoint.startswith("ipc://"):
        return Path(endpoint.removeprefix("ipc://"))
    if not order.directory:
        return None
    mark = places.mark(Path(order.directory), order.name.replace("/", "-"))
    mark.touch()
    return mark


def _note_gone(registry: Registry, directory: Path, clients: list[str]) -> None:
    places.remove_dead_sockets(directory)
    registry.note_gone(clients)


def _leader(server: Server, post: Post) -> Leader:
    """`server` is used by one that runs something of it itself."""
    from palm.scattergather import ScatterGather

    if isinstance(server, ScatterGather):
        from palm.scatter_leader import ScatterLeader

        return ScatterLeader(server, post)
    if isinstance(server, Reduce):
        from palm.reduce_leader import ReduceLeader

        return ReduceLeader(server, post)
    from palm.butterfly_leader import ButterflyLeader

    return ButterflyLeader(type(server), post)


def _check_hidden(server: Server) -> None:
    """TypeError if an attribute of the object has the name of a function of its class."""
    for name in vars(server).keys() & type(server)._exposed.keys():
        raise TypeError(
            f"setup has set self.{name}, which hides the function {name} of {type(server).__qualname__}: name one of "
            "them otherwise"
        )


def _stop_on_signals(softly: Callable[[], None], at_once: Callable[[], None], *, is_served: bool) -> None:
    """The first signal softly, others at once. is_served: by palm.serve, for which Ctrl-C is such a signal; a second
    one interrupts."""
    ways = [at_once, softly]

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        (ways.pop() if len(ways) > 1 else at_once)()

    numbers = (signal.SIGTERM, signal.SIGINT) if is_served else (signal.SIGTERM,)
    for number in numbers:
        signal.signal(number, stop)
    _fork_without(stop, numbers)


def _fork_without(stop: Callable[[int, Any], None], numbers: Sequence[signal.Signals]) -> None:
    """What a function forks is a process like others: what stops a server ends it, in the first moment too."""
    mask = threading.local()

    def hold() -> None:
        mask.before = signal.pthread_sigmask(
            signal.SIG_BLOCK, []
        )  # first: a handler that runs in the next line may raise
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.before)

    def begin() -> None:
        signal.set_wakeup_fd(-1)
        for number in numbers:
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=begin)


def _work_grace(order: Order, setup_took: float) -> float:
    """To replace a process costs its setup, to wait costs the wait: who waits for as long as a new setup takes has at
    most twice the least cost. And functions that look at `cancelled` now and then need a moment. Without a supervisor
    nobody would replace it: no time is long enough."""
    return max(order.work_grace, setup_took) if order.owner_fd >= 0 else -1.0


def _allow_many_files() -> None:
    """A client takes four at each server, and libzmq aborts a process that has none left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _serve(host: Any, order: Order) -> None:
    """A child of a cluster that is ended by its own function (sys.exit, Ctrl-C) dies at once: peers are not told BYE,
    so that they see a death, with the reason that the supervisor finds."""
    try:
        with gil.watched():
            host.serve()
    except BaseException as e:
        if order.owner_fd < 0:
            raise
        memory_limit.note_end(e)
        if not isinstance(e, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code(e))


def _exit_code(e: BaseException) -> int:
    """As the interpreter has it."""
    if not isinstance(e, SystemExit):
        return 1
    if e.code is None or isinstance(e.code, int):
        return (e.code or 0) & 0xFF
    print(e.code, file=sys.stderr, flush=True)
    return 1


def _owner_is_gone(fd: int) -> bool:
    """The owner alone has the write end of this pipe, which closes a moment before it is dead."""
    return fd >= 0 and bool(readable([fd], 0.0))


def _last_one_out(directory: Path, patience: float) -> None:
    """The owner is dead: what it left is removed by those it started, when nobody lives there any more."""
    end = time.monotonic() + patience
    try:
        places.remove_dead_sockets(directory, mine=True)
        while places.inhabitants(directory):
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        places.remove(directory)
    except OSError:
        pass  # another one was faster


def main() -> int:
    from palm import log_handler

    order_fd, report_fd, owner_fd, records_fd = map(int, [*sys.argv[1:], "-1"][:4])  # owner -1: it is nobody's
    for fd in (order_fd, report_fd, owner_fd, records_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, whose end ends us
    report = socket.socket(fileno=report_fd)
    try:
        if records_fd >= 0:
            log_handler.print_lines()
        with open(order_fd, "rb") as f:
            sys.path[:], order_bytes, suspects, again = pickle.load(f)
        order = _order_of(order_bytes)
        order.suspects, order.again, order.owner_fd = suspects, again, owner_fd
        _run_and_log(order, report, records_fd)
    except BaseException as e:
        if report.fileno() < 0:
            raise
        with memory_limit.room_to_tell(e):
            report.sendall(_why_not(e).encode(errors="backslashreplace"))
        report.close()
        return 1
    return 0


def _why_not(e: BaseException) -> str:
    """One line where the configuration is wrong, else the traceback."""
    if isinstance(e, ConfigError):
        return str(e)
    text = "".join(traceback.format_exception(e)).rstrip()
    return "; ".join(filter(None, (text, memory_limit.advice(e))))


def _run_and_log(order: Order, report: socket.socket, records: int) -> None:
    """records: where those go that are logged; -1: nobody hears this process."""
    if records < 0:
        run(order, lambda: _say_ready(report))
        return
    from palm import log_handler

    core_space.open_space(order.memory)  # it has the pulse
    log_handler.relieve()
    with log_handler.installed(log_handler.Handler(records, order)) as handler:
        run(order, lambda: _say_ready(report), handler)


def _say_ready(report: socket.socket) -> None:
    """With our arena: the supervisor can read in which message we have died, however soon that is."""
    _, fd, hi, lo = core_space.identity()
    said = b"ready %d %d\n" % (hi, lo)
    if core_space.has_arena():
        socket.send_fds(report, [said], [fd])
    else:
        report.sendall(said)
    report.close()


@contextlib.contextmanager
def importing_templates() -> Iterator[None]:
    """In here, to start a cluster is an error."""
    global importing
    before, importing = importing, True
    try:
        yield
    finally:
        importing = before


def _order_of(pickled: bytes) -> Order:
    """Unpickling imports the template's module, which has to be free of clusters of its own."""
    with importing_templates():
        order: Order = pickle.loads(pickled)
        cpus.keep_to(order.cpus)
        if not order.leads:  # else it depends on the template whether something of the user's runs in it
            memory_limit.begin(order.name, order.memory_limit)
        load(order.template)
        return order
