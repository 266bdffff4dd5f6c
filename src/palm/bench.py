# SPDX-License-Identifier: BSD-3-Clause
"""`palm bench`: PALM beside its peers, as ratios within one run.

Each contestant is a process of its own with whatever servers it needs, and stays for the whole workload. Rounds are
interleaved: each contestant measures one round, then each the next one; a ratio is taken within a round, and its median
over the rounds is what counts, with the lowest and highest beside it. The first round of all is not counted.

A contestant answers requests as ``bench/peers/rounds.py`` describes; PALM's own are at the end of this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import palm

if TYPE_CHECKING:
    from rich.table import Table

PATIENCE = 180.0  # seconds that a contestant has to set itself up, or to answer
WIDTH = 120  # of the table where there is no terminal
MIB = 1 << 20

Request = dict[str, Any]
Answer = dict[str, Any]
Measure = Callable[[Request], Answer]


@dataclass(frozen=True)
class Case:
    """What is measured in a round. targets: by peer, what PALM promises of the ratio."""

    name: str
    unit: str  # "us" or "ms": less is better; "/s": more is better
    n: int  # messages a round
    quick: int  # the same with --quick
    size: int = 64  # bytes of a message
    targets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    name: str
    program: str  # in the directory of peers
    workload: str


@dataclass(frozen=True)
class Workload:
    name: str
    what: str
    ours: str  # of OURS
    cases: tuple[Case, ...]
    peers: tuple[Peer, ...] = ()
    one_core: bool = False


FLOOR, BY_HAND, BATCHED, PYLM = "C floor", "pyzmq by hand", "pyzmq batched", "pylm"
BYPASSED = "tracking bypassed"
_ROUNDTRIP = tuple(
    Peer(name, f"{program}.py", "roundtrip")
    for name, program in ((FLOOR, "floor"), (BY_HAND, "by_hand"), (PYLM, "pylm_peer"))
)
WORKLOADS = (
    Workload(
        "roundtrip",
        "a call of a function that returns its 64 bytes",
        "roundtrip",
        (Case("bytes", "us", 2000, 200, targets={FLOOR: 1.5}),),
        _ROUNDTRIP,
    ),
    Workload(
        "roundtrip-1core",
        "the same with all processes on one core",
        "roundtrip",
        (Case("bytes", "us", 2000, 200, targets={FLOOR: 1.5}),),
        _ROUNDTRIP,
        one_core=True,
    ),
    Workload(
        "stream",
        "64-byte messages through one Python function, results at the client",
        "stream",
        (
            Case("bytes", "/s", 50_000, 2000, targets={BY_HAND: 1.0}),
            Case("arrays", "/s", 50_000, 2000, targets={BY_HAND: 1.0}),
        ),
        (
            Peer(BY_HAND, "by_hand.py", "stream"),
            Peer(BATCHED, "by_hand.py", "batched"),
            Peer(PYLM, "pylm_peer.py", "stream"),
        ),
    ),
    Workload(
        "pipeline",
        "arrays handed on unread by three servers: one at a time, and rates",
        "pipeline",
        (
            Case("64 B", "us", 500, 50),
            Case("8 KiB", "us", 500, 50, 8192),
            Case("1 MiB", "us", 200, 20, MIB),
            Case("64 MiB", "us", 20, 2, 64 * MIB),
            Case("rate 64 B", "/s", 20_000, 1000),
            Case("rate 8 KiB", "/s", 10_000, 500, 8192),
        ),
        (Peer(BY_HAND, "by_hand.py", "pipeline"), Peer(PYLM, "pylm_peer.py", "pipeline")),
    ),
    Workload(
        "tracking",
        "what it costs that nothing is lost: rates beside a build of PALM that neither tracks nor repeats messages",
        "tracking",
        (
            Case("1 server", "/s", 200_000, 2000, targets={BYPASSED: 0.95}),
            Case("3 servers", "/s", 100_000, 2000, targets={BYPASSED: 0.95}),
            Case("8 KiB", "/s", 20_000, 500, 8192, targets={BYPASSED: 0.95}),
        ),
        (Peer(BYPASSED, "bypassed.py", "tracking"),),
    ),
    Workload(
        "batch",
        "a layer of 8 neurons, of messages of 8 float64: a message a call, and as many as there are",
        "batch",
        (Case("one by one", "/s", 50_000, 500), Case("stacked", "/s", 50_000, 500)),
    ),
    Workload(
        "import",
        "`import palm` after `import numpy, zmq`, in fresh interpreters",
        "import",
        (Case("import", "ms", 5, 2),),
    ),
)
IMPORT_TARGET = 60.0  # ms
BATCH_TARGET = 5.0  # of the rate of a batch function over that of the same one by one
SIZES_TARGET = 1.5  # of a 64 MiB array's time over an 8 KiB one's
PEER_LIMITS = {(PYLM, "64 MiB"): 2, (PYLM, "1 MiB"): 50, (BY_HAND, "64 MiB"): 5}  # messages a round: it is that slow


# -------------------------------------------------------------------------------------------------------- contestants


class Failed(Exception):
    """A contestant broke; the text says how."""


class Unavailable(Exception):
    """A contestant cannot do this here; the text says why."""


class Contestant:
    """A process that measures a round a request. It ends when its standard input does."""

    def __init__(self, command: Sequence[str], *, one_core: bool = False) -> None:
        core = min(os.sched_getaffinity(0))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, {core})) if one_core else None,
        )
        self._said = b""
        self._complained = b""
        self.versions: dict[str, str] = self._answer().get("versions", {})

    def ask(self, request: Request) -> Answer:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._reason()) from None
        return self._answer()

    def _answer(self) -> Answer:
        answer: Answer = json.loads(self._line())
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return answer

    def _line(self) -> bytes:
        assert self.process.stdout is not None and self.process.stderr is not None
        end = time.monotonic() + PATIENCE
        streams = [self.process.stdout, self.process.stderr]
        while b"\n" not in self._said:
            for stream in select.select(streams, [], [], max(0.0, end - time.monotonic()))[0]:
                more = os.read(stream.fileno(), 65536)
                if stream is self.process.stdout and not more:
                    raise Failed(self._reason())
                if stream is self.process.stdout:
                    self._said += more
                elif more:
                    self._complained = (self._complained + more)[-4096:]
                else:
                    streams.remove(stream)
            if time.monotonic() > end:
                raise Failed(f"no answer within {PATIENCE:g} s")
        line, _, self._said = self._said.partition(b"\n")
        return line

    def _reason(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        assert self.process.stderr is not None
        if select.select([self.process.stderr], [], [], 0)[0]:
            self._complained += os.read(self.process.stderr.fileno(), 65536)
        last = self._complained.decode(errors="replace").strip().splitlines() or [f"exit code {self.process.poll()}"]
        return last[-1]

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def _environment() -> dict[str, str]:
    """An editable install looks for changed sources at each import; not while it is measured."""
    built = [str(p) for p in (getattr(f, "_build_path", None) for f in sys.meta_path) if p]
    return {**os.environ, **({"MESONPY_EDITABLE_SKIP": os.pathsep.join(built)} if built else {})}


# ------------------------------------------------------------------------------------------------------------- rounds


@dataclass
class Result:
    """One contestant in one case."""

    values: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    absent: str = ""  # why it was not measured
    broken: bool = False

    @property
    def measured(self) -> bool:
        return bool(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


Results = dict[str, dict[str, Result]]  # by case, by contestant


@dataclass
class Run:
    workload: Workload
    results: Results
    versions: dict[str, dict[str, str]]


@dataclass
class Options:
    rounds: int
    quick: bool
    peers: Path | None


@contextlib.contextmanager
def contestants(workload: Workload, peers: Path | None, results: Results) -> Iterator[dict[str, Contestant]]:
    """Those that could be started; the others have left their reason in `results`."""
    commands = {"palm": [sys.executable, "-c", f"from palm.bench import contestant; contestant({workload.ours!r})"]}
    if peers is not None:
        commands |= {p.name: [sys.executable, str(peers / p.program), p.workload] for p in workload.peers}
    running: dict[str, Contestant] = {}
    try:
        for name, command in commands.items():
            try:
                running[name] = Contestant(command, one_core=workload.one_core)
            except (Failed, Unavailable, OSError) as e:
                for case in workload.cases:
                    results[case.name][name] = Result(absent=str(e), broken=not isinstance(e, Unavailable))
        yield running
    finally:
        for c in running.values():
            c.close()


def measure(workload: Workload, options: Options, progress: Callable[[str], None]) -> Run:
    results: Results = {case.name: {} for case in workload.cases}
    with contestants(workload, options.peers, results) as running:
        for i in range(options.rounds + 1):
            for case in workload.cases:
                for name, c in list(running.items()):
                    progress(f"{workload.name}, {case.name}: {name}, " + (f"round {i}" if i else "warm-up"))
                    result = results[case.name].setdefault(name, Result())
                    one_round(c, name, case, options.quick, result, count=i > 0)
                    if result.broken:  # an answer that comes too late would be taken for the next one
                        running.pop(name).close()
                        _leave(results, name, result)
        return Run(workload, results, {name: c.versions for name, c in running.items()})


def _leave(results: Results, name: str, why: Result) -> None:
    for found in results.values():
        result = found.setdefault(name, Result())
        result.absent, result.broken = why.absent, True


def one_round(c: Contestant, name: str, case: Case, quick: bool, result: Result, *, count: bool = True) -> None:
    """Adds to `result`; from a failure on, it has the reason and is not asked again. The rounds before it count."""
    if result.absent:
        return
    n = min(case.quick if quick else case.n, PEER_LIMITS.get((name, case.name), sys.maxsize))
    try:
        answer = c.ask({"case": case.name, "n": n, "size": case.size})
    except (Failed, Unavailable) as e:
        result.absent, result.broken = str(e), not isinstance(e, Unavailable)
        return
    if count:
        result.values.append(answer["value"])
        result.answers.append(answer)


def ratios(ours: Result, other: Result) -> list[float]:
    return [a / b for a, b in zip(ours.values, other.values, strict=False)]


# ------------------------------------------------------------------------------------------------------------ reports


@dataclass
class Check:
    """A promise that is not a ratio to a peer."""

    what: str
    value: str
    target: str
    held: bool


def checks(run: Run) -> list[Check]:
    return _CHECKS.get(run.workload.name, lambda _: [])(run)


def _pipeline_checks(run: Run) -> list[Check]:
    large, small = run.results["64 MiB"]["palm"], run.results["8 KiB"]["palm"]
    if not (large.measured and small.measured):
        return []
    each = ratios(large, small)
    middle = statistics.median(each)
    copied = large.answers[-1]["bytes_copied"]
    return [
        Check("64 MiB over 8 KiB, warm", f"{middle:.2f} ({_span(each)})", f"<= {SIZES_TARGET}", middle <= SIZES_TARGET),
        Check("bytes_copied", ", ".join(f"{k} {v}" for k, v in copied.items()), "0", not any(copied.values())),
    ]


def _import_checks(run: Run) -> list[Check]:
    ours = run.results["import"]["palm"]
    if not ours.measured:
        return []
    return [Check("import palm", f"{ours.median:.1f} ms", f"<= {IMPORT_TARGET:g} ms", ours.median <= IMPORT_TARGET)]


def _batch_checks(run: Run) -> list[Check]:
    stacked, single = run.results["stacked"]["palm"], run.results["one by one"]["palm"]
    if not (stacked.measured and single.measured):
        return []
    each = ratios(stacked, single)
    middle = statistics.median(each)
    what = f"{middle:.2f} ({_span(each)})"
    return [Check("stacked over one by one", what, f">= {BATCH_TARGET:g}", middle >= BATCH_TARGET)]


_CHECKS = {"pipeline": _pipeline_checks, "batch": _batch_checks, "import": _import_checks}


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"


def _amount(value: float, unit: str) -> str:
    if unit == "/s":
        return f"{value:,.0f} /s".replace(",", " ")
    return f"{value:,.1f} {unit}".replace(",", " ")


def table_of(runs: Sequence[Run]) -> Table:
    from rich.table import Table

    table = Table()
    for column in ("workload", "case"):
        table.add_column(column, no_wrap=True)
    table.add_column("PALM", justify="right", no_wrap=True)
    table.add_column("peer", no_wrap=True)
    table.add_column("its figure", justify="right", overflow="fold")
    for column in ("PALM / peer", "lowest-highest", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        for case in run.workload.cases:
            for row in _rows(run, case):
                table.add_row(run.workload.name, case.name, *row)
        table.add_section()
    return table


def _rows(run: Run, case: Case) -> Iterator[tuple[str, ...]]:
    found = run.results[case.name]
    ours = found["palm"]
    figure = _amount(ours.median, case.unit) if ours.measured else f"[red]not measured: {ours.absent}[/]"
    others = {name: r for name, r in found.items() if name != "palm"}
    if not others:
        yield figure, "", "", "", _own_span(ours, case) if ours.measured else "", ""
    for name, other in others.items():
        if not other.measured:
            yield figure, name, f"not measured: {other.absent}", "", "", ""
        elif not ours.measured:
            yield figure, name, _amount(other.median, case.unit), "", "", ""
        else:
            each = ratios(ours, other)
            middle = statistics.median(each)
            ratio = f"{middle:.3f}" if middle < 0.1 else f"{middle:.2f}"
            yield figure, name, _amount(other.median, case.unit), ratio, _span(each), _target(case, name, middle)


def _own_span(ours: Result, case: Case) -> str:
    low, high = min(ours.values), max(ours.values)
    return f"{low:.0f}-{high:.0f}" if case.unit == "/s" else f"{low:.1f}-{high:.1f}"


def _target(case: Case, peer: str, ratio: float) -> str:
    if peer not in case.targets:
        return ""
    target = case.targets[peer]
    more = case.unit == "/s"
    held = ratio >= target if more else ratio <= target
    return f"[{'green' if held else 'red'}]{'>=' if more else '<='} {target}[/]"


def object_of(runs: Sequence[Run], options: Options) -> dict[str, Any]:
    return {
        "machine": machine(),
        "versions": versions(runs),
        "rounds": options.rounds,
        "quick": options.quick,
        "workloads": [
            {
                "name": run.workload.name,
                "what": run.workload.what,
                "cases": [_case_object(run, case) for case in run.workload.cases],
                "checks": [vars(c) for c in checks(run)],
            }
            for run in runs
        ],
    }


def _case_object(run: Run, case: Case) -> dict[str, Any]:
    found = run.results[case.name]
    ours = found["palm"]
    return {
        "name": case.name,
        "unit": case.unit,
        "better": "more" if case.unit == "/s" else "less",
        "bytes": case.size,
        "palm": _result_object(ours),
        "peers": {
            name: _result_object(other) | _ratio_object(ours, other, case.targets.get(name))
            for name, other in found.items()
            if name != "palm"
        },
    }


def _result_object(result: Result) -> dict[str, Any]:
    if not result.measured:
        return {"not_measured": result.absent}
    stopped = {"stopped": result.absent} if result.absent else {}
    return stopped | {"median": result.median, "values": result.values, "details": result.answers[-1]}


def _ratio_object(ours: Result, other: Result, target: float | None) -> dict[str, Any]:
    if not (ours.measured and other.measured):
        return {}
    each = ratios(ours, other)
    return {"ratio": statistics.median(each), "lowest": min(each), "highest": max(each), "target": target}


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "processor": _processor(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def versions(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    import zmq

    found = {
        "palm": {
            "palm": palm.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyzmq": zmq.__version__,
            "libzmq": zmq.zmq_version(),
        }
    }
    for run in runs:
        found |= {name: v for name, v in run.versions.items() if name != "palm"}
    return found


# ------------------------------------------------------------------------------------------------------- command line


def main(args: list[str]) -> int:
    """``palm bench``; the exit code is 1 if PALM or a peer broke, however the figures are."""
    options, wanted, show = _parse(args)
    if show.versions:
        runs = [Run(w, {}, _versions_of(w, options)) for w in wanted]
        print(json.dumps(versions(runs), indent=2))
        return 0
    from rich.console import Console

    errors = Console(stderr=True)
    if options.peers is None:
        errors.print(f"no peers: there is no directory {show.peers}; PALM is measured alone (--peers DIR)")
    with errors.status("") as status:
        runs = [measure(w, options, status.update) for w in wanted]
    if show.json:
        print(json.dumps(object_of(runs, options), indent=2))
    else:
        _print(Console(width=None if sys.stdout.isatty() else WIDTH), runs, options)
    return int(any(r.broken for run in runs for case in run.results.values() for r in case.values()))


def _print(console: Any, runs: Sequence[Run], options: Options) -> None:
    m = machine()
    console.print(table_of(runs))
    for check in [c for run in runs for c in checks(run)]:
        console.print(f"{check.what}: {check.value}   [{'green' if check.held else 'red'}]{check.target}[/]")
    console.print(
        f"us, ms: less is better; /s: more. Medians of {options.rounds} interleaved rounds; {m['cores']} cores, "
        f"{m['processor']}; load {m['load']:.1f}."
    )
    if options.quick:
        console.print("--quick: to see that it works; the figures mean nothing.")


def _versions_of(workload: Workload, options: Options) -> dict[str, dict[str, str]]:
    results: Results = {case.name: {} for case in workload.cases}
    with contestants(workload, options.peers, results) as running:
        found = {name: c.versions for name, c in running.items()}
    absent = results[workload.cases[0].name]
    return found | {name: {"not measured": r.absent} for name, r in absent.items()}


def _parse(args: list[str]) -> tuple[Options, list[Workload], argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="palm bench", description="PALM beside its peers, as ratios within one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(f"{w.name}: {w.what}" for w in WORKLOADS))
    parser.add_argument("--json", action="store_true", help="machine readable")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="each once and small, to see that it works")
    parser.add_argument("--versions", action="store_true", help="what would be measured, without measuring")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path("bench"),
        metavar="DIR",
        help="where peers/ is, in the source tree: default ./bench",
    )
    found = parser.parse_args(args)
    unknown = set(found.names) - {w.name for w in WORKLOADS}
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(w.name for w in WORKLOADS)}")
    rounds = found.rounds or (1 if found.quick else 7)
    if rounds < 1:
        parser.error(f"--rounds {rounds}: at least 1")
    peers = found.peers / "peers"
    wanted = [w for w in WORKLOADS if not found.names or w.name in found.names]
    return Options(rounds, found.quick, peers.resolve() if peers.is_dir() else None), wanted, found


# ----------------------------------------------------------------------------------------------------- PALM's own part


class Same(palm.Server):
    """Hands on what it gets, unread."""

    @palm.function
    def same(self, x: Any) -> Any:
        return x


class Layer(palm.Server):
    """8 neurons that see standardised values."""

    def setup(self) -> None:
        self.weights = np.random.default_rng(1).standard_normal((8, 8))

    @palm.function
    def single(self, x: Any) -> Any:
        return np.tanh((x - x.mean()) / x.std() @ self.weights)

    @palm.function(batch=True)
    def stacked(self, x: Any) -> Any:
        z = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
        return np.tanh(z @ self.weights)


@contextlib.contextmanager
def roundtrip() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench:Same", name="a")
        call = cluster.client().call

        def measure(request: Request) -> Answer:
            message, times = bytes(request["size"]), []
            for _ in range(request["n"]):
                began = time.perf_counter()
                call("a.same", message)
                times.append(time.perf_counter() - began)
            return {"value": 1e6 * statistics.median(times)}

        yield measure


@contextlib.contextmanager
def stream() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench:Same", name="a")
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n, size = request["n"], request["size"]
            arrays = request["case"] == "arrays"
            messages = np.arange(n * size / 8).reshape(n, -1) if arrays else [bytes(size) for _ in range(n)]
            return {"value": _rate(client, ["a.same"], messages, n)}

        yield measure


def _rate(client: palm.Client, steps: list[str], messages: Any, n: int) -> float:
    began = time.perf_counter()
    results = list(client.job(steps, messages))
    seconds = time.perf_counter() - began
    assert len(results) == n
    return n / seconds


@contextlib.contextmanager
def pipeline() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        steps = [f"{cluster.start('palm.bench:Same', name=name)}.same" for name in "abc"]
        client = cluster.client()

        def measure(request: Request) -> Answer:
            with palm.arena():
                x = np.arange(request["size"] / 8)
            if request["case"].startswith("rate"):
                return {"value": _rate(client, steps, (x for _ in range(request["n"])), request["n"])}
            return {"value": 1e6 * _latency(client, steps, x, request["n"]), "bytes_copied": _copied(cluster)}

        yield measure


@contextlib.contextmanager
def tracking() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        steps = [f"{cluster.start('palm.bench:Same', name=name)}.same" for name in "abc"]
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n, size = request["n"], request["size"]
            x = np.arange(size / 8) if size > 64 else bytes(size)
            through = steps if request["case"] == "3 servers" else steps[:1]
            return {"value": _rate(client, through, (x for _ in range(n)), n)}

        yield measure


@contextlib.contextmanager
def batch() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench:Layer", name="layer")
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n = request["n"]
            step = "layer.stacked" if request["case"] == "stacked" else "layer.single"
            return {"value": _rate(client, [step], np.arange(n * 8.0).reshape(n, 8), n)}

        yield measure


def _latency(client: palm.Client, steps: list[str], x: np.ndarray[Any, Any], n: int) -> float:
    """Median seconds from when the input is handed out to when its result is there, one at a time."""
    began: list[float] = []
    ended: list[float] = []

    def inputs() -> Iterator[np.ndarray[Any, Any]]:
        for _ in range(n):
            began.append(time.perf_counter())
            yield x

    for _ in client.job(steps, inputs(), window=1):
        ended.append(time.perf_counter())
    return statistics.median(b - a for a, b in zip(began, ended, strict=True))


def _copied(cluster: palm.Cluster) -> dict[str, int]:
    return {s["name"]: s["counters"]["bytes_copied"] for s in cluster.status()["servers"] if s["name"] in "abc"}


@contextlib.contextmanager
def importing() -> Iterator[Measure]:
    program = (
        "import time; a = time.perf_counter(); import numpy, zmq; b = time.perf_counter(); import palm; "
        "print(b - a, time.perf_counter() - b)"
    )

    def once() -> tuple[float, float]:
        out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        before, ours = map(float, out.split())
        return 1e3 * before, 1e3 * ours

    def measure(request: Request) -> Answer:
        each = [once() for _ in range(request["n"])]
        return {"value": statistics.median(o for _, o in each), "numpy_zmq": statistics.median(b for b, _ in each)}

    yield measure


OURS = {
    "roundtrip": roundtrip,
    "stream": stream,
    "pipeline": pipeline,
    "tracking": tracking,
    "batch": batch,
    "import": importing,
}


def contestant(workload: str) -> None:
    """PALM as one of the contestants: see bench/peers/rounds.py."""
    with OURS[workload]() as measure:
        print(json.dumps({"versions": {"palm": palm.__version__}}), flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
