# SPDX-License-Identifier: BSD-3-Clause
from typing import Any, Final, final

import numpy as np

class BlockLost(RuntimeError): ...

def want_of_memory(error: object) -> MemoryError | None: ...

@final
class _Nothing: ...

NOTHING: Final[_Nothing]

def dtype_of_text(text: bytes) -> np.dtype[Any]: ...
