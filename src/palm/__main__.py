# SPDX-License-Identifier: BSD-3-Clause
"""``python -m palm``: the command `palm`."""

from palm.cli import main

main()
