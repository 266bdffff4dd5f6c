# SPDX-License-Identifier: BSD-3-Clause
"""PALM that neither tracks nor repeats messages."""

import built

if __name__ == "__main__":
    built.compete("bypassed", "tracking")
