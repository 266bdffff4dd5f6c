/* SPDX-License-Identifier: BSD-3-Clause
 * Kill tests end the process at the n-th of these, which stand between any two accesses to shared memory, and widen the
 * windows between them. Elsewhere they are nothing. */
#ifndef PALMI_CRASHPOINT_H
#define PALMI_CRASHPOINT_H

#ifdef PALM_CRASHPOINTS
void palmi_crashpoint(void);
void palmi_gap(void);
void palmi_conflict(void);
#define PALMI_CRASHPOINT() palmi_crashpoint()
#define PALMI_GAP() palmi_gap()
#define PALMI_CONFLICT() palmi_conflict()
#else
#define PALMI_CRASHPOINT() ((void)0)
#define PALMI_GAP() ((void)0)
#define PALMI_CONFLICT() ((void)0)
#endif

#endif
