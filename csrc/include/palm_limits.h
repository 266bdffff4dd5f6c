/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_limits.h: what an envelope may have at most.
 */
#ifndef PALM_LIMITS_H
#define PALM_LIMITS_H

#include "palm_decls.h"

PALM_BEGIN_DECLS

enum {
    PALM_WIRE_VERSION = 1,
    PALM_MAX_HEAD = 1 << 20,     /* bytes of FlatBuffer in an envelope: a batch of PALM_MAX_RECORDS arrays needs half */
    PALM_MAX_RECORDS = 4096,     /* messages in a batch: beyond some hundred, a thousand of a run, nothing is saved any more */
    PALM_MAX_PATH = 32,          /* fan-outs a message may have passed (DELIVERY 1) */
    PALM_MAX_ARRAYS = 16384,     /* arrays in an envelope */
    PALM_MAX_RUN_DIMS = 65536,   /* numbers of shape and strides, of all runs of arrays in an envelope */
    PALM_MAX_DIMS = 64,          /* numpy's own limit */
    PALM_MAX_PARTS = 1024,       /* frames after the first: below IOV_MAX */
    PALM_LITTLE_PART = 32 << 10, /* bytes of a lent array that goes in the body where larger ones are frames of their own */
    PALM_MAX_TEXT = 4096,        /* bytes of one text (dtype, name, endpoint) */
    PALM_MAX_STEPS = 256,        /* steps of a pipeline */
    PALM_MAX_DEPTH = 64,         /* nesting of a payload tree: far from the C stack's end */
    PALM_ALIGN = 64              /* of blocks, bodies and frames (R22) */
};

PALM_END_DECLS
#endif
