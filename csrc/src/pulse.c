/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The thread that keeps time while a function computes, with the GIL or without (R10), and that ends the process when
 * its owner is gone (R15), or a function takes longer than it may. It calls nothing that waits. While there is nothing to do
 * for it, it beats but once in two seconds: hundreds of servers on one host may be idle. */
#include "palm_pulse.h"
#include "clock.h"
#include "palm_work.h"
#include "spill.h"
#include "vector.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { BEAT_MS = PALM_COUNTED ? 100 : 10000, REST_MS = 20 * BEAT_MS };
enum { QUIET_BEATS = 20 }; /* before it rests */
static const uint64_t ASK_NS = 1000000000; /* how long a function runs before it is asked who has the GIL, and again */

struct palm_pulse {
    palm_space *space;
    palm_counters *counters;
    pthread_t thread;
    int bell;
    atomic_bool rests;
    uint64_t seen; /* of what the process has done, at the last beat */
    unsigned quiet_beats;
    pthread_mutex_t lock; /* what follows; held during a beat, so that remove() waits for its end */
    PALMI_VECTOR(palm_node *) nodes;
    bool stop;
    int owner_fd, grace_ms;
    uint64_t end_at_ns; /* 0: the owner lives */
    palm_node *limited; /* whose functions are watched; NULL: none */
    int limit_grace_ms;
    int asks; /* -1: nobody would answer */
    palmi_spill prints[PALM_MAX_PRINTS];
    unsigned n_prints;
    char unlink_path[512];
};

static void ring(int eventfd)
{
    uint64_t one = 1;
    ssize_t written = write(eventfd, &one, sizeof one);
    (void)written;
}

/* The owner alone holds the write end and never writes: readable or hung up, it is gone. */
static void owner_is_gone(palm_pulse *p)
{
    p->owner_fd = -1;
    p->end_at_ns = palmi_now_ns() + (uint64_t)p->grace_ms * 1000000u;
    for (uint32_t i = 0; i < p->nodes.n; i++)
        palm_node_stop(p->nodes.at[i]);
}

static void end_process(palm_pulse *p, int code)
{
    if (p->unlink_path[0])
        unlink(p->unlink_path);
    _exit(code);
}

/* It may not wait: who does not read what this process prints may be the one that is to be told. */
static void say(palm_pulse *p, const char *function)
{
    for (unsigned i = 0; i < p->n_prints; i++)
        palmi_spill_empty(&p->prints[i]);
    char line[PALM_NAME_BYTES + 128];
    int n = snprintf(line, sizeof line,
                     "palm: %.*s has overrun its timeout: this process ends, and nobody is there to start it again\n",
                     PALM_NAME_BYTES, function);
    ssize_t written = write(STDERR_FILENO, line, (size_t)n);
    (void)written;
}

static uint64_t realtime_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* `ended` is stored before the process can be dead, and the reader compares ended_since: if another execution has begun
 * in this moment, that one is not to blame. */
static void end_work(palm_pulse *p, palm_end why, uint64_t since)
{
    palm_at_work *work = &p->counters->at_work;
    __atomic_store_n(&work->ended, (uint32_t)why, __ATOMIC_RELAXED);
    palm_gauge(&work->ended_since, since);
    if (p->limit_grace_ms < 0) {
        uint64_t function = __atomic_load_n(&work->function, __ATOMIC_RELAXED);
        say(p, p->counters->functions[function < PALM_MAX_FUNCTIONS ? function : PALM_MAX_FUNCTIONS - 1].name);
    }
    end_process(p, PALM_EXIT_ENDED);
}

/* What has run for less than a beat is left alone: it may come back, and whoever receives looks by itself. */
static void judge(palm_pulse *p, uint64_t now)
{
    palm_at_work *work = &p->counters->at_work;
    uint64_t grace = p->limit_grace_ms < 0 ? UINT64_MAX : (uint64_t)p->limit_grace_ms * 1000000u;
    uint64_t since = __atomic_load_n(&work->since_ns, __ATOMIC_ACQUIRE);
    if (!since || now < since || now - since < BEAT_MS * UINT64_C(1000000))
        return;
    palm_node_attend(p->limited, work, since, now);
    palm_end why = palm_work_judge(work, now, realtime_ns(), grace, &since);
    if (why)
        end_work(p, why, since);
}

static void ask_for_gil(palm_pulse *p, uint64_t now)
{
    palm_counters *c = p->counters;
    uint64_t since = __atomic_load_n(&c->at_work.since_ns, __ATOMIC_RELAXED), asked = palm_seen(&c->gil_asked_ns);
    if (!since || now < since + ASK_NS || now < asked + ASK_NS || asked > palm_seen(&c->gil_had_ns))
        return;
    palm_gauge(&c->gil_asked_ns, now);
    ring(p->asks);
}

static void show_memory(palm_pulse *p)
{
    palm_space_stats s;
    palm_space_get_stats(p->space, &s);
    palm_gauge(&p->counters->arena_in_use, s.arena_in_use);
    palm_gauge(&p->counters->arena_idle, s.arena_idle);
    palm_gauge(&p->counters->mapped, s.mapped);
}

