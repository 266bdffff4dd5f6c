/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm.h: all of the core that the outside may use. What is not here is private.
 *
 *   space      this process's shared memory, and that of its peers          space*.c
 *   envelope   the header of a message or of a batch of messages            envelope.cc
 *   zmq        the libzmq that pyzmq has loaded                             zmq.c
 *   node       a process on the wire: one door, links to peers, the loop    node.c, hello.c, receive.c, attend.c, link.c
 *   pulse      the thread that keeps time while a function computes         pulse.c
 *   book       what became of each input of a job                           book*.c
 *
 * Calls that can fail return a palm_err; results come through out-pointers, which are written on success alone.
 * "Success takes, failure leaves": a call that takes something over owns it if, and only if, it returned PALM_OK.
 */
#ifndef PALM_H
#define PALM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* ------------------------------------------------------------------------------------------------------ errors */

typedef enum palm_err {
    PALM_OK = 0,
    PALM_ENOMEM,       /* no memory, neither arena nor heap */
    PALM_EINVAL,       /* a caller's mistake */
    PALM_EAGAIN,       /* nothing there yet */
    PALM_ETIMEDOUT,    /* the deadline has passed */
    PALM_EINTR,        /* a signal came: look at it, call again */
    PALM_ECLOSED,      /* closed, by us or by the other side */
    PALM_EFORK,        /* used in a process that was forked from the one that made it */
    PALM_EMALFORMED,   /* bytes that are no envelope, or one that contradicts itself */
    PALM_EVERSION,     /* an envelope of a version we do not speak */
    PALM_ELIMIT,       /* larger, deeper or longer than a PALM_MAX_... */
    PALM_ESTALE,       /* the block now has another generation: what was offered is gone */
    PALM_EUNREACHABLE, /* a peer's memory cannot be mapped from here */
    PALM_EFULL,        /* the arena has no room, or its table of processes has none, or a batch */
    PALM_ENOSYM,       /* libzmq lacks an entry point */
    PALM_EKEY,         /* an endpoint with a key for who has none, or one without for who has */
    PALM_ERR_COUNT,
    PALM_ESYS = 4096   /* PALM_ESYS + errno: the system said so */
} palm_err;

/* A sentence for any value, known or not; static storage for all but PALM_ESYS + errno, which is per thread. */
const char *palm_strerror(palm_err err);
/* The name of the enumerator ("PALM_ENOMEM"), or NULL if there is none of this value. */
const char *palm_errname(palm_err err);

/* ------------------------------------------------------------------------------------------------------ limits */

enum {
    PALM_WIRE_VERSION = 1,
    PALM_MAX_HEAD = 1 << 20,     /* bytes of FlatBuffer in an envelope: a batch of PALM_MAX_RECORDS arrays needs half */
    PALM_MAX_RECORDS = 4096,     /* messages in a batch: beyond some hundred, nothing is saved any more */
    PALM_MAX_PATH = 32,          /* fan-outs a message may have passed (DELIVERY 1) */
    PALM_MAX_ARRAYS = 16384,     /* arrays in an envelope */
    PALM_MAX_DIMS = 64,          /* numpy's own limit */
    PALM_MAX_PARTS = 1024,       /* frames after the first: below IOV_MAX */
    PALM_MAX_TEXT = 4096,        /* bytes of one text (dtype, name, endpoint) */
    PALM_MAX_STEPS = 256,        /* steps of a pipeline */
    PALM_MAX_DEPTH = 64,         /* nesting of a payload tree: far from the C stack's end */
    PALM_ALIGN = 64              /* of blocks, bodies and frames (R22) */
};

/* ------------------------------------------------------------------------------------------------------- space */

/* A space is what a process knows of shared memory: its own arena, and the arenas of others that it has mapped.
 * Lifetime protocol: docs/arena.md. Thread-safe; one lock, never shared between processes (R14). */
typedef struct palm_space palm_space;
typedef struct palm_arena palm_arena; /* one known arena, own or mapped; stays valid while a block of it is held */

/* Who a block is and where its bytes are; travels in envelopes (schema/palm.fbs, struct Block: same layout). */
typedef struct palm_block {
    uint64_t arena_hi, arena_lo; /* 128-bit random id of the arena */
    uint64_t generation;
    uint64_t at, size;           /* the block's bytes in the arena's data */
    uint32_t index;              /* of its header */
    int32_t pid, fd;             /* a process that has the arena open, and under which fd: /proc/pid/fd/fd */
    uint32_t reserved;
} palm_block;

typedef struct palm_space_options {
    uint64_t bound;        /* bytes of arena this process may fill; 0: a share of what the cgroup or the machine has */
    uint64_t floor;        /* idle bytes that trimming leaves; 0: default */
    uint64_t idle_ns;      /* a block idle for so long may be trimmed; 0: default (5 s) */
    bool no_arena;         /* heap and frames only, as where mapping is not permitted */
} palm_space_options;

/* Never fails for want of an arena: then the space has none, palm_space_has_arena() says so, and all goes by heap
 * and frames. palm_space_close unmaps what nobody holds; arenas with held blocks stay mapped until they are let go. */
palm_err palm_space_open(const palm_space_options *options, palm_space **out);
void palm_space_close(palm_space *space);
bool palm_space_has_arena(const palm_space *space);
/* True in a child forked from the process that opened the space. */
bool palm_space_forked(const palm_space *space);

/* Own blocks. alloc: the caller has one reference; NULL when full (or no arena, or forked): use the heap. zeroed:
 * all n bytes are zero. 64-byte aligned or better. */
