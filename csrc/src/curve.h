/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What leaves the host is encrypted by libzmq's CURVE. The endpoint of who receives so is tcp://KEY@address:port, where KEY
 * is its public key in 64 hexadecimal digits: whoever knows where a peer is knows too that nobody else can be there. */
#ifndef PALMI_CURVE_H
#define PALMI_CURVE_H

#include "palm_node.h"

enum { PALMI_TCP_TEXT = 320 }; /* longest endpoint without a key; host names end at 253 */

bool palmi_is_tcp(const char *endpoint);
/* Whether two TCP endpoints differ in key and port alone. */
bool palmi_same_address(const char *a, const char *b);
/* Options of a socket that is about to be bound to a TCP endpoint. */
palm_err palmi_curve_serve(void *socket, const palm_keys *keys);
/* Those of one that is about to be connected to `endpoint`, which is left in *plain as libzmq knows it. PALM_EKEY: it is a
 * TCP endpoint with a key and we have none, or without and we have one. */
palm_err palmi_curve_connect(void *socket, const palm_keys *keys, const char *endpoint, char plain[PALMI_TCP_TEXT]);
/* The endpoint to which libzmq has bound a socket, with our key. */
void palmi_curve_name(const palm_keys *keys, const char *plain, char *endpoint, size_t room);

/* The gate: asked by libzmq for each hand-shake (its ZAP, RFC 27), it lets in those whose keys are allowed. One thread a process,
 * from the first that enters until the last has left; it needs no GIL, so that a function that holds it keeps nobody out. */
palm_err palmi_gate_enter(void *context);
void palmi_gate_leave(void);
/* Of the last that was refused. */
void palmi_gate_refused(char *text, size_t room);

#endif
