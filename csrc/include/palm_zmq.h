/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_zmq.h: the libzmq that pyzmq has loaded (zmq.c).
 */
#ifndef PALM_ZMQ_H
#define PALM_ZMQ_H

#include "palm_err.h"

#include <stdbool.h>

PALM_BEGIN_DECLS

/* Resolves libzmq's entry points from a shared object that has it, or links to it. PALM_ENOSYM: *missing names the
 * first that is not there. Again with the same or another path: no effect. */
palm_err palm_zmq_load(const char *path, const char **missing);
void palm_zmq_version(int *major, int *minor, int *patch);
bool palm_zmq_has(const char *capability); /* "curve", "ipc" */

PALM_END_DECLS
#endif
