/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What an envelope has to obey beyond being a FlatBuffer; the same rules for what is written and what was read. */
#ifndef PALMI_ENVELOPE_CHECK_H
#define PALMI_ENVELOPE_CHECK_H

#include "palm_envelope.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Checks every number in *e against the others. All pointers have to be good for as many items as *e says; nothing
 * else is believed. PALM_ELIMIT: more than a PALM_MAX_...; PALM_EMALFORMED: it contradicts itself. */
palm_err palmi_envelope_check(const palm_envelope *e);

#ifdef __cplusplus
}
#endif
#endif
