/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm.h: all of the core that the outside may use. What is not here is private.
 *
 *   space      this process's shared memory, and that of its peers          space*.c
 *   envelope   the header of a message or of a batch of messages            envelope.cc
 *   zmq        the libzmq that pyzmq has loaded                             zmq.c
 *   node       a process on the wire: one door, links to peers, the loop    node.c, link.c
 *   pulse      the thread that keeps time while a function computes         pulse.c
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
    PALM_EFULL,        /* the arena has no room, or its table of processes has none */
    PALM_ENOSYM,       /* libzmq lacks an entry point */
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
/* Drops one reference; any thread, without the GIL. */
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
/* The word in which the process with this slot of our own arena tells which sequence number it has taken; NULL if
 * there is no arena. The peer's side: its word in the peer's arena. Read with acquire, written with release order. */
uint64_t palm_space_taken(const palm_space *space, uint32_t slot);
void palm_space_set_taken(palm_space *space, uint64_t arena_hi, uint64_t arena_lo, uint64_t seq);

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
enum { PALM_PAGE_BYTES = 32768 };
void *palm_space_page(const palm_space *space);
/* Maps (read-only) the page of another process, found by its arena's pid and fd; for reports. */
palm_err palm_page_open(const palm_identity *of, const void **page);
void palm_page_close(const void *page);

/* ---------------------------------------------------------------------------------------------------- envelope */

/* One frame: [size-prefixed FlatBuffer, identifier "PALM"][zeros up to 64][body]. Further frames: parts. docs/wire.md.
 * palm_record, palm_array and palm_block are the structs of schema/palm.fbs, byte for byte. */

typedef enum palm_kind {  /* of an envelope */
    PALM_HELLO = 1,       /* who I am; which slot I have in your arena */
    PALM_OPEN,            /* what a handle on this link means: job, route, constants */
    PALM_DATA,            /* messages of a job, to its next step or to its client */
    PALM_FORGET,          /* this handle is not used any more */
    PALM_CANCEL,          /* stop working on this job */
    PALM_TAKEN,           /* sequence numbers taken, for links without shared memory: first record's number */
    PALM_BYE              /* the sender ends in good order: nothing more will come */
} palm_kind;

typedef enum palm_form {  /* of a record: what it says, or the payload's form */
    PALM_NOTHING = 0,     /* an empty message: no payload */
    PALM_BYTES,           /* body: the bytes themselves; or, if array_count is 1, one array of bytes out of band */
    PALM_ARRAY,           /* one array */
    PALM_TREE,            /* body: msgpack, with arrays out of band */
    PALM_DROP,            /* this message ended without a result */
    PALM_CLOSE,           /* this message became `count` children */
    PALM_ERROR            /* this message failed; body: msgpack */
} palm_form;

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
    uint32_t count;                 /* PALM_CLOSE: children */
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
    int32_t slot;              /* the slot the sender has in the receiver's arena, or one of: */
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

#ifdef __cplusplus
}
#endif
#endif
