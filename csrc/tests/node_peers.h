/* SPDX-License-Identifier: BSD-3-Clause
 * Two nodes with spaces of their own in one process, which stand for two processes. */
#ifndef PALM_TESTS_NODE_PEERS_H
#define PALM_TESTS_NODE_PEERS_H
#include "../src/node_internal.h"
#include "check.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct peer {
    palm_space *space;
    palm_node *node;
} peer;

static bool sockets; /* no rings */
static char directory[] = "/tmp/palm-test-XXXXXX";

static inline peer peer_open(const char *name, bool frames)
{
    peer p;
    char endpoint[128];
    palm_space_options options = {.bound = 64 << 20};
    snprintf(endpoint, sizeof endpoint, "ipc://%s/%s", directory, name);
    CHECK_OK(palm_space_open(&options, &p.space));
    palm_node_options node = {.endpoint = endpoint, .name = name, .space = p.space, .frames = frames, .sockets = sockets};
    CHECK_OK(palm_node_open(&node, &p.node));
    CHECK(!strcmp(palm_node_endpoint(p.node), endpoint));
    return p;
}

static inline void peer_close(peer *p)
{
    uint32_t unsent;
    palm_node_close(p->node, 0, &unsent);
    palm_space_close(p->space);
}

/* The next event; hand-shakes go on at the other side meanwhile. */
static inline palm_event next(peer *p, peer *other)
{
    palm_event event, others;
    for (int i = 0; i < 1000; i++) {
        if (palm_node_next(p->node, 5, &event) == PALM_OK)
            return event;
        while (other && palm_node_next(other->node, 0, &others) == PALM_OK)
            palm_event_done(&others);
    }
    CHECK(!"an event within 5 s");
    return event;
}

static inline palm_event expect(peer *p, peer *other, palm_event_kind kind)
{
    palm_event event = next(p, other);
    CHECK(event.kind == kind);
    return event;
}

static inline palm_event next_message(peer *p, peer *other)
{
    palm_event event = next(p, other);
    while (event.kind != PALM_EVENT_MESSAGE)
        event = next(p, other);
    return event;
}

static inline uint32_t connect_to(peer *from, peer *to)
{
    uint32_t link;
    CHECK_OK(palm_node_link(from->node, palm_node_endpoint(to->node), 0, &link));
    palm_event event = expect(from, to == from ? NULL : to, PALM_EVENT_READY); /* else it might be thrown away there */
    CHECK(event.link == link);
    return link;
}

static inline void put_bytes(palm_batch *batch, uint64_t number, const char *text)
{
    palm_record *record;
    CHECK_OK(palm_batch_record(batch, PALM_BYTES, number, &record));
    CHECK_OK(palm_batch_body(batch, text, strlen(text)));
}

static inline void put_block_from(peer *p, palm_batch *batch, uint8_t fill, uint64_t start)
{
    palm_record *record;
    palm_arena *arena;
    uint32_t index;
    const void *first;
    size_t size;
    int64_t shape = (1 << 20) - (int64_t)start, stride = 1;
    uint8_t *bytes = palm_space_alloc(p->space, 1 << 20, false);
    for (int i = 0; !bytes && i < 10000; i++) { /* threads may have sent as many as there are, faster than they are taken */
        usleep(1000);
        bytes = palm_space_alloc(p->space, 1 << 20, false);
    }
    CHECK(bytes);
    memset(bytes, 0, start);
    memset(bytes + start, fill, (1 << 20) - start);
    CHECK_OK(palm_space_hold(p->space, bytes, 1 << 20, &arena, &index, &first, &size));
    CHECK_OK(palm_batch_record(batch, PALM_ARRAY, 7, &record));
    CHECK_OK(palm_batch_lend(batch, "|u1", 3, 1, &shape, &stride, (uint64_t)shape, 0, arena, index, first, start));
    palm_space_free(p->space, bytes); /* the batch's reference keeps it */
}

static inline void put_block(peer *p, palm_batch *batch, uint8_t fill)
{
    put_block_from(p, batch, fill, 0);
}

static inline uint64_t held(peer *p)
{
    palm_space_stats stats;
    palm_space_get_stats(p->space, &stats);
    return stats.blocks_held + stats.blocks_lent;
}

/* Until nothing is held; libzmq's thread may still have to let go of a part. */
static inline void wait_until_free(peer *p)
{
    for (int i = 0; i < 5000 && held(p); i++) {
        palm_node_tick(p->node, &(palm_unread){0});
        palm_space_tick(p->space, (uint64_t)time(NULL) * 1000000000u);
        usleep(1000);
    }
    CHECK(held(p) == 0);
}

static inline void send_all(palm_node *node, uint32_t link, uint32_t handle, uint16_t hop, palm_batch *batch)
{
    CHECK_OK(palm_node_send(node, link, PALM_DATA, handle, hop, batch));
    palm_batch_clear(batch);
}

/* What `main` begins with. Arguments: the path of a libzmq; "sockets": without rings. */
static inline void peers_begin(int argc, char **argv)
{
    const char *missing;
    if (argc < 2 || !argv[1][0])
        exit(SKIPPED);
    CHECK_OK(palm_zmq_load(argv[1], &missing));
    CHECK(mkdtemp(directory));
    sockets = argc > 2 && !strcmp(argv[2], "sockets");
}

static inline void peers_end(void) { CHECK(!rmdir(directory)); }

#endif
