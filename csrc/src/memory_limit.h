/* SPDX-License-Identifier: BSD-3-Clause
 * The bound of this process's private memory, as our own code sees it. */
#ifndef PALMI_MEMORY_LIMIT_H
#define PALMI_MEMORY_LIMIT_H

#include "palm_memory.h"

/* Addresses of ours that are to be mapped, of which little is ever touched, do not count; negative: they are gone. */
void palmi_memory_limit_reserve(int64_t bytes);

#endif
