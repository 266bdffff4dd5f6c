/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What node.c, hello.c, receive.c, attend.c (receiving), link.c, transmit.c (sending) and local.c (both, within a host) share.
 * Everything below node->lock and node->receiving is guarded by these, of which receiving is taken first; the fields above
 * are written once. */
#ifndef PALMI_NODE_INTERNAL_H
#define PALMI_NODE_INTERNAL_H

#include "batch.h"
#include "clock.h"
#include "curve.h"
#include "local.h"
#include "zmq_api.h"

#include <pthread.h>
#include <stdatomic.h>

#define PALMI_PEER_KEY (UINT64_C(1) << 32)    /* + number of a link: its pidfd in the epoll set */
#define PALMI_MONITOR_KEY (UINT64_C(1) << 33) /* likewise its monitor */

enum {
    PALMI_SEQ_BITS = 40,
    PALMI_TEXT = 512, /* longest endpoint and name we keep; ipc paths end at 107, host names at 253 */
};

typedef struct palmi_flight { /* a block that the peer may not yet have taken, and our reference to it */
    palm_arena *arena;
    uint64_t seq;
    uint32_t index;
} palmi_flight;

typedef struct palmi_waiting { /* an envelope that waits for the hand-shake */
    struct palmi_waiting *next;
    palm_batch *batch;         /* owned */
    palm_kind kind;
    uint32_t handle;
    uint16_t hop;
} palmi_waiting;

typedef enum palmi_way { PALMI_WAY_NONE, PALMI_WAY_RING, PALMI_WAY_SOCKET, PALMI_WAY_TCP } palmi_way;

typedef struct palmi_link {
    uint32_t number;
    palm_link_state state;
    palmi_way way;             /* as which it is counted */
    void *socket;              /* PUSH */
    void *monitor;             /* of the socket, if it is TCP */
    char endpoint[PALMI_TEXT];
    uint64_t peer;             /* node id; 0 until its HELLO has come */
    palm_identity identity;    /* of the peer */
    int pidfd;                 /* -1: other host, or not yet known */
    bool mapped;               /* the peer can map our arena: send descriptors, else frames */
    bool named;                /* a peer has named it: nobody here has asked for it, nor has anybody answered */
    bool stranger;             /* it came by itself, and no process of this host vouches for it */
    bool in_use;               /* more than HELLOs has come from there, or somebody here has asked for it */
    bool broken;               /* half a message is in the socket: the link has to be lost */
    bool has_sent_parts;       /* messages in several frames */
    bool has_word, told;       /* we have a word; the peer knows our slot in its arena */
    int32_t slot;              /* ours in the peer's arena, or PALM_SLOT_... */
    uint32_t word, tag;        /* of our arena: where the peer tells what it has taken */
    uint32_t peer_word, peer_tag;
    uint8_t begun_anew;        /* how often the peer has introduced itself again */
    uint8_t gaps;              /* how often it was told that something has not arrived */
    uint64_t seq;              /* of the envelope sent last */
    uint64_t heard;            /* of the envelope that came last; 0: none yet */
    uint64_t taken;            /* by the peer, as far as seen */
    uint64_t begun_ms;         /* when it was made; what follows is for peers on other hosts */
    uint64_t heard_ms, beat_ms; /* when the last envelope came, and when we have last sent a beat */
    uint64_t broken_ms;        /* when its connection has broken; 0: it has not */
    uint32_t doubts;           /* for how many ticks its silence has been too long */
    PALMI_VECTOR(palmi_flight) flight; /* in order of seq */
    uint32_t flight_first;     /* entries before it are settled */
    palmi_waiting *waiting, **waiting_end;
    palmi_local local;         /* its rings */
} palmi_link;

typedef struct palmi_note { /* an event that no message brings */
    palm_event_kind kind;
    uint32_t link, reason;
} palmi_note;

