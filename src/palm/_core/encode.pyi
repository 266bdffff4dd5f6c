# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import numpy as np

def dtype_text(dtype: np.dtype[Any]) -> bytes: ...
