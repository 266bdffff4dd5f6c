# SPDX-License-Identifier: BSD-3-Clause
"""PALM without rings in shared memory: all goes through libzmq."""

import os
import sys

if __name__ == "__main__":
    os.environ["PALM_LINK"] = "sockets"
    from palm.bench_palm import contestant

    contestant(sys.argv[1])
