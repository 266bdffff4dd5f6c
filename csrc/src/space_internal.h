/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the files of the space share. docs/arena.md explains the protocol.
 *
 *   space.c           open, close, which arena an address belongs to, statistics, the tick
 *   space_arena.c     one arena: the memfd, its layout, mapping it here, finding a block by address
 *   space_blocks.c    own blocks: size classes, free lists, trimming
 *   space_lifetime.c  who holds a block: lend, take, drop, close, sweep
 *   space_peers.c     other processes: identity, attaching, slots, who is dead
 *   space_orphans.c   arenas whose owner is dead
 *   space_fork.c      what fork does to arenas
 *   space_bound.c     how much memory there is
 *   space_page.c      the page of counters of another process
 *
 * Every function here but palmi_fork_* wants the space's lock held, unless it says otherwise.
 */
#ifndef PALMI_SPACE_INTERNAL_H
#define PALMI_SPACE_INTERNAL_H
#include "clock.h"
#include "crashpoint.h"
#include "palm_limits.h"
#include "palm_space.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>

/* -------------------------------------------------------------------------------------------- the arena's layout */

#define PALMI_MAGIC 0x314152414D4C4150ull /* "PALMARA1" */
#define PALMI_HUGE (2ull << 20)           /* a huge page: alignment of the data, and of blocks of this size or more */
enum {
    PALMI_LAYOUT = 1,
    PALMI_UNIT = 4096,     /* blocks are multiples of it */
    PALMI_SLOTS = 448,     /* processes that may hold blocks of one arena: 7 words of bits, so a header is one line */
    PALMI_WORDS = 7,
    PALMI_BLOCKS = 65536,
};

/* Written once, before magic. A peer copies it out and checks the copy. */
typedef struct palmi_birth {
    uint64_t magic;
    uint32_t layout, slots, blocks, page_bytes;
    uint64_t id_hi, id_lo;
    uint64_t data_at, data_size;
} palmi_birth;

typedef struct palmi_taken {
    alignas(64) _Atomic uint64_t value; /* a line each: receivers write here once a batch */
} palmi_taken;

typedef struct palmi_head {
    palmi_birth birth;
    alignas(4096) _Atomic uint64_t slot[PALMI_SLOTS]; /* pid | start time << 32. 0: free; of slot 0, the owner's: gone */
    alignas(4096) palmi_taken taken[PALM_TAKEN_WORDS];
    alignas(4096) uint8_t page[PALM_PAGE_BYTES];
} palmi_head;

/* state: generation << 2 | FREE, LIVE or CLOSING. holders: bit s of the words is written by the process in slot s
 * alone, and by the owner once that process is dead. The owner has no bit: it alone frees, and it knows what it holds. */
typedef struct palmi_header {
    alignas(64) _Atomic uint64_t state;
    _Atomic uint64_t holders[PALMI_WORDS];
} palmi_header;
enum { PALMI_FREE = 0, PALMI_LIVE = 1, PALMI_CLOSING = 2 };
#define PALMI_STATE(generation, what) ((generation) << 2 | (uint64_t)(what))

#define PALMI_HEADERS_AT (256u << 10)
#define PALMI_DATA_AT (3 * PALMI_HUGE)
_Static_assert(sizeof(palmi_head) <= PALMI_HEADERS_AT, "the head ends before the headers");
_Static_assert(PALMI_HEADERS_AT + sizeof(palmi_header) * PALMI_BLOCKS <= PALMI_DATA_AT, "so do the headers");
_Static_assert(sizeof(palmi_header) == 64 && PALMI_WORDS * 64 == PALMI_SLOTS, "a header is a cache line");

/* ----------------------------------------------------------------------------------------------- private records */

#define PALMI_NONE UINT32_MAX
typedef struct palmi_list { uint32_t first, last, count; } palmi_list;
typedef struct palmi_links { uint32_t prev, next; } palmi_links;
enum { PALMI_BY_CLASS = 0, PALMI_BY_AGE = 1 };

typedef enum palmi_place { /* of an own block */
    PALMI_SPARE = 0,       /* a header without addresses */
    PALMI_IDLE,            /* in its class's list; in the list by age too, if it has pages */
    PALMI_HELD,            /* we have references */
    PALMI_LENT             /* others alone have; in the lent list */
} palmi_place;

