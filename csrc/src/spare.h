/* SPDX-License-Identifier: BSD-3-Clause
 * Batches that are used again, with the memory that they have: a client keeps the envelopes of its inputs until their
 * results are there, and fresh memory for each costs as much as all the rest of keeping (docs/decisions/batching.md). */
#ifndef PALMI_SPARE_H
#define PALMI_SPARE_H

#include "batch.h"

enum { PALMI_SPARE_ROOM = 5 << 16 }; /* bytes of body, at most: of a full envelope, with room for what is put into it last */

/* An empty one, or NULL. */
palm_batch *palmi_spare_take(void);
/* False: it is not kept, being too large, or one too many. */
bool palmi_spare_keep(palm_batch *empty);
/* Gives all of them back to malloc. */
void palmi_spare_clear(void);

#endif
