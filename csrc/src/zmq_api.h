/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The part of libzmq that the core uses, resolved at run time (DESIGN 5.1). No header of libzmq is needed to build:
 * names and numbers are those of its stable ABI (4.x). */
#ifndef PALMI_ZMQ_API_H
#define PALMI_ZMQ_API_H

#include "palm_zmq.h"

#include <stddef.h>

typedef struct palmi_zmq_msg { _Alignas(8) unsigned char opaque[64]; } palmi_zmq_msg;

enum { /* zmq.h */
    PALMI_ZMQ_PAIR = 0, PALMI_ZMQ_REQ = 3, PALMI_ZMQ_REP = 4, PALMI_ZMQ_PULL = 7, PALMI_ZMQ_PUSH = 8,
    PALMI_ZMQ_LINGER = 17, PALMI_ZMQ_SNDHWM = 23, PALMI_ZMQ_RCVHWM = 24, PALMI_ZMQ_LAST_ENDPOINT = 32,
    PALMI_ZMQ_FD = 14, PALMI_ZMQ_HANDSHAKE_IVL = 66, PALMI_ZMQ_RECONNECT_IVL = 18, PALMI_ZMQ_RECONNECT_IVL_MAX = 21,
    PALMI_ZMQ_CURVE_SERVER = 47, PALMI_ZMQ_CURVE_PUBLICKEY = 48, PALMI_ZMQ_CURVE_SECRETKEY = 49,
    PALMI_ZMQ_CURVE_SERVERKEY = 50, PALMI_ZMQ_ZAP_DOMAIN = 55, PALMI_ZMQ_ZAP_ENFORCE_DOMAIN = 93,
    PALMI_ZMQ_EVENT_HANDSHAKES_FAILED = 0x0800 | 0x2000 | 0x4000, /* for no known reason, by the protocol, by the gate */
    PALMI_ZMQ_EVENT_HANDSHAKE_FAILED_AUTH = 0x4000, PALMI_ZMQ_EVENT_DISCONNECTED = 0x0200,
    PALMI_ZMQ_DONTWAIT = 1, PALMI_ZMQ_SNDMORE = 2
};

#define PALMI_ZMQ_FUNCTIONS(X)                                                              \
    X(void *, ctx_new, (void))                                                              \
    X(int, ctx_term, (void *))                                                              \
    X(void *, socket, (void *, int))                                                        \
    X(int, close, (void *))                                                                 \
    X(int, setsockopt, (void *, int, const void *, size_t))                                 \
    X(int, getsockopt, (void *, int, void *, size_t *))                                     \
    X(int, bind, (void *, const char *))                                                    \
    X(int, connect, (void *, const char *))                                                 \
    X(int, msg_init, (palmi_zmq_msg *))                                                     \
    X(int, msg_init_size, (palmi_zmq_msg *, size_t))                                        \
    X(int, msg_init_data, (palmi_zmq_msg *, void *, size_t, void (*)(void *, void *), void *)) \
    X(int, msg_send, (palmi_zmq_msg *, void *, int))                                        \
    X(int, msg_recv, (palmi_zmq_msg *, void *, int))                                        \
    X(int, msg_close, (palmi_zmq_msg *))                                                    \
    X(void *, msg_data, (palmi_zmq_msg *))                                                  \
    X(size_t, msg_size, (const palmi_zmq_msg *))                                            \
    X(int, msg_more, (const palmi_zmq_msg *))                                               \
    X(int, socket_monitor, (void *, const char *, int))                                     \
    X(int, has, (const char *))                                                             \
    X(void, version, (int *, int *, int *))                                                 \
    X(int, errno, (void))

struct palmi_zmq {
#define PALMI_ZMQ_FIELD(type, name, args) type(*name##_) args;
    PALMI_ZMQ_FUNCTIONS(PALMI_ZMQ_FIELD)
#undef PALMI_ZMQ_FIELD
};
extern struct palmi_zmq palmi_zmq;

/* The context of this process, made at the first use and ended with the last. PALM_ECLOSED before palm_zmq_load. */
palm_err palmi_zmq_context(void **out);
void palmi_zmq_context_drop(void);
/* zmq_connect and others, whatever signals come: they look for commands first, which one interrupts. */
int palmi_zmq_connect(void *socket, const char *endpoint);
int palmi_zmq_bind(void *socket, const char *endpoint);
int palmi_zmq_monitor(void *socket, const char *endpoint, int events);
int palmi_zmq_send(palmi_zmq_msg *msg, void *socket, int flags);
int palmi_zmq_recv(palmi_zmq_msg *msg, void *socket, int flags);
/* PALM_ESYS + what zmq_errno() says; EAGAIN and EINTR as PALM_EAGAIN and PALM_EINTR. */
palm_err palmi_zmq_err(void);

#endif
