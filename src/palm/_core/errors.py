# SPDX-License-Identifier: BSD-3-Clause
"""The exceptions that the core itself raises; palm.errors has the others."""


class PalmError(Exception):
    """Base of all exceptions of PALM."""


class PayloadError(PalmError, TypeError):
    """A value cannot be sent, or does not fit the function; the message names the place in the tree."""


PalmError.__module__ = PayloadError.__module__ = "palm"
