/* SPDX-License-Identifier: BSD-3-Clause
 * Files in memory of a fixed size, which processes of this host open by pid and descriptor. */
#ifndef PALMI_SEALED_H
#define PALMI_SEALED_H

#include <stdint.h>

/* A new one, of zeros, close-on-exec; -1: errno says why. */
int palmi_sealed_new(uint64_t bytes);
/* That which process `pid` has open as `fd`; -1: it is none. Numbers of processes and files are used again, so the caller
 * has to look what is in it. */
int palmi_sealed_open(int32_t pid, int32_t fd, int flags, uint64_t *bytes);

#endif
