/* SPDX-License-Identifier: BSD-3-Clause
   Memory of the bodies of batches. Large ones are used again: a client keeps the envelopes of its inputs until their
   results are there, and fresh memory for each costs as much as all the rest of keeping (docs/decisions/batching.md). */
#pragma once
#include "palm.h"

/* Room for `end` bytes at least, the first `used` as they were; *room: what there is. */
palm_err palmi_body_grow(uint8_t **body, uint64_t *room, uint64_t used, uint64_t end);
void palmi_body_free(uint8_t *body, uint64_t room);
