# SPDX-License-Identifier: BSD-3-Clause
"""The results of a job as rows of an array (`Job.into`), and what its journal keeps of them."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np

from palm.journal import Journal

SAMPLE = 16  # inputs, of those noted last, whose rows a journal knows again


class Rows:
    """Of the user's array.

    Raises
    ------
    TypeError, ValueError
        `out` is no array with rows, or read-only.
    """

    def __init__(self, out: np.ndarray[Any, Any]) -> None:
        _check_writable(out)
        self._out, self._written = out, np.zeros(len(out), bool)

    def put(self, number: int, value: Any) -> None:
        """The result of an input into its row."""
        out = self._out
        if number >= len(out):
            raise IndexError(f"the result of input {number} has no place in an array of {len(out)} rows")
        if self._written[number]:
            raise ValueError(f"input {number} has several results, and one row: iterate over job.items() instead")
        if np.shape(value) != out.shape[1:]:
            raise ValueError(
                f"the result of input {number} has shape {np.shape(value)}, a row of `out` {out.shape[1:]}"
            )
        try:
            np.copyto(out[number : number + 1], np.asarray(value)[np.newaxis], casting="same_kind")
        except TypeError:
            what = f"dtype {value.dtype}" if hasattr(value, "dtype") else f"type {type(value).__name__}"
            raise TypeError(
                f"the result of input {number}, of {what}, does not cast to {out.dtype}, that of `out`"
            ) from None
        self._written[number] = True

    def put_all(self, first: int, rows: np.ndarray[Any, Any]) -> None:
        """Those of inputs that follow one another, if all of them fit; else one by one, up to one that does not."""
        out, place = self._out, slice(first, first + len(rows))
        is_alike = rows.shape[1:] == out.shape[1:] and np.can_cast(rows.dtype, out.dtype, "same_kind")
        if is_alike and place.stop <= len(out) and not self._written[place].any():
            out[place] = rows
            self._written[place] = True
            return
        for number, row in enumerate(rows, first):
            self.put(number, row)

    def keep_in(self, journal: Journal) -> None:
        """Rows are in the file of `out` before an input is noted as done; ValueError if those that were are not
        there."""
        out, done = self._out, sum(end - first for first, end in journal.done)
        before = f"{done} inputs were done before, by the journal"
        if not isinstance(out, np.memmap) or out.mode in (None, "c"):
            _warn(
                f"{before}: the rows in `out`, no memmap of a file, are as they were"
                if done
                else "inputs are noted as done whose rows are in `out`, no memmap of a file: after a kill they are gone"
            )
            return
        if journal.known is not None and self._digest(journal.known[0]) != journal.known[1]:
            raise ValueError(
                f"{done} inputs are done, by the journal {journal.path}, but their rows of `out` are not what they "
                'were: open its file with mode "r+" ("w+" makes it anew), or name another journal to have all '
                "done again"
            )
        if done and not journal.is_sampled:
            _warn(f"{before}, not all by `into` with a memmap: see that `out` has them")
        journal.sync, journal.sample = out.flush, self._sample

    def _sample(self, numbers: list[int]) -> tuple[list[int], str]:
        """The last of these inputs that have rows."""
        has_row = (n for n in reversed(numbers) if n < len(self._written) and self._written[n])
        inputs = list(itertools.islice(has_row, SAMPLE))
        return inputs, self._digest(inputs)

    def _digest(self, inputs: list[int]) -> str:
        """Of up to 4096 elements of each row."""
        import hashlib  # 4 ms that others need not wait for

        digest = hashlib.blake2b(digest_size=8)
        for number in inputs:
            digest.update(self._out[number : number + 1].flat[:4096].tobytes())
        return digest.hexdigest()


def _check_writable(out: Any) -> None:
    if not isinstance(out, np.ndarray) or out.ndim == 0:
        what = f"an array without rows, {out!r}" if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"`out` has to be an array with a row for each input, not {what}: np.empty((inputs, ...))")
    if not out.flags.writeable:
        raise ValueError('`out` is read-only: give an array of your own, or a memmap that is opened with mode "r+"')


def _warn(what: str) -> None:
    warnings.warn(what, RuntimeWarning, stacklevel=1)  # compiled code has no frames: this is the user's