/* What this process knows of a block. The owner's table is the truth; that of a mapped arena says what was taken. */
typedef struct palmi_block {
    uint64_t at, size;     /* its bytes of the arena's data */
    uint64_t generation;
    uint64_t warm;         /* own: bytes from `at` on that may have pages; those behind are zero */
    uint64_t idle_since;
    uint32_t refs;         /* of this process */
    uint8_t place;         /* own: palmi_place */
    uint8_t size_class;
    bool lent;             /* own: offered in this generation, so the header is in use */
    bool evacuated;        /* mapped: its pages here are a private copy */
    palmi_links links[2];
} palmi_block;

struct palm_arena {
    palm_space *space;
    uint64_t id_hi, id_lo;
    int fd;                   /* -1: the memfd has been let go of, what is held lies in private copies */
    uint32_t slot;            /* ours in its table; 0: the own arena */
    palmi_head *head;
    palmi_header *headers;
    uint8_t *data;
    uint64_t data_size;
    uint64_t owner;           /* the process, as in slot[0] */
    uint32_t held;            /* blocks with references */
    palmi_block *blocks;      /* PALMI_BLOCKS; pages come as they are used */
    uint32_t *coarse, *fine;  /* hints: which block, plus 1, lies at this 2 MiB, at this 4 KiB */
    size_t hint_bytes;
};

enum { PALMI_CLASSES = 160 };
typedef struct palmi_extent { uint64_t at, end; } palmi_extent;

typedef struct palmi_pool { /* the own arena's blocks; space_blocks.c */
    palmi_list idle[PALMI_CLASSES]; /* last in, first out; those without pages at the end */
    palmi_list aged;                /* idle blocks with pages, oldest first */
    palmi_list lent;
    palmi_list spare;
    palmi_extent *extents;          /* addresses that no block has yet */
    uint32_t n_extents, n_headers;
    uint64_t bound, floor, idle_ns;
    uint64_t committed, idle_bytes; /* sum of `warm` over all blocks; over the idle ones */
    bool reclaimed;                 /* addresses were gathered since the last tick */
} palmi_pool;

typedef struct palmi_words { /* those of the own arena's `taken` that no link has, least recently used first */
    uint16_t queue[PALM_TAKEN_WORDS];
    uint32_t first, count;
    bool claimed[PALM_TAKEN_WORDS];
} palmi_words;

enum { PALMI_CGROUPS = 8 };
typedef struct palmi_cgroup { char *directory; bool v1; } palmi_cgroup;
typedef struct palmi_bound {
    palmi_cgroup cgroups[PALMI_CGROUPS]; /* those above us that have a limit */
    uint32_t n_cgroups;
    uint64_t total;                      /* bytes of RAM, or the least limit */
    uint64_t granted;                    /* fresh bytes that may be used before looking again */
    uint64_t short_until;                /* do not look again before */
} palmi_bound;

typedef struct palmi_process { uint64_t who; int pidfd; bool wanted; } palmi_process;

typedef struct palmi_pinned { palm_arena *arena; uint32_t index; } palmi_pinned;
typedef struct palmi_pin {
    struct palmi_pin *next;
    int fd;             /* read end of a pipe whose write end the child and its descendants alone have */
    uint32_t count;
    palmi_pinned blocks[];
} palmi_pin;

enum { PALMI_RECENT = 256 };
struct palm_space {
    pthread_mutex_t lock;
    bool forked, closed, no_arena;
    palm_arena *own;
    uintptr_t own_start;      /* for palm_space_owns, which takes no lock: fixed from open to close */
    uint64_t own_size;
    palm_arena **mapped;      /* by address */
    uint32_t n_mapped, room_mapped;
    palm_arena *recent[PALMI_RECENT]; /* by id: a take looks here before it looks at all */
    palmi_pool pool;
    palmi_words words;
    palmi_bound bound;
    palm_space_stats stats;   /* the counters of it */
    uint64_t who;             /* pid | start time << 32 */
    uint8_t boot_id[16];
    uint64_t pid_namespace;
    uint64_t now, swept_at;   /* CLOCK_MONOTONIC: at the last tick; at the last sweep */
    palmi_process *processes; /* pidfds, one for each process that we watch */
    uint32_t n_processes, room_processes;
    palmi_pin *pins;
    int fork_pipe[2];
    void *page;               /* private, where there is no arena */
    palm_space *next;         /* all spaces of this process; space_fork.c */
};

