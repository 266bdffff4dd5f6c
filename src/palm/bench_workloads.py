# SPDX-License-Identifier: BSD-3-Clause
"""What `palm bench` measures, beside whom, and what PALM promises of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """What is measured in a round. targets: by peer, what PALM promises of the ratio."""

    name: str
    unit: str  # "us", "ms", or "x ideal": less is better; "/s": more is better
    n: int  # messages a round
    quick: int  # the same with --quick
    size: int = 64  # bytes of a message
    targets: dict[str, float] = field(default_factory=dict)

    @property
    def more(self) -> bool:
        """More is better."""
        return self.unit == "/s"

    def held(self, peer: str, ratio: float) -> bool | None:
        """Whether this ratio is what PALM promises beside that peer; None if it promises nothing."""
        if peer not in self.targets:
            return None
        return ratio >= self.targets[peer] if self.more else ratio <= self.targets[peer]


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
    link: str = ""  # $PALM_LINK of PALM
    judged: bool = True  # its figures are held against what PALM promises

    def unjudged(self) -> Workload:
        return replace(self, judged=False, cases=tuple(replace(case, targets={}) for case in self.cases))


FLOOR, BY_HAND, BATCHED, PYLM = "C floor", "pyzmq by hand", "pyzmq batched", "pylm"
SHARED = "by hand, shared"
BYPASSED, UNCOUNTED, NUMPY = "tracking bypassed", "counters left out", "numpy"
MPI, MPI_REDUCE, MPI_SENT, MPI_FUTURES = "MPI", "MPI_Reduce", "MPI, from the client", "mpi4py.futures"
POOL, IMAP, LOKY, DASK, RAY = "Pool.map, chunks", "Pool.imap_unordered", "loky, chunks", "Dask", "Ray"
RING, MEMCPY = "C ring, spinning", "one memcpy"
SOCKETS = "PALM by libzmq alone"
POOL_64 = "Pool.map, 64 a chunk"
PIPE, PUSH_PULL, CREDIT = "multiprocessing.Pipe", "pyzmq PUSH/PULL", "pyzmq, credit 2"
_ROUNDTRIP = tuple(
    Peer(name, f"{program}.py", "roundtrip")
    for name, program in ((FLOOR, "floor"), (BY_HAND, "by_hand"), (PIPE, "multiprocessing_peer"), (PYLM, "pylm_peer"))
)


def _rates(other_build: str, target: float) -> tuple[Case, ...]:
    """Of PALM beside another build of it, which leaves something out."""
    targets = {other_build: target}
    return (
        Case("1 server", "/s", 1_000_000, 2000, targets=targets),
        Case("3 servers", "/s", 500_000, 2000, targets=targets),
        Case("8 KiB", "/s", 60_000, 500, 8192, targets=targets),
    )


WORKLOADS = (
    Workload(
        "roundtrip",
        "a call of a function that returns its 64 bytes",
        "roundtrip",
        (Case("bytes", "us", 20_000, 200, targets={FLOOR: 1.5, MPI: 1.0}),),
        (*_ROUNDTRIP, Peer(RING, "floor.py", "ring"), Peer(MPI, "mpi_peer.py", "roundtrip")),
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
        "roundtrip-sockets",
        "the same by libzmq alone, without rings in shared memory",
        "roundtrip",
        (Case("bytes", "us", 2000, 200, targets={FLOOR: 1.1}),),
        (Peer(FLOOR, "floor.py", "roundtrip"),),
        link="sockets",
    ),
    Workload(
        "links",
        "through eight servers in a row, more than there are cores, by rings in shared memory and by libzmq alone",
        "eight",
        (
            Case("64 B", "us", 300, 30, targets={SOCKETS: 1.0}),
            Case("8 KiB", "us", 300, 30, 8192, targets={SOCKETS: 1.0}),
            Case("1 MiB", "us", 100, 10, MIB, targets={SOCKETS: 1.0}),
            Case("rate 64 B", "/s", 50_000, 1000, targets={SOCKETS: 1.0}),
            Case("rate 8 KiB", "/s", 10_000, 500, 8192, targets={SOCKETS: 1.0}),
        ),
        (Peer(SOCKETS, "palm_sockets.py", "eight"),),
    ),
    Workload(
        "stream",
        "64-byte messages through one Python function, results at the client",
        "stream",
        (
            Case("bytes", "/s", 300_000, 2000, targets={BY_HAND: 6.0, BATCHED: 1.3}),
            Case("arrays", "/s", 300_000, 2000, targets={BY_HAND: 6.0}),
        ),
        (
            Peer(BY_HAND, "by_hand.py", "stream"),
            Peer(BATCHED, "by_hand.py", "batched"),
            Peer(MPI, "mpi_peer.py", "stream"),
            Peer(PYLM, "pylm_peer.py", "stream"),
        ),
    ),
    Workload(
        "chain",
        "64-byte messages through three Python functions in three processes, results at the client",
        "chain",
        (Case("bytes", "/s", 200_000, 2000, targets={BY_HAND: 6.0, BATCHED: 1.3}),),
        (
            Peer(BY_HAND, "by_hand.py", "chain"),
            Peer(BATCHED, "by_hand.py", "chain batched"),
            Peer(MPI, "mpi_peer.py", "chain"),
            Peer(PYLM, "pylm_peer.py", "chain"),
        ),
    ),
    Workload(
        "pipeline",
        "arrays handed on unread by three servers: one at a time, and rates",
        "pipeline",
        (
            # as many of each size: after a pause the first 300 take up to twice as long, of any size
            Case("64 B", "us", 500, 50),
            Case("8 KiB", "us", 500, 50, 8192, targets={MPI: 2.0}),
            Case("1 MiB", "us", 500, 20, MIB),
            Case("64 MiB", "us", 500, 2, 64 * MIB, targets={SHARED: 1.0}),
            Case("rate 64 B", "/s", 20_000, 1000),
            Case("rate 8 KiB", "/s", 10_000, 500, 8192),
        ),
        (
            Peer(BY_HAND, "by_hand_arrays.py", "pipeline"),
            Peer(SHARED, "by_hand_arrays.py", "shared"),
            Peer(MEMCPY, "numpy_alone.py", "memcpy"),
            Peer(MPI, "mpi_peer.py", "pipeline"),
            Peer(PYLM, "pylm_peer.py", "pipeline"),
        ),
    ),
    Workload(
        "tasks",
        "tasks that do nothing, on two workers, results at the client",
        "tasks",
        (Case("no-op", "/s", 500_000, 2000, targets={POOL: 1.0, POOL_64: 1.0}),),
        (
            Peer(POOL, "multiprocessing_peer.py", "tasks"),
            Peer(POOL_64, "multiprocessing_peer.py", "tasks, 64 a chunk"),
            Peer(PUSH_PULL, "by_hand_tasks.py", "tasks"),
            Peer(LOKY, "loky_peer.py", "tasks"),
            Peer(MPI_FUTURES, "mpi_futures.py", "tasks"),
            Peer(DASK, "dask_peer.py", "tasks"),
            Peer(RAY, "ray_peer.py", "tasks"),
        ),
    ),
    Workload(
        "makespan",
        "tasks of 1 ms, and one in ten of 20 ms, on two workers: the time for all over what their sum would take",
        "makespan",
        (Case("adversarial", "x ideal", 400, 100), Case("random", "x ideal", 400, 100)),
        (
            Peer(CREDIT, "by_hand_tasks.py", "makespan"),
            Peer(IMAP, "multiprocessing_peer.py", "makespan"),
            Peer(MPI_FUTURES, "mpi_futures.py", "makespan"),
        ),
    ),
    Workload(
        "tracking",
        "what it costs that nothing is lost: rates beside a build of PALM that neither tracks nor repeats messages",
        "tracking",
        _rates(BYPASSED, 0.95),
        (Peer(BYPASSED, "bypassed.py", "tracking"),),
    ),
    Workload(
        "counters",
        "what counters and pulse cost: rates beside a build of PALM that counts nothing, and has hardly a pulse",
        "tracking",
        _rates(UNCOUNTED, 0.99),
        (Peer(UNCOUNTED, "uncounted.py", "tracking"),),
    ),
    Workload(
        "batch",
        "messages of 8 float64: a layer of 8 neurons, a message a call, and as many as there are; x * 2, into an array",
        "batch",
        (
            Case("one by one", "/s", 50_000, 500),
            Case("stacked", "/s", 500_000, 500),
            Case("doubled", "/s", 2_000_000, 5000),
        ),
    ),
    Workload(
        "reduce",
        "500 arrays of 1 MiB made one, by two workers; numpy: functools.reduce(np.add, ...) in one process",
        "reduce",
        (
            Case("any order", "ms", 500, 50, MIB, targets={NUMPY: 1.0, MPI_REDUCE: 0.67}),
            Case("deterministic", "ms", 500, 50, MIB, targets={NUMPY: 1.0}),
        ),
        (
            Peer(NUMPY, "numpy_alone.py", "reduce"),
            Peer(MPI_REDUCE, "mpi_peer.py", "reduce"),
            Peer(MPI_SENT, "mpi_peer.py", "reduce from the client"),
        ),
    ),
    Workload(
        "import",
        "`import palm` after `import numpy, zmq`, in fresh interpreters",
        "import",
        (Case("import", "ms", 5, 2),),
    ),
)
IMPORT_TARGET = 60.0  # ms
DOUBLED_TARGET = 10e6  # messages a second
BATCH_TARGET = 5.0  # of the rate of a batch function over that of the same one by one
SIZES_TARGET = 1.2  # of a 64 MiB array's time over an 8 KiB one's
MAKESPAN_TARGETS = {"adversarial": 1.02, "random": 1.05}
PEER_LIMITS = {  # messages a round: it is that slow
    (PYLM, "64 MiB"): 2,
    (PYLM, "bytes"): 50_000,
    (PYLM, "arrays"): 50_000,
    (PYLM, "1 MiB"): 50,
    (BY_HAND, "64 MiB"): 5,
    (MEMCPY, "64 MiB"): 20,
    (MPI, "64 MiB"): 20,
    (MPI_FUTURES, "no-op"): 2000,
    (DASK, "no-op"): 1000,
    (RAY, "no-op"): 2000,
}


def durations(case: str, n: int) -> list[float]:
    """Seconds of the tasks of `makespan`, for peers in bench/peers/uneven.py. Each tenth is long; "adversarial": just
    so, which gives one of two who take turns all of them."""
    found = [0.02 if i % 10 == 0 else 0.001 for i in range(n)]
    if case == "random":
        random.Random(1).shuffle(found)
    return found
