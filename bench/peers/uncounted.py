# SPDX-License-Identifier: BSD-3-Clause
"""PALM that counts nothing, and has hardly a pulse."""

import built

if __name__ == "__main__":
    built.compete("uncounted", "counters")
