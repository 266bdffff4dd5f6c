# SPDX-License-Identifier: BSD-3-Clause
"""What the shell gives and gets: constants in steps, and values in .npy, .npz and .json files."""

from __future__ import annotations

import base64
import glob
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from palm.step import Step, step

SUFFIXES = (".npy", ".npz", ".json")


def parse_step(text: str) -> Step:
    """A step with constants, from ``server.function:gain=2.0,mode=fast``.

    Each value is JSON, or else the text up to the next comma. ValueError if it cannot be understood.
    """
    name, _, rest = text.partition(":")
    if "/" in name or Path(name).suffix in SUFFIXES:
        raise ValueError(f"{name} is a file, where a step stands: is the pattern of --input in quotes?")
    constants = {}
    while rest:
        key, equals, rest = rest.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{text!r}: constants are written as server.function:gain=2.0,size=3")
        constants[key], rest = _value(rest)
    return step(name, **constants)


def _value(text: str) -> tuple[Any, str]:
    """The value `text` begins with, and what follows the comma after it."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        end = -1
    if end < 0 or text[end : end + 1] not in ("", ","):
        value, _, rest = text.partition(",")
        return value, rest
    return value, text[end + 1 :]


def load(path: str | Path) -> Any:
    """The value in a file: an array, a dict of arrays, or what JSON has. Nothing is unpickled.

    ValueError or OSError if there is none.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"a file of values ends in {', '.join(SUFFIXES)}")
    if suffix == ".json":
        return json.loads(Path(path).read_bytes())
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise ValueError(f"damaged: {e}") from None
    except ValueError as e:
        if "pickle" in str(e):  # numpy's advice would be to unpickle it
            raise ValueError(f"no {suffix} file of plain arrays: it has objects, or is something else") from None
        raise


def suffix_of(value: Any) -> str:
    """What keeps a value: .npy an array, .npz a dict of arrays and numbers, .json the rest."""
    if isinstance(value, np.ndarray):
        return ".npy"
    if (
        isinstance(value, dict)
        and any(isinstance(v, np.ndarray) for v in value.values())
        and all(
            isinstance(k, str) and isinstance(v, (np.ndarray, np.generic, bool, int, float, complex))
            for k, v in value.items()
        )
    ):
        return ".npz"
    return ".json"


def save(path: Path, value: Any) -> None:
    """Write a value to `path`, of a suffix that suits it: there is the whole file or none, whenever this is killed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "xb") as file:
            if path.suffix == ".npy":
                np.save(file, value, allow_pickle=False)
            elif path.suffix == ".npz":
                _save_npz(file, value)
            else:
                file.write(to_json(value).encode() + b"\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _save_npz(file: Any, arrays: dict[str, Any]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def to_json(value: Any, indent: int | None = None) -> str:
    """A payload as JSON: arrays as lists, complex numbers as [real, imaginary], bytes in base64, what is not finite as
    null."""
    return json.dumps(_plain(value), indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist())
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def inputs_of(pattern: str) -> dict[str, Path]:
    """The files of a glob pattern by the names of their results; ValueError if there are none, or two of one name."""
    found: dict[str, Path] = {}
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: a file of values ends in {', '.join(SUFFIXES)}")
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path} would have the same output {path.stem}: use two --output")
        found[path.stem] = path
    if not found:
        raise ValueError(f"no file matches {pattern!r}")
    return found
