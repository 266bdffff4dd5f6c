/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm.h: all of the core that the outside may use. What is not in these is private.
 *
 * Calls that can fail return a palm_err; results come through out-pointers, which are written on success alone.
 * "Success takes, failure leaves": a call that takes something over owns it if, and only if, it returned PALM_OK.
 */
#ifndef PALM_H
#define PALM_H

#include "palm_batch.h"    /* what one envelope will carry */
#include "palm_book.h"     /* what became of each input of a job */
#include "palm_counters.h" /* the page in which a process counts */
#include "palm_envelope.h" /* the header of a message or of a batch of messages */
#include "palm_err.h"      /* errors */
#include "palm_limits.h"   /* what an envelope may have at most */
#include "palm_memory.h"   /* the bound of private memory */
#include "palm_node.h"     /* a process on the wire */
#include "palm_pulse.h"    /* the thread that keeps time while a function computes */
#include "palm_space.h"    /* this process's shared memory, and that of its peers */
#include "palm_work.h"     /* the message at work */
#include "palm_zmq.h"      /* the libzmq that pyzmq has loaded */

#endif
