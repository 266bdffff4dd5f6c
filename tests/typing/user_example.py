# SPDX-License-Identifier: BSD-3-Clause
"""What a user writes, checked by `mypy --strict` and never run. The lines with an ignore are mistakes that a type
checker has to find: it complains of an ignore that is not needed."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import palm


class Spectrum(palm.Server):
    taper: NDArray[np.float64]

    def setup(self, size: int = 512) -> None:
        self.taper = np.hanning(size)

    @palm.function
    def power(self, frame: NDArray[np.float64], *, gain: float = 1.0) -> NDArray[np.float64]:
        self.count("frames")
        self.observe("mean", float(frame.mean()))
        self.log.info("message %d, %s", self.message.number, self.message.step)
        power: NDArray[np.float64] = np.abs(np.fft.rfft(frame * self.taper)) ** 2 * gain
        return power

    @palm.function(attempts=1, pure=True)
    def tiles(self, image: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        yield from np.array_split(image, 4)

    @palm.function
    def noise(self, n: int) -> NDArray[np.float64]:
        return self.rng.standard_normal(n)

    @palm.function
    def strong(self, frame: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return None if self.cancelled or frame.max() < 1 else frame

    def teardown(self) -> None:
        self.cache.clear()


def decorated_methods_keep_their_types(frame: NDArray[np.float64]) -> None:
    server = Spectrum()
    server.setup(size=8)
    assert_type(server.power(frame, gain=2.0), NDArray[np.float64])
    assert_type(server.noise(5), NDArray[np.float64])
    server.power(frame, gain="2")  # type: ignore[arg-type]
    server.spectrum(frame)  # type: ignore[attr-defined]


def calls(client: palm.Client, frame: NDArray[np.float64]) -> float:
    client.wait_for("spectrum", timeout=5.0)
    power = client.call("spectrum.power", frame, timeout=1.0)
    assert_type(power, Any)
    future = client.submit(palm.step("spectrum.power", gain=2.0), frame)
    assert_type(future, Future[Any])
    assert_type(client.functions(), dict[str, str])
    client.call(5)  # type: ignore[arg-type]
    client.call("spectrum.power", frame, timeout="1")  # type: ignore[arg-type]
    return float(power.sum()) + float(future.result().sum())


async def calls_in_asyncio(client: palm.Client, frame: NDArray[np.float64]) -> list[Any]:
    return await asyncio.gather(*(client.acall("spectrum.power", frame) for _ in range(3)))


def jobs(client: palm.Client, files: list[Path]) -> palm.Progress:
    inputs = (np.load(f) for f in files)
    out = np.empty((len(files), 257))
    job = client.job(["spectrum.tiles", palm.step("spectrum.power", gain=0.5)], inputs, ordered=True, on_error="skip")
    job.into(out)
    assert_type(job.errors, list[palm.RemoteError])
    with client.job("spectrum.power", [out], seed=7, window=4, timeout=60) as other:
        for number, value in other.items():
            if isinstance(value, palm.RemoteError):
                print(number, value.type, value.traceback)
                other.stop()
    client.job("spectrum.power", [out], on_error="ignore")  # type: ignore[arg-type]
    return job.wait(timeout=5.0)


def a_test_without_a_cluster(frame: NDArray[np.float64]) -> list[Any]:
    spectrum = Spectrum()
    spectrum.setup(size=8)
    found = palm.testing.run({"spectrum": spectrum}, ["spectrum.tiles", "spectrum.power"], [frame], seed=7)
    assert_type(found, list[Any])
    palm.testing.run({"spectrum": Spectrum}, "spectrum.power")  # type: ignore[dict-item]
    palm.testing.run({"spectrum": spectrum}, "spectrum.power", frame, 7)  # type: ignore[call-arg]
    palm.testing.walk()  # type: ignore[attr-defined]
    palm.nothing()  # type: ignore[attr-defined]
    return found


def shared_memory() -> NDArray[np.float64]:
    with palm.arena():
        return np.zeros((1000, 1000))


def errors(client: palm.Client) -> str:
    try:
        client.call("spectrum.power", {1, 2})
    except palm.PayloadError as e:
        return str(e)
    except palm.Crashed as e:
        return e.reason
    except palm.RemoteError as e:
        assert_type(e.capsule, str | None)
        return e.capsule or ""
    except (palm.NotFound, palm.Timeout, palm.Disconnected):
        return "no"
    return ""


def main() -> None:
    with palm.Cluster() as cluster:
        name = cluster.start(Spectrum, setup={"size": 512}, memory="2GiB", env={"A": "b"})
        assert_type(name, str)
        client = cluster.client()
        assert_type(client, palm.Client)
        print(calls(client, np.zeros(512)), jobs(client, []).done, errors(client), cluster.status())
        with palm.testing.chaos(cluster, seed=1, kill=0.1, delay=0.1) as hits:
            assert_type(hits, list[palm.testing.Hit])
            print([hit.what for hit in hits])
        cluster.start(5)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
