/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_pulse.h: the thread that keeps time while a function computes (pulse.c).
 */
#ifndef PALM_PULSE_H
#define PALM_PULSE_H

#include "palm_node.h"

PALM_BEGIN_DECLS

/* A thread of its own that beats ten times a second while functions compute: sweeps and trims the space, settles the
 * nodes, stamps counters->pulse_ns. owner_fd: read end of a pipe whose write end the owner alone holds, or -1; when it
 * breaks, the node is stopped, and after grace_ms `unlink_path` is removed and the process ends, GIL or no GIL (R15). */
typedef struct palm_pulse palm_pulse;
palm_err palm_pulse_start(palm_space *space, palm_pulse **out);
palm_err palm_pulse_add(palm_pulse *pulse, palm_node *node);
void palm_pulse_remove(palm_pulse *pulse, palm_node *node); /* returns when the pulse does not use it any more */
void palm_pulse_watch_owner(palm_pulse *pulse, int owner_fd, int grace_ms, const char *unlink_path);
/* The functions of this process get their messages from `node`: one that takes longer than it may ends the process, which
 * then says why on its page (palm_at_work.ended), and exits with PALM_EXIT_ENDED. grace_ms: of what is late or unwanted;
 * -1: since nobody starts this process again, only what overruns its own limit ends it, and a line on stderr says so. */
enum { PALM_EXIT_ENDED = 124 };
void palm_pulse_limit(palm_pulse *pulse, palm_node *node, int grace_ms);
/* Each second of a function that has run for one, this eventfd is written to, unless that was not answered the last time
 * (gil_asked_ns is then greater than gil_had_ns). -1: no longer. */
void palm_pulse_ask(palm_pulse *pulse, int fd);
/* fd: a pipe into which this process prints, opened for reading and writing, and not to wait. If it stays full for a second
 * it is emptied, so that nobody waits for ever for a reader that does not read; a line "\x1e!N" in it tells of how many
 * lines. Two at most; the fd is the pulse's own. */
enum { PALM_MAX_PRINTS = 2 };
void palm_pulse_relieve(palm_pulse *pulse, int fd);
void palm_pulse_stop(palm_pulse *pulse);

PALM_END_DECLS
#endif
