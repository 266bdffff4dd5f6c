# SPDX-License-Identifier: BSD-3-Clause
"""What a function can know of the message it works on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

INDEX_BITS = 48  # a component of a path on the wire is hop << 48 | index
_INDEX = (1 << INDEX_BITS) - 1
NO_ONE_MESSAGE = "a batch function works on several messages: it has no `message` and no `rng`; send what it needs"


@dataclass(frozen=True)
class Message:
    """The message at work.

    Attributes
    ----------
    job : str
        Id of the job, 32 hexadecimal digits.
    number : int
        Of the input it stems from.
    path : tuple of int
        The number, then the place in each fan-out: unique in the job, the same in every run.
    stage : int
        Steps passed since the input.
    step : str
        This step.
    rest : tuple of str
        The route still to go.
    client : str
        Who submitted the job.
    deadline : float or None
        Seconds since 1970, by the client's clock: when the `timeout` of the call or of the whole job is over. None:
        there is none. A message is not begun after it, and `Server.cancelled` is True from then on.
    attempt : int
        1 at the first execution.
    """

    job: str
    number: int
    path: tuple[int, ...]
    stage: int
    step: str
    rest: tuple[str, ...]
    client: str
    deadline: float | None
    attempt: int
    seed: int = field(default=0, repr=False)

    @staticmethod
    def of_nothing() -> Message:
        """What a template sees that is called directly, outside of any job."""
        return Message("", 0, (0,), 0, "", (), "", None, 1)

    def rng(self) -> np.random.Generator:
        cached: np.random.Generator | None = self.__dict__.get("_rng")
        if cached is None:
            sequence = np.random.SeedSequence(self.seed, spawn_key=(*self.path, self.stage))
            cached = np.random.Generator(np.random.Philox(sequence))
            object.__setattr__(self, "_rng", cached)
        return cached


def places(path: tuple[int, ...]) -> tuple[int, ...]:
    """The indices of a path on the wire."""
    return tuple(component & _INDEX for component in path)


def input_of(number: int, path: tuple[int, ...], start: bool) -> tuple[int, tuple[int, ...]]:
    """A name as users see it. `start`: the job has no inputs; what its first function yields are the inputs then."""
    if start and number == 0 and path:
        return path[0] & _INDEX, path[1:]
    return number, path


def child(path: tuple[int, ...], hop: int, index: int) -> tuple[int, ...]:
    """The path of the child `index` of a message that fans out after `hop` steps."""
    return (*path, hop << INDEX_BITS | index)