typedef struct palmi_patience { /* with peers on other hosts, in ms */
    uint32_t beat_ms;    /* between two beats */
    uint32_t silence_ms; /* of a peer, until it is gone */
    uint32_t answer_ms;  /* to a HELLO, the making of the connection included */
} palmi_patience;
extern const palmi_patience palmi_remote_patience;

typedef struct palmi_rest { /* of the pulse that a node belongs to */
    const atomic_bool *rests;  /* it beats but once in 2 s; NULL: there is none */
    int bell;                  /* an eventfd: wakes it */
} palmi_rest;

struct palm_node {
    palm_space *space;
    palm_counters *counters;
    void *context, *pull;
    void *refused;             /* the monitor of pull, if that has keys */
    bool has_keys, is_at_gate;
    palm_keys keys;
    char endpoint[PALMI_TEXT], name[PALMI_TEXT];
    uint64_t id;
    pid_t pid;
    bool frames, serves;
    palmi_patience remote;
    int watch;                 /* epoll over the door, libzmq's fds of pull and monitors, and the pidfds of peers */
    palmi_door door;           /* by which others of this host wake it; says itself what guards it */
    palmi_rest rest;
    atomic_bool woken, stopped, closed;
    atomic_bool is_waiting;    /* for something to receive: there is nothing */
    atomic_uint_least64_t dry_ms; /* when the socket was last found to be empty */

    pthread_mutex_t receiving; /* who receives: the thread in palm_node_next, or the pulse while a function runs */
    palm_reader *reader;
    uint32_t since_look;
    bool socket_ready;         /* there may be something in the socket */
    bool ring_was_last;        /* where the last message came from */
    uint32_t patience_ms;      /* with what a ring waits for from the socket */
    bool stop_told;
    bool signalled;            /* who is in palm_node_next has to look for signals */
    char rejected[160];
    PALMI_VECTOR(palm_event) held; /* what the pulse has received */
    uint32_t held_first;

    pthread_mutex_t lock;
    palm_writer *writer;
    PALMI_VECTOR(palmi_link *) links; /* those that stand, by number */
    uint32_t last_link, last_tag;
    PALMI_VECTOR(palmi_note) notes;
    uint32_t notes_first;
};


/* With `receiving` held. Waits up to ms for the socket, the bell or a death. */
palm_err palmi_node_look(palm_node *node, int ms);
/* The oldest of what the pulse has received. */
bool palmi_node_held(palm_node *node, palm_event *event);
void palmi_node_drop_held(palm_node *node);

/* There is something to do: a pulse that rests beats. */
void palmi_node_stir(const palm_node *node);

/* All with the lock held. */
palmi_link *palmi_link_get(palm_node *node, uint32_t number);
palmi_link *palmi_link_by_peer(palm_node *node, uint64_t peer);
palmi_link *palmi_link_by_endpoint(palm_node *node, const char *endpoint);
palm_err palmi_link_to(palm_node *node, const char *endpoint, palmi_link **out);
void palmi_link_close(palm_node *node, palmi_link *link, int linger_ms);
/* Closes, and tells who receives: reason 0 in good order, 1 dead. */
void palmi_link_lose(palm_node *node, palmi_link *link, uint32_t reason);
/* A pidfd turns readable when the process is dead, all threads and memory gone. Or one of these: */
enum { PALMI_NO_PIDFD = -1, PALMI_DEAD = -2 };
int palmi_pidfd(pid_t pid);
/* Takes over the pidfd, which may be PALMI_NO_PIDFD; a link that is watched already stays so. */
void palmi_link_watch(palm_node *node, palmi_link *link, int pidfd);
/* The batch stays as it is; what is sent before the hand-shake is over waits. PALM_ECLOSED: the link is lost, and freed. */
palm_err palmi_link_send(palm_node *node, palmi_link *link, palm_kind kind, uint32_t handle, uint16_t hop,
                         const palm_batch *batch);