static void beat(palm_pulse *p)
{
    uint64_t now = palmi_now_ns();
    palm_space_tick(p->space, now);
    show_memory(p);
    palm_gauge(&p->counters->pulse_ns, now);
    palm_unread unread = {0};
    for (uint32_t i = 0; i < p->nodes.n; i++)
        palm_node_tick(p->nodes.at[i], &unread);
    palm_gauge(&p->counters->unread.envelopes, unread.envelopes);
    __atomic_store_n(&p->counters->unread.pid, unread.pid, __ATOMIC_RELAXED); /* a glance: the two may not fit */
    for (unsigned i = 0; i < p->n_prints; i++)
        palmi_spill_beat(&p->prints[i]);
    if (p->limited)
        judge(p, now);
    if (p->asks >= 0)
        ask_for_gil(p, now);
    if (p->end_at_ns && now >= p->end_at_ns)
        end_process(p, 1);
}

static bool is_quiet(palm_pulse *p)
{
    const palm_counters *c = p->counters;
    uint64_t done = palm_seen(&c->by_ring) + palm_seen(&c->by_socket) + palm_seen(&c->batches) + palm_seen(&c->rejected);
    bool quiet = done == p->seen && !palm_seen(&c->at_work.since_ns) && !p->end_at_ns;
    p->seen = done;
    for (uint32_t i = 0; i < p->nodes.n && quiet; i++)
        quiet = palm_node_is_quiet(p->nodes.at[i]);
    return quiet;
}

static void rest_or_not(palm_pulse *p)
{
    p->quiet_beats = is_quiet(p) ? p->quiet_beats + 1 : 0;
    atomic_store(&p->rests, p->quiet_beats > QUIET_BEATS);
}

static void *run(void *arg)
{
    palm_pulse *p = arg;
    bool stop = false;
    while (!stop) {
        pthread_mutex_lock(&p->lock);
        struct pollfd fds[] = {{.fd = p->bell, .events = POLLIN}, {.fd = p->owner_fd, .events = POLLIN}};
        pthread_mutex_unlock(&p->lock);
        int n = poll(fds, 2, atomic_load(&p->rests) ? REST_MS : BEAT_MS);
        pthread_mutex_lock(&p->lock);
        uint64_t rings;
        if (n > 0 && fds[0].revents && read(p->bell, &rings, sizeof rings) < 0)
            n = 0;
        if (n > 0 && fds[1].revents && p->owner_fd >= 0)
            owner_is_gone(p);
        beat(p);
        if (n > 0)
            p->quiet_beats = 0;
        rest_or_not(p);
        stop = p->stop;
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

palm_err palm_pulse_start(palm_space *space, palm_pulse **out)
{
    palm_pulse *p = calloc(1, sizeof *p);
    if (!p)
        return PALM_ENOMEM;
    p->space = space;
    p->counters = palm_space_page(space);
    p->owner_fd = p->asks = -1;
    pthread_mutex_init(&p->lock, NULL);
    p->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    /* Signals are for the user's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = p->bell < 0 ? errno : pthread_create(&p->thread, NULL, run, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e) {
        if (p->bell >= 0)
            close(p->bell);
        free(p);
        return (palm_err)(PALM_ESYS + e);
    }
    *out = p;
    return PALM_OK;
}

palm_err palm_pulse_add(palm_pulse *p, palm_node *node)
{
    pthread_mutex_lock(&p->lock);
    palm_err err = PALMI_GROW(p->nodes, 1);
    if (!err) {
        p->nodes.at[p->nodes.n++] = node;
        palm_node_rest(node, &p->rests, p->bell);
    }
    pthread_mutex_unlock(&p->lock);
    return err;
}

void palm_pulse_remove(palm_pulse *p, palm_node *node)
{
    pthread_mutex_lock(&p->lock);
    for (uint32_t i = 0; i < p->nodes.n; i++)
        if (p->nodes.at[i] == node)
            p->nodes.at[i--] = p->nodes.at[--p->nodes.n];
    palm_node_rest(node, NULL, -1);
    if (p->limited == node)
        p->limited = NULL;
    pthread_mutex_unlock(&p->lock);
}

void palm_pulse_limit(palm_pulse *p, palm_node *node, int grace_ms)
{
    pthread_mutex_lock(&p->lock);
    p->limited = node;
    p->limit_grace_ms = grace_ms;
    pthread_mutex_unlock(&p->lock);
}

void palm_pulse_ask(palm_pulse *p, int fd)
{
    pthread_mutex_lock(&p->lock);
    p->asks = fd;
    pthread_mutex_unlock(&p->lock);
}

void palm_pulse_watch_owner(palm_pulse *p, int owner_fd, int grace_ms, const char *unlink_path)
{
    pthread_mutex_lock(&p->lock);
    p->owner_fd = owner_fd;
    p->grace_ms = grace_ms;
    snprintf(p->unlink_path, sizeof p->unlink_path, "%s", unlink_path ? unlink_path : "");
    pthread_mutex_unlock(&p->lock);
    ring(p->bell);
}

void palm_pulse_relieve(palm_pulse *p, int fd)
{
    pthread_mutex_lock(&p->lock);
    if (p->n_prints < PALM_MAX_PRINTS)
        p->prints[p->n_prints++] = (palmi_spill){.fd = fd};
    else
        close(fd);
    pthread_mutex_unlock(&p->lock);
}

void palm_pulse_stop(palm_pulse *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_mutex_unlock(&p->lock);
    ring(p->bell);
    pthread_join(p->thread, NULL);
    for (unsigned i = 0; i < p->n_prints; i++)
        close(p->prints[i].fd);
    close(p->bell);
    pthread_mutex_destroy(&p->lock);
    free(p->nodes.at);
    free(p);
}