void *palm_space_alloc(palm_space *space, size_t n, bool zeroed);
/* Drops the reference that palm_space_alloc gave; p as it was returned. */
void palm_space_free(palm_space *space, void *p);
/* In place where the size class allows it and the block was never lent; else NULL, and nothing has changed. */
void *palm_space_resize(palm_space *space, void *p, size_t n);
/* Bytes that the block at p (as returned by alloc) can hold. */
size_t palm_space_usable(palm_space *space, const void *p);
/* True if p lies in the own arena's data. No lock. */
bool palm_space_owns(const palm_space *space, const void *p);

/* Any block, own or a peer's, by address: [p, p + n) has to lie in one block that this process holds; takes one more
 * reference. PALM_EINVAL: not in any arena, or across a border. *first: the block's first byte; *size: its bytes. */
palm_err palm_space_hold(palm_space *space, const void *p, size_t n, palm_arena **arena, uint32_t *index,
                         const void **first, size_t *size);
/* One more reference to a block that this process holds; and one less. Any thread, without the GIL. */
void palm_block_hold(palm_arena *arena, uint32_t index);
void palm_block_drop(palm_arena *arena, uint32_t index);
/* Describes a block this process holds, so that a peer can take it; the caller keeps a reference until the peer has. */
palm_err palm_block_lend(palm_arena *arena, uint32_t index, palm_block *out);
/* Takes a block that was offered: on success this process holds one (more) reference and *first is its first byte
 * (read-only unless the arena is the own one). PALM_ESTALE, PALM_EUNREACHABLE, PALM_EFULL (no slot), PALM_EMALFORMED. */
palm_err palm_space_take(palm_space *space, const palm_block *offer, palm_arena **arena, uint32_t *index,
                         const void **first);

/* Peers. A process introduces itself by this; 0 fds mean "no arena". */
typedef struct palm_identity {
    uint64_t arena_hi, arena_lo;
    uint8_t boot_id[16];       /* same host: same boot id and ... */
    uint64_t pid_namespace;    /* ... same inode of /proc/self/ns/pid; else frames */
    int32_t pid, fd;
} palm_identity;
void palm_space_identity(const palm_space *space, palm_identity *out);
/* Maps a peer's arena and claims a slot in its table, once per arena (again: the same slot). *slot: the number. */
palm_err palm_space_attach(palm_space *space, const palm_identity *peer, uint32_t *slot);
/* Words of our arena's head in which a receiver tells how far it has taken what we sent: one per link, since a process
 * may have several. The sender chooses the word and tells it in HELLO. claim: zeroed, least recently used first; EFULL or,
 * without arena, EUNREACHABLE. taken: acquire. set_taken, by the receiver: release; ignored if that arena is not mapped. */
enum { PALM_TAKEN_WORDS = 2048 };
palm_err palm_space_claim_word(palm_space *space, uint32_t *word);
void palm_space_return_word(palm_space *space, uint32_t word);
uint64_t palm_space_taken(const palm_space *space, uint32_t word);
void palm_space_set_taken(palm_space *space, uint64_t arena_hi, uint64_t arena_lo, uint32_t word, uint64_t value);

/* Housekeeping, called by the pulse a few times a second: sweeps the dead, collects lent blocks, trims, unmaps or
 * evacuates orphans. now_ns: CLOCK_MONOTONIC. */
void palm_space_tick(palm_space *space, uint64_t now_ns);

typedef struct palm_space_stats {
    uint64_t arena_bound, arena_in_use, arena_idle; /* bytes: own blocks that somebody holds; recycled, with pages */
    uint64_t mapped;                                /* bytes of others' blocks held here */
    uint64_t blocks_held, blocks_lent;              /* by us; own ones that only others hold */
    uint64_t allocs, allocs_full;                   /* served by the arena; refused because it was full */
    uint64_t taken, stale, trimmed_bytes, swept, peers, evacuated;
} palm_space_stats;
void palm_space_get_stats(palm_space *space, palm_space_stats *out);

/* The page of counters in the head of the arena that others may read while we compute (DESIGN 5.10); private memory
 * where there is no arena. PALM_PAGE_BYTES, 64-byte aligned, zero at birth. */
enum { PALM_PAGE_BYTES = 49152 };
void *palm_space_page(const palm_space *space);
/* Maps (read-only) the page of another process, found by its arena's pid and fd; for reports. */
palm_err palm_page_open(const palm_identity *of, const void **page);
void palm_page_close(const void *page);

/* ---------------------------------------------------------------------------------------------------- envelope */

/* One frame: [size-prefixed FlatBuffer, identifier "PALM"][zeros up to 64][body]. Further frames: parts. docs/wire.md.
 * palm_record, palm_array and palm_block are the structs of schema/palm.fbs, byte for byte. */

typedef enum palm_kind {  /* of an envelope */
    PALM_HELLO = 1,       /* who I am; whether I can map your arena */
    PALM_OPEN,            /* what a handle on this link means: job, route, constants */
    PALM_DATA,            /* messages of a job, to its next step or to its client */
    PALM_FORGET,          /* the job of this handle is over */
    PALM_CANCEL,          /* stop working on this job */
    PALM_RELEASE,         /* to who keeps children: which are settled, and how many more there is room for */
    PALM_BYE              /* the sender ends in good order: nothing more will come */
} palm_kind;

#define PALM_NO_NUMBER UINT64_MAX /* of no message: in a LOST of a link, in a CANCEL or FORGET of a whole job */

