# SPDX-License-Identifier: BSD-3-Clause
"""Where this is imported, nobody waits for another worker for longer than a second: in the leader of `Hasty`, whose
module this is, and by ``$PALM_PRELOAD`` in the registry."""

from __future__ import annotations

from helpers_butterfly import Work

from palm import registry, tenure

registry.LINGER = tenure.LINGER = 1.0


class Hasty(Work):
    pass
