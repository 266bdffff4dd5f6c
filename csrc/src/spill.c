/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Pipes that nobody reads. The reader is a thread in another process, which may be stopped, or have no GIL for a while;
 * what it reads meanwhile is taken from it here, whole or in the middle of a line, but each line is counted once: by the
 * newline that ends it, with whoever has read that. */
#include "spill.h"

#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MARK = '\x1e', MOST_READS = 64 }; /* of 64 KiB: others may go on to write */

static bool has_room(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return poll(&p, 1, 0) > 0 && (p.revents & POLLOUT);
}

static uint64_t newlines(const char *p, size_t n)
{
    uint64_t found = 0;
    for (const char *end = p + n; (p = memchr(p, '\n', (size_t)(end - p))); p++)
        found++;
    return found;
}

/* What a mark from before tells, which its reader has not read either, is told again. */
static void count(palmi_spill *s, const char *p, const char *end)
{
    while (p < end) {
        if (!s->in_mark) {
            const char *mark = memchr(p, MARK, (size_t)(end - p));
            s->lost += newlines(p, (size_t)((mark ? mark : end) - p));
            s->in_mark = mark != NULL;
            s->mark = 0;
            p = mark ? mark + 1 : end;
        } else if (s->in_mark == 1) {
            s->in_mark = *p == '!' ? 2 : 0;
            p += *p == '!';
        } else if (*p >= '0' && *p <= '9') {
            s->mark = 10 * s->mark + (uint64_t)(*p++ - '0');
        } else { /* its end, or none of ours */
            s->lost += *p == '\n' ? s->mark : 0;
            s->in_mark = 0;
            p += *p == '\n';
        }
    }
}

/* A write of so few bytes is done as a whole or not at all. */
static void tell(palmi_spill *s)
{
    char line[32];
    int n = snprintf(line, sizeof line, "\x1e!%llu\n", (unsigned long long)s->lost);
    if (write(s->fd, line, (size_t)n) == n)
        s->lost = 0;
}

void palmi_spill_empty(palmi_spill *s)
{
    static char bytes[1 << 16]; /* the pulse's alone */
    ssize_t n;
    for (int i = 0; i < MOST_READS && (n = read(s->fd, bytes, sizeof bytes)) > 0; i++)
        count(s, bytes, bytes + n);
    if (s->lost)
        tell(s);
}

/* Once it had to be emptied it is so again whenever it is full, until that is over. */
void palmi_spill_beat(palmi_spill *s)
{
    if (has_room(s->fd)) {
        s->full = 0;
        if (s->lost)
            tell(s);
    } else if (++s->full >= PALMI_SPILL_PATIENCE) {
        palmi_spill_empty(s);
    }
}