typedef enum palm_form {  /* of a record: what it says, or the payload's form */
    PALM_NOTHING = 0,     /* an empty message: no payload */
    PALM_BYTES,           /* body: the bytes themselves; or, if array_count is 1, one array of bytes out of band */
    PALM_ARRAY,           /* one array */
    PALM_TREE,            /* body: msgpack, with arrays out of band */
    PALM_DROP,            /* this message ended without a result; `count`: a palm_drop */
    PALM_CLOSE,           /* this message became `count` children */
    PALM_ERROR,           /* this message failed; body: msgpack */
    PALM_ASK,             /* this message's generator would send more children than the `count` it was granted */
    PALM_LOST,            /* a link was lost over which messages of the job had been sent, in its epoch `count` */
    PALM_ASIDE,           /* this message is in a branch that holds up nobody: it holds no slot, and is not waited for */
    PALM_REDUCED          /* what a Reduce has of the job, in its epoch `count`; body: msgpack */
} palm_form;

typedef enum palm_drop { PALM_DROP_NOTHING = 0, /* its function returned nothing */
                         PALM_DROP_SLOW         /* the branch it was sent along had no room */ } palm_drop;

typedef enum palm_place { /* where an array's bytes are */
    PALM_IN_BODY = 0,     /* at `start` of the body */
    PALM_IN_BLOCK,        /* at `start` of block `source` */
    PALM_IN_PART          /* at `start` of frame `source` + 1 */
} palm_place;

typedef struct palm_record {
    uint64_t number;                /* of the input */
    uint64_t deadline;              /* ns since 1970 on the client's clock; 0: none */
    uint64_t body_at, body_size;    /* its bytes in the body */
    uint32_t path_at, path_count;   /* its components in `paths`: (hop << 48 | index) */
    uint32_t array_at, array_count; /* its arrays */
    uint32_t count;                 /* children: of a PALM_CLOSE; of a PALM_ERROR, those that were sent before it; granted:
                                     * of a PALM_ASK, and in a PALM_RELEASE; of a PALM_DROP: why */
    uint16_t attempt;
    uint8_t form;                   /* palm_form */
    uint8_t flags;
} palm_record;

typedef struct palm_array {
    uint64_t start, size;  /* the bytes that hold all elements, in body, block or part */
    uint64_t origin;       /* from start to element (0, 0, ...) */
    uint32_t dims_at;      /* in `dims`: shape, then strides in bytes */
    uint32_t source;       /* which block, or which part */
    uint16_t dtype;        /* which text of `dtypes` */
    uint8_t ndim;
    uint8_t place;         /* palm_place */
    uint32_t flags;
} palm_array;

typedef struct palm_text { const char *data; uint32_t size; } palm_text; /* UTF-8, not terminated */

typedef struct palm_hello {
    palm_identity identity;
    palm_text endpoint, name;  /* where the sender can be reached; what it is called */
    int32_t slot;              /* the slot the sender has in the receiver's arena, or one of PALM_SLOT_... */
    uint32_t word;             /* of the sender's arena: where the receiver is to tell what it has taken */
    uint32_t tag;              /* in the upper 24 bits of what it writes there; the sequence number is in the lower 40;
                                * 0: nowhere, the sender has no word */
    int32_t bell, wake;        /* descriptors of process identity.pid, 0: none. Of the sender's bell, and the pipe it sleeps on */
    int32_t ring;              /* of the ring in which it would send on this link */
    uint64_t ring_id;          /* what stands in that */
} palm_hello;
enum { PALM_SLOT_UNKNOWN = -1, PALM_SLOT_NONE = -2 }; /* not yet known; cannot map: send frames */

typedef struct palm_envelope {
    uint16_t kind;             /* palm_kind */
    uint16_t hop;              /* steps passed since the input */
    uint32_t handle;           /* of the job and its route, on this link */
    uint64_t sender, seq;      /* the sending node; 1, 2, 3, ... on this link */
    const palm_record *records; uint32_t n_records;
    const uint64_t *paths;      uint32_t n_paths;
    const palm_array *arrays;   uint32_t n_arrays;
    const int64_t *dims;        uint32_t n_dims;
    const palm_block *blocks;   uint32_t n_blocks;
    const palm_text *dtypes;    uint32_t n_dtypes;
    const uint8_t *body;        uint64_t body_size;
    const uint64_t *parts;      uint32_t n_parts; /* sizes of the further frames */
    const palm_hello *hello;   /* PALM_HELLO alone, else NULL */
} palm_envelope;

/* Encodes heads, one after the other; keeps its memory between calls. One thread at a time. */
typedef struct palm_writer palm_writer;
palm_err palm_writer_new(palm_writer **out);
void palm_writer_free(palm_writer *writer);
/* The frame is *head (a multiple of 64 bytes) followed by e->body; *head is valid until the next call. */
palm_err palm_writer_head(palm_writer *writer, const palm_envelope *e, const uint8_t **head, size_t *size);

/* Decodes and checks: after PALM_OK every index, range, extent and enumerator in *out is within its bounds (arrays lie
 * inside their block's, part's or the body's bytes whatever their strides; paths within PALM_MAX_PATH), and nothing was
 * copied but dtypes and hello, which lie in the reader. frame has to be 64-byte aligned and to outlive *out; `parts`:
 * the sizes of the frames that came with it. One thread at a time. */
typedef struct palm_reader palm_reader;
palm_err palm_reader_new(palm_reader **out);
void palm_reader_free(palm_reader *reader);
palm_err palm_reader_read(palm_reader *reader, const void *frame, size_t size, const uint64_t *parts, uint32_t n_parts,
                          palm_envelope *out);

/* -------------------------------------------------------------------------------------------------------- batch */

/* What one envelope will carry, put together piece by piece; may be used again after palm_node_send took its content.
 * One thread at a time. */
