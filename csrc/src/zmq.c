/* SPDX-License-Identifier: BSD-3-Clause */
#include "zmq_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

struct palmi_zmq palmi_zmq;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool loaded;
static void *context;
static unsigned context_users;

static const char *resolve(void *handle, struct palmi_zmq *api)
{
#define PALMI_ZMQ_RESOLVE(type, name, args)                     \
    *(void **)&api->name##_ = dlsym(handle, "zmq_" #name);      \
    if (!api->name##_)                                          \
        return "zmq_" #name;
    PALMI_ZMQ_FUNCTIONS(PALMI_ZMQ_RESOLVE)
#undef PALMI_ZMQ_RESOLVE
    return NULL;
}

palm_err palm_zmq_load(const char *path, const char **missing)
{
    *missing = NULL;
    pthread_mutex_lock(&lock);
    palm_err err = PALM_OK;
    if (!loaded) {
        /* The handle is kept: the entry points have to stay. */
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        *missing = handle ? resolve(handle, &palmi_zmq) : dlerror();
        loaded = !*missing;
        err = loaded ? PALM_OK : PALM_ENOSYM;
    }
    pthread_mutex_unlock(&lock);
    return err;
}

void palm_zmq_version(int *major, int *minor, int *patch)
{
    palmi_zmq.version_(major, minor, patch);
}

bool palm_zmq_has(const char *capability)
{
    return palmi_zmq.has_(capability) == 1;
}

palm_err palmi_zmq_err(void)
{
    int e = palmi_zmq.errno_();
    return e == EAGAIN ? PALM_EAGAIN : e == EINTR ? PALM_EINTR : (palm_err)(PALM_ESYS + e);
}

#define RETRIED(name, function, parameters, arguments)      \
    int palmi_zmq_##name parameters                         \
    {                                                       \
        int got;                                            \
        do                                                  \
            got = palmi_zmq.function##_ arguments;          \
        while (got < 0 && palmi_zmq.errno_() == EINTR);     \
        return got;                                         \
    }
RETRIED(connect, connect, (void *socket, const char *endpoint), (socket, endpoint))
RETRIED(bind, bind, (void *socket, const char *endpoint), (socket, endpoint))
RETRIED(monitor, socket_monitor, (void *socket, const char *endpoint, int events), (socket, endpoint, events))
RETRIED(send, msg_send, (palmi_zmq_msg *msg, void *socket, int flags), (msg, socket, flags))
RETRIED(recv, msg_recv, (palmi_zmq_msg *msg, void *socket, int flags), (msg, socket, flags))
#undef RETRIED

palm_err palmi_zmq_context(void **out)
{
    pthread_mutex_lock(&lock);
    palm_err err = loaded ? PALM_OK : PALM_ECLOSED;
    if (!err && !context && !(context = palmi_zmq.ctx_new_()))
        err = palmi_zmq_err();
    if (!err) {
        context_users++;
        *out = context;
    }
    pthread_mutex_unlock(&lock);
    return err;
}

void palmi_zmq_context_drop(void)
{
    void *end = NULL;
    pthread_mutex_lock(&lock);
    if (--context_users == 0) {
        end = context;
        context = NULL;
    }
    pthread_mutex_unlock(&lock);
    while (end && palmi_zmq.ctx_term_(end) && palmi_zmq.errno_() == EINTR)
        ;
}
