/* SPDX-License-Identifier: BSD-3-Clause
 * Memory that is needed for an event, and again for the next one. malloc gives what is large back to the kernel each time, and
 * pages that are new cost more than all that is written to them. */
#ifndef PALMI_WARM_H
#define PALMI_WARM_H

#include <stddef.h>

/* At least so many bytes, and at most twice as many, since some are kept for long; NULL: there are none. From 16 to 512 KiB
 * they may be warm. */
void *palmi_warm_take(size_t size);
/* Any thread's, and NULL. */
void palmi_warm_give(void *memory);
/* What nobody has goes back to malloc. */
void palmi_warm_clear(void);

#endif