typedef struct palm_batch palm_batch;
palm_err palm_batch_new(palm_batch **out);
void palm_batch_free(palm_batch *batch);
void palm_batch_clear(palm_batch *batch);
uint32_t palm_batch_count(const palm_batch *batch); /* records */
uint64_t palm_batch_bytes(const palm_batch *batch); /* of body and of blocks */
uint32_t palm_batch_lent(const palm_batch *batch);  /* blocks */
/* True if it should be sent before more is added: nothing is gained by waiting, or one more record of legal size might
 * exceed a limit of the envelope. A record of more than half of PALM_MAX_HEAD or PALM_MAX_ARRAYS is PALM_ELIMIT. */
bool palm_batch_full(const palm_batch *batch);
/* Begins a record; what is added next belongs to it. The pointer is valid until the next record is begun. */
palm_err palm_batch_record(palm_batch *batch, palm_form form, uint64_t number, palm_record **out);
/* Says what the record begun last is, after the fact: an error is a tree in all but this. count: see palm_record. */
void palm_batch_set_form(palm_batch *batch, palm_form form, uint32_t count);
/* Adds record i of another batch: what it lends is lent once more. PALM_EFULL: the batch, left as it was, would lend more
 * than PALM_MAX_PARTS blocks, and has to be sent before. */
palm_err palm_batch_add(palm_batch *batch, const palm_batch *from, uint32_t i);
/* Gives up the record begun last and all that was added to it. */
void palm_batch_undo(palm_batch *batch);
palm_err palm_batch_path(palm_batch *batch, const uint64_t *components, uint32_t n);
/* n more bytes of the record's own body bytes. */
palm_err palm_batch_body(palm_batch *batch, const void *bytes, size_t n);
/* An array of the record: its bytes are copied to the body later, so first is read by palm_batch_array alone. */
palm_err palm_batch_array(palm_batch *batch, const char *dtype, size_t dtype_size, uint8_t ndim, const int64_t *shape,
                          const int64_t *strides, uint64_t size, uint64_t origin, uint8_t **bytes);
/* The same, by reference: takes over one reference of the block on success; start: from the block's first byte. */
palm_err palm_batch_lend(palm_batch *batch, const char *dtype, size_t dtype_size, uint8_t ndim, const int64_t *shape,
                         const int64_t *strides, uint64_t size, uint64_t origin, palm_arena *arena, uint32_t index,
                         const void *first, uint64_t start);
/* The content as one frame of kind DATA that needs no link, as a file has it: *head, then *body; both are the batch's and
 * the writer's, until either is used again. PALM_EINVAL: the batch lends blocks. */
palm_err palm_batch_pack(const palm_batch *batch, palm_writer *writer, const uint8_t **head, size_t *head_size,
                         const uint8_t **body, size_t *body_size);

/* ----------------------------------------------------------------------------------------------------- counters */

/* Lies in the page (palm_space_page): written by its process with palm_count(), read by anybody. Totals since start,
 * but for gauges. Durations in ns. */
enum { PALM_MAX_FUNCTIONS = 64, PALM_HISTOGRAM = 40, PALM_NAME_BYTES = 64 };
typedef struct palm_function_counters {
    char name[PALM_NAME_BYTES];
    uint64_t calls, busy_ns;
    uint64_t histogram[PALM_HISTOGRAM]; /* of service times, of generators those of steps: bucket i counts those below
                                         * 2^i ns, the last all others */
} palm_function_counters;
/* The message at work, by name. Who has the page mapped reads it while we compute, or when this process has died: then
 * the name is that of the message that was running, if one was. Written by the one thread that runs functions. */
