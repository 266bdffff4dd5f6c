/* SPDX-License-Identifier: BSD-3-Clause
 * Keys of sockets, and in endpoints. */
#include "curve.h"

#include "zmq_api.h"

#include <stdio.h>
#include <string.h>

static const char TCP[] = "tcp://";
static const char DOMAIN[] = "palm"; /* libzmq asks the gate only for sockets that have one */

enum { DIGITS = 2 * PALM_KEY_BYTES };

bool palmi_is_tcp(const char *endpoint) { return !strncmp(endpoint, TCP, strlen(TCP)); }

/* Of a TCP endpoint. */
static const char *address_of(const char *endpoint, size_t *size)
{
    const char *begin = endpoint + strlen(TCP), *at = strchr(begin, '@');
    begin = at ? at + 1 : begin;
    const char *port = strrchr(begin, ':');
    *size = port ? (size_t)(port - begin) : strlen(begin);
    return begin;
}

bool palmi_same_address(const char *a, const char *b)
{
    if (!palmi_is_tcp(a) || !palmi_is_tcp(b))
        return false;
    size_t n_a, n_b;
    const char *of_a = address_of(a, &n_a), *of_b = address_of(b, &n_b);
    return n_a == n_b && !memcmp(of_a, of_b, n_a);
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_key(const char *text, uint8_t key[PALM_KEY_BYTES])
{
    for (int i = 0; i < PALM_KEY_BYTES; i++) {
        int high = digit(text[2 * i]), low = high < 0 ? -1 : digit(text[2 * i + 1]);
        if (low < 0)
            return false;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static palm_err set(void *socket, int option, const void *value, size_t size)
{
    return palmi_zmq.setsockopt_(socket, option, value, size) ? palmi_zmq_err() : PALM_OK;
}

palm_err palmi_curve_serve(void *socket, const palm_keys *keys)
{
    int yes = 1;
    palm_err err = set(socket, PALMI_ZMQ_CURVE_SERVER, &yes, sizeof yes);
    if (!err)
        err = set(socket, PALMI_ZMQ_CURVE_SECRETKEY, keys->secret_key, PALM_KEY_BYTES);
    if (!err)
        err = set(socket, PALMI_ZMQ_ZAP_DOMAIN, DOMAIN, strlen(DOMAIN));
    if (!err) /* else nobody would be refused while there is no gate */
        err = set(socket, PALMI_ZMQ_ZAP_ENFORCE_DOMAIN, &yes, sizeof yes);
    return err;
}

static palm_err expect_peer(void *socket, const palm_keys *keys, const uint8_t peer[PALM_KEY_BYTES])
{
    palm_err err = set(socket, PALMI_ZMQ_CURVE_SERVERKEY, peer, PALM_KEY_BYTES);
    if (!err)
        err = set(socket, PALMI_ZMQ_CURVE_PUBLICKEY, keys->public_key, PALM_KEY_BYTES);
    if (!err)
        err = set(socket, PALMI_ZMQ_CURVE_SECRETKEY, keys->secret_key, PALM_KEY_BYTES);
    return err;
}

palm_err palmi_curve_connect(void *socket, const palm_keys *keys, const char *endpoint, char plain[PALMI_TCP_TEXT])
{
    uint8_t peer[PALM_KEY_BYTES];
    const char *key = endpoint + strlen(TCP), *at = palmi_is_tcp(endpoint) ? strchr(key, '@') : NULL;
    bool needs_key = keys && palmi_is_tcp(endpoint);
    if ((at != NULL) != needs_key)
        return PALM_EKEY;
    if (at && (at - key != DIGITS || !read_key(key, peer)))
        return PALM_EKEY;
    int n = snprintf(plain, PALMI_TCP_TEXT, "%s%s", at ? TCP : "", at ? at + 1 : endpoint);
    if (n < 0 || n >= PALMI_TCP_TEXT)
        return PALM_ELIMIT;
    return at ? expect_peer(socket, keys, peer) : PALM_OK;
}

void palmi_curve_name(const palm_keys *keys, const char *plain, char *endpoint, size_t room)
{
    char hex[DIGITS + 1];
    for (int i = 0; i < PALM_KEY_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", keys->public_key[i]);
    snprintf(endpoint, room, "%s%s@%s", TCP, hex, plain + strlen(TCP));
}
