# SPDX-License-Identifier: BSD-3-Clause
"""The C core bound to Python and numpy. No policy in here: what it binds is csrc/include/palm.h."""