typedef struct palm_at_work {
    uint64_t since_ns;             /* CLOCK_MONOTONIC; 0: idle, and what follows up to `completed` says nothing */
    uint64_t number, function;
    uint64_t job[2];               /* its 16 bytes as they are */
    uint32_t hop;
    uint32_t together;             /* messages in this execution: of several, one cannot say which is to blame */
    uint32_t path_count;
    uint32_t attempt;              /* 1 at the first execution */
    uint64_t path[PALM_MAX_PATH];
    uint64_t limit_ns;             /* that this execution may take; 0: any time */
    uint64_t spent_ns;             /* of it, before since_ns: in former steps of a generator */
    uint64_t deadline_ns;          /* CLOCK_REALTIME; 0: none */
    uint32_t client;               /* the link to who waits for it; 0: none */
    uint32_t ended;                /* palm_end: why the process has ended itself */
    uint64_t ended_since;          /* since_ns of the execution for which it did */
    uint64_t unwanted_since;       /* since_ns of the execution that nobody waits for any more ... */
    uint64_t unwanted_ns;          /* ... and when that was seen, CLOCK_MONOTONIC; by the thread itself or the pulse */
    uint64_t completed;            /* executions that came to their end, and steps of generators; since start */
    uint64_t last_number;          /* of several together, which lie between two names: the first is above, the last ... */
    uint32_t last_path_count;      /* ... is this one; of one alone, these say nothing */
    uint64_t last_path[PALM_MAX_PATH];
} palm_at_work;
/* The peer that has left the most envelopes of ours where they came, of those on this host; as of the last beat. */
typedef struct palm_unread {
    uint64_t envelopes;
    int64_t pid;
} palm_unread;
/* That somebody in this process waits for room, and for which servers: their names, each with a newline behind it. */
enum { PALM_WAITING_BYTES = 504 };
typedef struct palm_waiting {
    uint64_t since_ns;             /* CLOCK_MONOTONIC; 0: nobody, and the names say nothing */
    char servers[PALM_WAITING_BYTES];
} palm_waiting;
/* A counter or histogram of the user's own. One thread writes at a time; `kind` last, when the name is there. */
enum { PALM_MAX_OWN = 32, PALM_OWN_BUCKETS = 42, PALM_OWN_LEAST = -20 };
typedef enum palm_own_kind { PALM_OWN_NONE = 0, PALM_OWN_COUNTER, PALM_OWN_HISTOGRAM } palm_own_kind;
typedef struct palm_own_counter {
    char name[PALM_NAME_BYTES];    /* ends with a 0 */
    uint64_t kind;                 /* palm_own_kind; those behind the first that is none are not in use */
    uint64_t count;                /* of values that were added */
    uint64_t sum;                  /* of these, the bits of a double */
    uint64_t histogram[PALM_OWN_BUCKETS]; /* bucket i: up to 2^(PALM_OWN_LEAST + i), and no less; the last: all above */
} palm_own_counter;
typedef enum palm_end {
    PALM_END_NONE = 0,
    PALM_END_OVERRUN,              /* it has taken longer than its limit */
    PALM_END_LATE,                 /* its deadline has passed, and the time of grace */
    PALM_END_UNWANTED              /* nobody waits for it any more, and the time of grace is over */
} palm_end;
/* Of a process whose private memory is bounded: bytes. Written by that process; `had` and `lacked` when it dies. */
typedef struct palm_memory {
    uint64_t limit;                /* 0: there is no bound, and the rest says nothing */
    uint64_t had;
    uint64_t lacked;               /* 1: it died for want of memory, as far as it can tell */
} palm_memory;
typedef struct palm_counters {
    uint64_t messages_in, messages_out, bytes_in, bytes_out, bytes_copied;
    uint64_t batches, errors, retries, rejected, dropped;             /* rejected: envelopes; dropped: by slow branches */
    uint64_t queue_depth, in_flight, busy_ns;                         /* the first two are gauges */
    uint64_t backlog, held;                                           /* gauges: messages taken off the queue in advance,
                                                                        * by the server's loop and by the pulse */
    uint64_t sent_arena, sent_inline, sent_frames;                    /* arrays, by the way they left */
    uint64_t by_ring, by_socket;                                      /* envelopes sent, likewise */
    uint64_t links_ring, links_socket, links_tcp;                     /* gauges: links that stand, by what takes their envelopes */
    uint64_t copied_kept, copied_foreign, copied_thread;              /* arrays copied first: kept by the function, not
                                                                       * numpy's memory, made where the arena is not set */
    uint64_t alloc_arena, alloc_small, alloc_full;                    /* numpy's allocations where it is set */
    uint64_t idle_ns;                                                 /* slept while nothing came; of who serves alone ... */
    uint64_t serves_since_ns;                                         /* ... gauge: CLOCK_MONOTONIC; 0: does not */
    uint64_t sleeps_since_ns;                                         /* gauge likewise: idle_ns lacks what it has slept since; 0: it does not */
    uint64_t arena_in_use, arena_idle, mapped;                        /* gauges: bytes, of palm_space_stats, at the last beat */
    uint64_t pulse_ns;                                                /* gauge: CLOCK_MONOTONIC of the last beat */
    uint64_t gil_asked_ns, gil_had_ns;                                /* gauges likewise: when the pulse last asked whether a
                                                                       * function that runs for long holds the GIL, and
                                                                       * when a thread that has to take it for that had it */
    uint64_t stale, lost_links;
    palm_unread unread;
    palm_waiting waiting;
    palm_at_work at_work;
    palm_function_counters functions[PALM_MAX_FUNCTIONS];
    palm_own_counter own[PALM_MAX_OWN];
    palm_memory memory;
} palm_counters;
/* 0 in a build that counts nothing and has hardly a pulse, to measure what these cost. */
#ifndef PALM_COUNTED
#define PALM_COUNTED 1
#endif
static inline void palm_count(uint64_t *counter, uint64_t n)
{
    /* relaxed: a statistic; readers need no order between counters */
    if (PALM_COUNTED)
        __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}
