/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_space.h: this process's shared memory, and that of its peers (space*.c).
 */
#ifndef PALM_SPACE_H
#define PALM_SPACE_H

#include "palm_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

PALM_BEGIN_DECLS

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
bool palm_space_same_host(const palm_space *space, const palm_identity *peer);
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

PALM_END_DECLS
#endif