static inline uint64_t palmi_round_up(uint64_t n, uint64_t to) { return (n + to - 1) & ~(to - 1); }
static inline bool palmi_is_own(const palm_arena *arena) { return arena->slot == 0; }

/* space.c */
void palmi_space_forget(palm_space *space, palm_arena *arena);
/* Frees a closed space in which nothing is held any more. Unlocks. */
void palmi_space_unlock(palm_space *space);
palm_err palmi_space_remember(palm_space *space, palm_arena *arena);
palm_arena *palmi_space_find(palm_space *space, uint64_t id_hi, uint64_t id_lo);

/* space_arena.c: none of these wants the lock */
palm_err palmi_arena_create(palm_space *space, uint64_t data_size, palm_arena **out);
/* Opens and maps what fd `fd` of process `pid` is, if it is the arena with this id. Claims no slot. */
palm_err palmi_arena_open(palm_space *space, int32_t pid, int32_t fd, uint64_t id_hi, uint64_t id_lo, palm_arena **out);
int palmi_arena_open_file(int32_t pid, int32_t fd, int flags, uint64_t id_hi, uint64_t id_lo, palmi_birth *birth);
void palmi_arena_destroy(palm_arena *arena);
void palmi_arena_note(palm_arena *arena, uint32_t index);
/* The block we hold that has the byte at p, or PALMI_NONE. */
uint32_t palmi_arena_at(const palm_arena *arena, const void *p);

/* space_blocks.c */
palm_err palmi_pool_open(palm_space *space, uint64_t bound, const palm_space_options *options);
void palmi_pool_close(palm_space *space);
void palmi_pool_recycle(palm_space *space, uint32_t index);
void palmi_pool_lend(palm_space *space, uint32_t index);
void palmi_pool_return(palm_space *space, uint32_t index);
/* Gives up the lock for a while, once for each block. */
void palmi_pool_trim(palm_space *space);

/* space_lifetime.c */
void palmi_block_hold(palm_arena *arena, uint32_t index);
void palmi_block_let_go(palm_arena *arena, uint32_t index);
/* Looks at up to `most` lent blocks, oldest first, and recycles those that nobody holds. */
void palmi_collect(palm_space *space, uint32_t most);
void palmi_sweep(palm_space *space);

/* space_peers.c */
void palmi_peers_open(palm_space *space);
void palmi_peers_close(palm_space *space);
palm_err palmi_peers_attach(palm_space *space, int32_t pid, int32_t fd, uint64_t id_hi, uint64_t id_lo,
                            palm_arena **out);
void palmi_peers_detach(palm_arena *arena);
bool palmi_peers_dead(palm_space *space, uint64_t who);
void palmi_peers_tidy(palm_space *space);
/* The same host, as far as /proc goes? No lock needed. */
bool palmi_peers_reachable(const palm_identity *ours, const palm_identity *theirs);
void palmi_peers_host(uint8_t boot_id[16], uint64_t *pid_namespace);

/* space_orphans.c */
/* Its pages are gone once nothing refers to them; an arena that has been evacuated keeps only addresses. */
void palmi_orphans_let_go(palm_arena *arena, uint32_t index);
void palmi_orphans_tick(palm_space *space);

/* space_fork.c */
palm_err palmi_fork_watch(palm_space *space);
void palmi_fork_unwatch(palm_space *space);
void palmi_fork_tick(palm_space *space);
void palmi_fork_close(palm_space *space);

/* space_bound.c */
void palmi_bound_open(palmi_bound *bound);
void palmi_bound_close(palmi_bound *bound);
/* Is there memory for so many fresh bytes? Looks at the system once for each 16 MiB. */
bool palmi_bound_admits(palmi_bound *bound, uint64_t fresh);

#endif