palm_err palmi_link_hello(palm_node *node, palmi_link *link);
/* Its state or its rings may have changed: it is counted as what it is. */
void palmi_link_count(palm_node *node, palmi_link *link);
palm_err palmi_link_flush(palm_node *node, palmi_link *link);
/* The batch is empty afterwards, or as it was; then the caller has to see whether the link is broken. */
palm_err palmi_link_transmit(palm_node *node, palmi_link *link, palm_kind kind, uint32_t handle, uint16_t hop,
                             const palm_batch *batch);
void palmi_link_settle(palm_node *node, palmi_link *link);
/* An envelope has come on the link's other direction: a gap before it is told to its sender, who else would not know that
 * something is lost. A HELLO of number 1 begins anew, and is none. False: the link is lost, and freed. */
bool palmi_link_follow(palm_node *node, palmi_link *link, const palm_envelope *e);
/* Any thread, with the lock held: the one in palm_node_next sees it at once. */
void palmi_node_note(palm_node *node, palm_event_kind kind, uint32_t link, uint32_t reason);

/* remote.c. With the lock held, in each beat of the pulse: beats to peers on other hosts, and those that are silent are lost. */
void palmi_remote_tick(palm_node *node);
bool palmi_is_remote(const palmi_link *link);
bool palmi_is_beat(const palm_envelope *e);

/* monitor.c: what libzmq says of a socket's connections wakes the node under `key`. To close none has no effect. */
palm_err palmi_monitor_open(palm_node *node, void *socket, int events, uint64_t key, void **monitor);
void palmi_monitor_close(palm_node *node, void *socket, void *monitor); /* before the socket is */
void palmi_monitor_refused(palm_node *node); /* with `receiving` held */
void palmi_monitor_link(palmi_link *link);   /* with the lock held */

/* Without the lock, with `receiving` held. */
/* False: it cannot be answered. */
bool palmi_hello_received(palm_node *node, const palm_envelope *e);
/* The next message, if there is one (else PALM_EAGAIN). *given: it is an event to give out, and not our own affair. */
palm_err palmi_receive(palm_node *node, palm_event *event, bool *given);

/* local.c. The door: by which this node is woken, and by which rings are marked; `rings`: it is to have some; `spins`:
 * it waits for them awake, where that pays. */
palm_err palmi_door_open(palm_node *node, bool rings, bool spins);
void palmi_door_close(palm_node *node);
void palmi_door_ring(const palm_node *node); /* any thread, signal handlers too */
/* True: one of those who rang was a signal, as who handles signals may do by its number (palm_node_door). */
bool palmi_door_answer(const palm_node *node);
/* With the lock held. Adds our door to a HELLO, and a ring to send in. */
void palmi_local_hello(palm_node *node, palmi_link *link, palm_hello *hello);
/* What the peer has told of its own is opened; before it is answered. */
void palmi_local_greeted(palm_node *node, palmi_link *link, const palm_hello *hello);
void palmi_local_drop(palm_node *node, palmi_link *link);
/* False: it has to take the socket. */
bool palmi_local_send(palmi_link *link, uint64_t seq, const void *head, size_t n_head, const void *body, size_t n_body);
/* With both locks held. A link of which there is something next; NULL: there is none. Either the envelope in its ring, which
 * is to be copied and then taken, or, if letter->bytes is NULL, the first of its early ones. Links whose peers are dead, and
 * have left nothing more, are lost in here. is_dry: the socket has just been found to be empty. */
palmi_link *palmi_local_next(palm_node *node, palmi_letter *letter, bool is_dry);
void palmi_local_took(palmi_link *link, const palmi_letter *letter);
palm_event palmi_local_take_early(palmi_link *link);
/* Whether the link's ring has something that was sent before `seq`, which has come by the socket, or an early one has. */
bool palmi_local_precedes(palm_node *node, palmi_link *link, uint64_t seq);
/* Keeps the event until then. False: there is no memory. */
bool palmi_local_keep_early(palmi_link *link, palm_event *event);
/* The peer is dead. True: it has left something in its ring, after which the link will be lost. */
bool palmi_local_dies(palm_node *node, palmi_link *link);

#endif
