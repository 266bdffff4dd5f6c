/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_err.h: what calls that can fail return.
 */
#ifndef PALM_ERR_H
#define PALM_ERR_H

#include "palm_decls.h"

PALM_BEGIN_DECLS

typedef enum palm_err {
    PALM_OK = 0,
    PALM_ENOMEM,       /* no memory, neither arena nor heap */
    PALM_EINVAL,       /* a caller's mistake */
    PALM_EAGAIN,       /* nothing there yet */
    PALM_EINTR,        /* a signal came: look at it, call again */
    PALM_ECLOSED,      /* closed, by us or by the other side */
    PALM_EFORK,        /* used in a process that was forked from the one that made it */
    PALM_EMALFORMED,   /* bytes that are no envelope, or one that contradicts itself */
    PALM_EVERSION,     /* an envelope of a version we do not speak */
    PALM_ELIMIT,       /* larger, deeper or longer than a PALM_MAX_... */
    PALM_ESTALE,       /* the block now has another generation: what was offered is gone */
    PALM_EUNREACHABLE, /* a peer's memory cannot be mapped from here */
    PALM_EFULL,        /* the arena has no room, or its table of processes has none, or a batch */
    PALM_ENOSYM,       /* libzmq lacks an entry point */
    PALM_EKEY,         /* an endpoint with a key for who has none, or one without for who has */
    PALM_ERR_COUNT,
    PALM_ESYS = 4096   /* PALM_ESYS + errno: the system said so */
} palm_err;

/* A sentence for any value, known or not; static storage for all but PALM_ESYS + errno, which is per thread. */
const char *palm_strerror(palm_err err);
/* The name of the enumerator ("PALM_ENOMEM"), or NULL if there is none of this value. */
const char *palm_errname(palm_err err);

PALM_END_DECLS
#endif
