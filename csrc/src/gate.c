/* SPDX-License-Identifier: BSD-3-Clause
 * The gate: who may connect. */
#include "curve.h"

#include "zmq_api.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FRAMES = 8, MOST_BYTES = 256 }; /* of a request by libzmq: six texts and a key */
enum { ID = 1, ADDRESS = 3, MECHANISM = 5, KEY = 6, WHOLE = 7 };

static const char ENDPOINT[] = "inproc://zeromq.zap.01"; /* RFC 27 */

static struct {
    pthread_mutex_t door; /* what follows: who enters or leaves */
    void *context;
    unsigned users;
    pthread_t thread;
    pthread_mutex_t lock; /* what follows, the thread's too */
    uint8_t (*keys)[PALM_KEY_BYTES];
    uint32_t n;
    char refused[160];
} gate = {.door = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER};

typedef struct request {
    uint8_t bytes[MOST_FRAMES][MOST_BYTES];
    size_t size[MOST_FRAMES];
    uint32_t n;
} request;

/* ------------------------------------------------------------------------------------------------- who is allowed */

palm_err palm_gate_allow(const uint8_t (*keys)[PALM_KEY_BYTES], uint32_t n)
{
    uint8_t(*copy)[PALM_KEY_BYTES] = malloc(n ? n * sizeof *copy : 1);
    if (!copy)
        return PALM_ENOMEM;
    if (n)
        memcpy(copy, keys, n * sizeof *copy);
    pthread_mutex_lock(&gate.lock);
    free(gate.keys);
    gate.keys = copy;
    gate.n = n;
    pthread_mutex_unlock(&gate.lock);
    return PALM_OK;
}

/* Public keys: nothing is given away by the time that this takes. */
static bool is_allowed(const uint8_t key[PALM_KEY_BYTES])
{
    for (uint32_t i = 0; i < gate.n; i++)
        if (!memcmp(gate.keys[i], key, PALM_KEY_BYTES))
            return true;
    return false;
}

static void note_refused(const request *r)
{
    char hex[2 * PALM_KEY_BYTES + 1];
    for (int i = 0; i < PALM_KEY_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", r->bytes[KEY][i]);
    int size = r->size[ADDRESS] < 64 ? (int)r->size[ADDRESS] : 64;
    snprintf(gate.refused, sizeof gate.refused, "from %.*s, whose key %s is not allowed", size, (const char *)r->bytes[ADDRESS],
             hex);
}

static bool judge(const request *r)
{
    bool has_key = r->n >= WHOLE && r->size[MECHANISM] == 5 && !memcmp(r->bytes[MECHANISM], "CURVE", 5) &&
                   r->size[KEY] == PALM_KEY_BYTES;
    pthread_mutex_lock(&gate.lock);
    bool allowed = has_key && is_allowed(r->bytes[KEY]);
    if (has_key && !allowed)
        note_refused(r);
    pthread_mutex_unlock(&gate.lock);
    return allowed;
}

void palmi_gate_refused(char *text, size_t room)
{
    pthread_mutex_lock(&gate.lock);
    snprintf(text, room, "%s", gate.refused);
    pthread_mutex_unlock(&gate.lock);
}

/* ------------------------------------------------------------------------------------------------------ its thread */

/* False: the context ends. */
static bool receive(void *socket, request *r)
{
    bool more = true;
    memset(r, 0, sizeof *r);
    while (more) {
        palmi_zmq_msg msg;
        palmi_zmq.msg_init_(&msg);
        if (palmi_zmq_recv(&msg, socket, 0) < 0) {
            palmi_zmq.msg_close_(&msg);
            return false;
        }
        size_t size = palmi_zmq.msg_size_(&msg);
        if (r->n < MOST_FRAMES && size <= MOST_BYTES) {
            memcpy(r->bytes[r->n], palmi_zmq.msg_data_(&msg), size);
            r->size[r->n++] = size;
        }
        more = palmi_zmq.msg_more_(&msg);
        palmi_zmq.msg_close_(&msg);
    }
    return true;
}

static bool send(void *socket, const void *bytes, size_t size, bool more)
{
    palmi_zmq_msg msg;
    if (palmi_zmq.msg_init_size_(&msg, size))
        return false;
    if (size)
        memcpy(palmi_zmq.msg_data_(&msg), bytes, size);
    if (palmi_zmq_send(&msg, socket, more ? PALMI_ZMQ_SNDMORE : 0) >= 0)
        return true;
    palmi_zmq.msg_close_(&msg);
    return false;
}

static void answer(void *socket, const request *r, bool allowed)
{
    send(socket, "1.0", 3, true);
    send(socket, r->bytes[ID], r->size[ID], true);
    send(socket, allowed ? "200" : "400", 3, true);
    send(socket, "", 0, true); /* text, user, metadata: nobody reads them */
    send(socket, "", 0, true);
    send(socket, "", 0, false);
}

static void *serve(void *socket)
{
    request r;
    while (receive(socket, &r) && r.n > 1) /* of one frame: the last has left */
        answer(socket, &r, judge(&r));
    palmi_zmq.close_(socket);
    return NULL;
}

/* Signals are for the user's threads. */
static palm_err open_gate(void *context)
{
    void *socket = palmi_zmq.socket_(context, PALMI_ZMQ_REP);
    if (!socket)
        return palmi_zmq_err();
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    palm_err err = palmi_zmq_bind(socket, ENDPOINT) ? palmi_zmq_err() : PALM_OK;
    int e = err ? 0 : pthread_create(&gate.thread, NULL, serve, socket);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e)
        err = (palm_err)(PALM_ESYS + e);
    if (err)
        palmi_zmq.close_(socket);
    gate.context = context;
    return err;
}

palm_err palmi_gate_enter(void *context)
{
    pthread_mutex_lock(&gate.door);
    palm_err err = gate.users ? PALM_OK : open_gate(context);
    gate.users += !err;
    pthread_mutex_unlock(&gate.door);
    return err;
}

/* If this fails, the end of the context ends the thread. */
static void close_gate(void)
{
    int no_linger = 0;
    void *last = palmi_zmq.socket_(gate.context, PALMI_ZMQ_REQ);
    if (!last)
        return;
    palmi_zmq.setsockopt_(last, PALMI_ZMQ_LINGER, &no_linger, sizeof no_linger);
    if (!palmi_zmq_connect(last, ENDPOINT) && send(last, "", 0, false))
        pthread_join(gate.thread, NULL);
    palmi_zmq.close_(last);
}

void palmi_gate_leave(void)
{
    pthread_mutex_lock(&gate.door);
    if (--gate.users == 0)
        close_gate();
    pthread_mutex_unlock(&gate.door);
}