/* The same where one thread alone writes: a few ns instead of ten, which is much for a message. */
static inline void palm_tally(uint64_t *counter, uint64_t n)
{
    if (PALM_COUNTED)
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
static inline uint64_t palm_seen(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}
static inline void palm_gauge(uint64_t *gauge, uint64_t value)
{
    __atomic_store_n(gauge, value, __ATOMIC_RELAXED);
}
/* By the one thread that runs functions. */
void palm_count_call(palm_function_counters *function, uint64_t ns);
/* A step of a generator, whose call has been counted when it was made. */
void palm_count_step(palm_function_counters *function, uint64_t ns);
/* Adds a value to the one of this name, which it makes if there is none; name: `size` bytes, no 0 among them. PALM_EINVAL:
 * the name has too many bytes, or is that of the other kind; PALM_ELIMIT: there are PALM_MAX_OWN. */
palm_err palm_own_add(palm_counters *counters, palm_own_kind kind, const char *name, size_t size, double value);
/* A copy of number i; false: there are not so many. What the page says is not believed: the name ends with a 0. */
bool palm_own_read(const palm_counters *counters, uint32_t i, palm_own_counter *out);
/* From now on a death by SIGABRT or SIGSEGV leaves there what the process had. */
void palm_memory_watch(palm_memory *memory, uint64_t limit);
/* The process is about to end. lacked: since it got no memory; else that is taken from how near to the limit it is. */
void palm_memory_ended(palm_memory *memory, bool lacked);
/* This process's private memory is bounded from now on, by so many bytes and those of which it has but the addresses. */
void palm_memory_limit_set(uint64_t limit, uint64_t reserved);
/* And by so many more; UINT64_MAX: it is not bounded. */
void palm_memory_limit_room(uint64_t bytes);
/* What malloc has free goes back, of which the addresses stay, and count as before. */
void palm_memory_limit_trim(void);
/* What there is of that which is bounded. Signal handlers may call it. */
uint64_t palm_memory_limit_had(void);
/* 0 in a build that neither tracks nor repeats messages, to measure what that costs. */
#ifndef PALM_TRACKED
#define PALM_TRACKED 1
#endif
/* What the executions have in common that begin from now on; while none is under way. */
void palm_work_on(palm_at_work *work, const uint8_t job[16], uint32_t hop, uint32_t function, uint32_t together,
                  uint32_t client);
/* Pairs with the acquire by which the pulse reads it before it looks at since_ns again: if it has seen this store, it sees
 * too that the execution before has ended. */
static inline void palm_work_term(uint64_t *term, uint64_t value)
{
    __atomic_store_n(term, value, __ATOMIC_RELEASE);
}
/* What the next execution may take; before palm_work_begin. */
static inline void palm_work_terms(palm_at_work *work, uint32_t attempt, uint64_t limit_ns, uint64_t spent_ns,
                                   uint64_t deadline_ns)
{
    __atomic_store_n(&work->attempt, attempt, __ATOMIC_RELAXED);
    palm_work_term(&work->limit_ns, limit_ns);
    palm_work_term(&work->spent_ns, spent_ns);
    palm_work_term(&work->deadline_ns, deadline_ns);
}
/* The last one, by name, of several that are executed together; before palm_work_begin, which gets the first. */
static inline void palm_work_upto(palm_at_work *work, uint64_t number, const uint64_t *path, uint32_t n)
{
    palm_gauge(&work->last_number, number);
    for (uint32_t i = 0; i < n; i++)
        palm_gauge(&work->last_path[i], path[i]);
    __atomic_store_n(&work->last_path_count, n, __ATOMIC_RELAXED);
}
/* since_ns is stored last and cleared first, and nothing of the execution is moved out from between by the compiler. The
 * processor may: but of a process that was killed, all stores are seen that it came to, in their order. Path: at most
 * PALM_MAX_PATH components. */
static inline void palm_work_begin(palm_at_work *work, uint64_t number, const uint64_t *path, uint32_t n, uint64_t now_ns)
{
    if (!PALM_TRACKED)
        return;
    palm_work_term(&work->number, number);
    for (uint32_t i = 0; i < n; i++)
        palm_gauge(&work->path[i], path[i]);
    __atomic_store_n(&work->path_count, n, __ATOMIC_RELAXED);
    __atomic_store_n(&work->since_ns, now_ns, __ATOMIC_RELEASE); /* pairs with the acquire in palm_work_read */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline void palm_work_end(palm_at_work *work, bool completed)
{
    if (!PALM_TRACKED)
        return;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&work->since_ns, 0, __ATOMIC_RELEASE);
    palm_gauge(&work->completed, work->completed + completed); /* one thread writes: no exchange */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
/* One thread at a time. Names that do not fit whole are left out. */
void palm_wait_begin(palm_waiting *waiting, const char *servers, size_t size, uint64_t now_ns);
void palm_wait_end(palm_waiting *waiting);
/* A copy, which ends with a 0; false: nobody waits, or the wait has changed meanwhile. */
bool palm_wait_read(const palm_waiting *waiting, palm_waiting *out);
/* A copy; false: idle, and only `completed` says anything. Exact if the process is dead; of one that lives, a glance.
 * What the page says is not believed: the counts of paths are within their bounds afterwards. */
bool palm_work_read(const palm_at_work *work, palm_at_work *out);
/* Nobody waits any more for the execution that began at `since_ns`, if it is still under way. The first time counts. */
void palm_work_unwanted(palm_at_work *work, uint64_t since_ns, uint64_t now_ns);
/* Whether the execution under way is to be ended, and its since_ns; for the pulse of its process. grace_ns: for what is
 * late or unwanted; UINT64_MAX: such are not ended. */
palm_end palm_work_judge(const palm_at_work *work, uint64_t now_ns, uint64_t realtime_ns, uint64_t grace_ns,
                         uint64_t *since_ns);

/* ------------------------------------------------------------------------------------------------- zmq and node */

/* Resolves libzmq's entry points from a shared object that has it, or links to it. PALM_ENOSYM: *missing names the
 * first that is not there. Again with the same or another path: no effect. */
palm_err palm_zmq_load(const char *path, const char **missing);
void palm_zmq_version(int *major, int *minor, int *patch);
bool palm_zmq_has(const char *capability); /* "curve", "ipc" */

/* A node is this process on the wire: one inbound socket, and a link to each peer it sends to. All calls but
 * palm_node_next are thread-safe; palm_node_next is for one thread at a time. */
typedef struct palm_node palm_node;
enum { PALM_KEY_BYTES = 32 };
typedef struct palm_keys { /* of CURVE */
    uint8_t public_key[PALM_KEY_BYTES], secret_key[PALM_KEY_BYTES];
} palm_keys;
typedef struct palm_node_options {
    const char *endpoint; /* "ipc:///path", "tcp://127.0.0.1:*": where to receive */
    const palm_keys *keys; /* with which TCP is encrypted, and there is no other; NULL: TCP is plain text. Copied */
    const char *name;     /* what peers see */
    palm_space *space;
    bool frames;          /* never offer blocks, always send frames: as between hosts */
    bool sockets;         /* no rings: all goes through libzmq. frames implies it */
    bool sleeping;        /* never wait awake for what is about to come in a ring */
    bool serves;          /* that its receiver waits counts as idle_ns of the process: at most one node of a process */
} palm_node_options;
palm_err palm_node_open(const palm_node_options *options, palm_node **out);
/* Whose public keys nodes of this process with keys let in, from now on; at first nobody's. */
palm_err palm_gate_allow(const uint8_t (*keys)[PALM_KEY_BYTES], uint32_t n);
/* No new work: calls return PALM_ECLOSED from now on, and so does a palm_node_next that waits. Again: no effect. */
void palm_node_shut(palm_node *node);
/* Shuts it; says BYE and waits, up to linger_ms, until peers have taken what was sent; frees. No other thread may be in a
 * call of this node or begin one: shut it first, and wait until they have left. *unsent: envelopes that were given up. */
void palm_node_close(palm_node *node, int linger_ms, uint32_t *unsent);
const char *palm_node_endpoint(const palm_node *node);
/* A pipe's end, without waiting: who writes a byte other than 0 there makes palm_node_next return PALM_EINTR, as a handler of
 * signals may, so that none is missed that comes just before a wait. */
int palm_node_door(const palm_node *node);
uint64_t palm_node_id(const palm_node *node);

/* A link to who receives at `endpoint`; returns at once, the same number for the same endpoint while it stands. What is
 * sent before the hand-shake is over waits, as long as the process `pid` of this host lives (0: not known): a server that
 * is busy with a function answers when that is over. */
palm_err palm_node_link(palm_node *node, const char *endpoint, int32_t pid, uint32_t *link);
/* The same to an endpoint that a peer has named. Of those that nobody has answered from, a node keeps 256: the oldest goes
 * when one more comes. */
palm_err palm_node_link_named(palm_node *node, const char *endpoint, int32_t pid, uint32_t *link);
typedef enum palm_link_state { PALM_LINK_GONE = 0, PALM_LINK_OPENING, PALM_LINK_READY } palm_link_state;
palm_link_state palm_node_link_state(palm_node *node, uint32_t link, bool *mapped);
/* Sends the content of the batch as one envelope, or a copy of it when the link is ready; never blocks. The batch is as it
 * was, to be cleared, or kept and sent again. PALM_ECLOSED: the link is gone. */
palm_err palm_node_send(palm_node *node, uint32_t link, palm_kind kind, uint32_t handle, uint16_t hop,
                        const palm_batch *batch);

/* What has come. */
typedef enum palm_event_kind {
    PALM_EVENT_MESSAGE = 1, /* envelope of any kind but HELLO and BYE */
    PALM_EVENT_READY,       /* the link can be used */
    PALM_EVENT_GONE,        /* the peer has said BYE (reason 0), or is dead (1) */
    PALM_EVENT_WAKE,        /* palm_node_wake() was called */
    PALM_EVENT_STOP         /* palm_node_stop() was called, or the owner is gone */
} palm_event_kind;
typedef struct palm_frames palm_frames; /* the memory of what came in one message; counted */
typedef struct palm_taken { palm_arena *arena; const uint8_t *first; uint32_t index; palm_err err; } palm_taken;
typedef struct palm_event {
    palm_event_kind kind;
    uint32_t link;             /* the link to the sender */
    uint32_t reason;
    palm_envelope envelope;    /* valid until palm_event_done */
    palm_frames *frames;       /* holds body and parts */
    palm_taken *blocks;        /* envelope.n_blocks; err says which could not be taken */
    const uint8_t **parts;     /* envelope.n_parts; 64-byte aligned */
    palm_text *dtypes;         /* what envelope.dtypes points to */
} palm_event;
/* Waits up to timeout_ms for an event; PALM_EAGAIN: none came. PALM_EINTR: look for signals, call again (a signal just
 * before the wait is not seen by it: wait 50 ms at a time where Ctrl-C matters). Malformed messages are counted, reported by palm_node_rejected and dropped in here. */
palm_err palm_node_next(palm_node *node, int timeout_ms, palm_event *event);
/* Gives back what the event holds: frames that nobody else holds, one reference of each block. */
void palm_event_done(palm_node *node, palm_event *event);
/* An event of one frame that came by no link: the inverse of palm_batch_pack, checked like any other. It has a copy of the
 * bytes; palm_event_done(NULL, event) ends it. PALM_EMALFORMED too: the frame names blocks or parts. */
palm_err palm_event_unpack(const void *frame, size_t size, palm_event *event);
void palm_frames_hold(palm_frames *frames);
void palm_frames_drop(palm_frames *frames);
void palm_node_wake(palm_node *node); /* any thread, signal handlers too */
void palm_node_stop(palm_node *node); /* likewise */
/* Why the last message was rejected, for a rate-limited log; the count is counters->rejected. */
const char *palm_node_rejected(palm_node *node);
/* What a pulse does for a node: gives back blocks that peers have taken. *unread: replaced if a peer of this node has left
 * more. */
void palm_node_tick(palm_node *node, palm_unread *unread);
/* Nothing is on its way that the pulse would have to see to soon. */
bool palm_node_is_quiet(palm_node *node);
/* What the node does from now on is told to a pulse by its eventfd `bell`, while *rests (an atomic_bool). */
void palm_node_rest(palm_node *node, const void *rests, int bell);
/* While a function runs, nobody is in palm_node_next: the pulse receives what has come, to be given out later, and sees
 * whether the execution that began at `since_ns` is unwanted: by a CANCEL or FORGET, or since its client is gone. */
void palm_node_attend(palm_node *node, palm_at_work *work, uint64_t since_ns, uint64_t now_ns);

/* -------------------------------------------------------------------------------------------------------- pulse */

/* A thread of its own that beats ten times a second while functions compute: sweeps and trims the space, settles the
 * nodes, stamps counters->pulse_ns. owner_fd: read end of a pipe whose write end the owner alone holds, or -1; when it
 * breaks, the node is stopped, and after grace_ms `unlink_path` is removed and the process ends, GIL or no GIL (R15). */
typedef struct palm_pulse palm_pulse;
palm_err palm_pulse_start(palm_space *space, palm_pulse **out);
void palm_pulse_add(palm_pulse *pulse, palm_node *node);
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

/* --------------------------------------------------------------------------------------------------------- book */

/* What its client knows of a job (DELIVERY 2): of each input that is not done a tree of names, which only grows. Pure: no
 * I/O, no clock, no lock; one thread at a time. Out of memory (PALM_ENOMEM), the book is as it was.
 *
 * A name is a number and a path as in records. A leaf settles; the message of a generator is a node, complete when it is
 * closed and all its children are complete; an input is done when its root, the name without a path, is complete.
 * Every event may come again, in any order, from any execution: the first one counts. A path of more than PALM_MAX_PATH
 * components, or more than 2^48 children, is PALM_ELIMIT.
 *
 * The book has what is open, not what has been: nodes are at most open names times depth, a node's ranges at most one
 * more than its open children. So what contradicts something complete is noticed only where that is still known. */
typedef struct palm_book palm_book;

enum {                            /* what an event was to the book */
    PALM_BOOK_NEW = 1,            /* the first of its kind; without this bit, nothing has changed */
    PALM_BOOK_COMPLETED = 2,      /* names are complete now: the topmost has palm_book_depth(verdict) components */
    PALM_BOOK_INPUT_DONE = 4,     /* that one is the root */
    PALM_BOOK_CONTRADICTION = 8   /* two executions disagree (DELIVERY 1); the input is to be failed and forgotten */
};                                /* 0: known already, or the input is done, forgotten or has not begun */
static inline uint32_t palm_book_depth(uint32_t verdict)
{
    return verdict >> 16;
}

palm_err palm_book_new(palm_book **out);
void palm_book_free(palm_book *book);
/* The inputs first..first+n-1 are on their way. PALM_EINVAL: not the next ones; the first of all is 0. */
palm_err palm_book_begin(palm_book *book, uint64_t first, uint64_t n);
/* `next` is the next input: those before it that were not on their way count as done. PALM_EINVAL: it was on its way. */
palm_err palm_book_skip(palm_book *book, uint64_t next);
/* A message has ended without children: it has a result, or the function returned None. */
palm_err palm_book_settle(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict);
/* Whether each of the inputs first..first+n-1, n > 0, is open, and has no children that are known of; false, too, where that is
 * not found out quickly. */
bool palm_book_are_open(const palm_book *book, uint64_t first, uint64_t n);
/* The same as to settle each of them, where palm_book_are_open. */
void palm_book_settle_all(palm_book *book, uint64_t first, uint64_t n);
/* A generator has ended after so many children. */
palm_err palm_book_close(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t children,
                         uint32_t *verdict);
/* A message has ended for a reason that is not the function's alone, and all below it has: it was set aside, has failed,
 * found no room, came too late. Contradicts neither a close nor a result of the same name. */
palm_err palm_book_prune(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict);
/* Gives an input up: what still comes of it is unknown. */
void palm_book_forget(palm_book *book, uint64_t number);

uint64_t palm_book_open_inputs(const palm_book *book);
bool palm_book_is_open(const palm_book *book, uint64_t number);
/* How many names at or below this one are not complete that are not known to have children; UINT64_MAX if more may come: one
 * has children, and it is not known how many. 0: it is complete. */
uint64_t palm_book_unsettled(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path);
/* The smallest open number that is at least `from`. */
bool palm_book_next(const palm_book *book, uint64_t from, uint64_t *number);
/* No unsettled name can sort before this one any more, those above it excepted. False as long as a name above it is not
 * known to have children. */
bool palm_book_is_next(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path);

typedef enum palm_book_state {
    PALM_BOOK_UNKNOWN = 0, /* no node of this name is known, nor that there can be none */
    PALM_BOOK_OPEN,
    PALM_BOOK_OVER         /* it is complete, or a name above it is; the input is done or forgotten */
} palm_book_state;
typedef struct palm_range { uint64_t from, to; } palm_range; /* to: the first one behind */
/* Which children of an open node are complete: the first `room` of *n sorted ranges that do not touch. */
palm_book_state palm_book_ranges(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                                 palm_range *ranges, uint32_t room, uint32_t *n);

/* Slots (DELIVERY 5). A generator may send `upto` children; less than it has already changes nothing. The name is known
 * to be a node from now on. */
palm_err palm_book_grant(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t upto,
                         uint32_t *verdict);
/* How many children an open node may have sent; 0 if it is not one. A generator makes its children in order, so one that
 * arrives beyond the grant stands for all before it: they count as granted. */
uint64_t palm_book_granted(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path);
/* Slots held: one for each open input, and for each open node what it may have sent, or once it is closed its children,
 * less those that are complete. Of one node, 2^32 - 1 at most. */
uint64_t palm_book_live(const palm_book *book);

/* For those who explore what can become of a book. Books with the same dump behave alike from now on; out has the first
 * `room` of as many words as are returned. Takes a time quadratic in the open nodes below one. */
palm_err palm_book_copy(const palm_book *book, palm_book **out);
size_t palm_book_dump(const palm_book *book, uint64_t *out, size_t room);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
