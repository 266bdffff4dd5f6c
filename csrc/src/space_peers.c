/* SPDX-License-Identifier: BSD-3-Clause
 * Other processes: who they are, their arenas, our slot in them, and whether they live. */
#include "space_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* -------------------------------------------------------------------------------------------------------- identity */

static ssize_t read_file(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, room - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n;
}

/* pid | start time << 32, or 0: no such process. The start time tells apart those that had the same pid. */
static uint64_t process_now(int32_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_file(path, text, sizeof text) <= 0)
        return 0;
    const char *p = strrchr(text, ')'); /* the name may hold anything, ')' and spaces too */
    for (int field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    return p ? strtoull(p + 1, NULL, 10) << 32 | (uint32_t)pid : 0;
}

static uint8_t hex_digit(char c)
{
    return (uint8_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
}

void palmi_peers_host(uint8_t boot_id[16], uint64_t *pid_namespace)
{
    char text[64];
    struct stat s;
    memset(boot_id, 0, 16);
    ssize_t n = read_file("/proc/sys/kernel/random/boot_id", text, sizeof text);
    for (int i = 0, d = 0; i < n && d < 32; i++)
        if ((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')) {
            boot_id[d / 2] = (uint8_t)(boot_id[d / 2] << 4 | hex_digit(text[i]));
            d++;
        }
    *pid_namespace = stat("/proc/self/ns/pid", &s) ? 0 : s.st_ino;
}

void palmi_peers_open(palm_space *space)
{
    palmi_peers_host(space->boot_id, &space->pid_namespace);
    space->who = process_now(getpid());
    if (!space->who) /* no /proc: nobody can open our arena either */
        space->who = (uint32_t)getpid();
    space->words.count = PALM_TAKEN_WORDS;
    for (uint32_t i = 0; i < PALM_TAKEN_WORDS; i++)
        space->words.queue[i] = (uint16_t)i;
}

void palm_space_identity(const palm_space *space, palm_identity *out)
{
    memset(out, 0, sizeof *out);
    memcpy(out->boot_id, space->boot_id, sizeof out->boot_id);
    out->pid_namespace = space->pid_namespace;
    out->pid = (int32_t)(uint32_t)space->who;
    if (!space->own || space->forked)
        return;
    out->arena_hi = space->own->id_hi;
    out->arena_lo = space->own->id_lo;
    out->fd = space->own->fd;
}

/* Where /proc is missing, both are zero: nobody knows. */
static bool same_host(const palm_identity *ours, const palm_identity *theirs)
{
    return theirs->pid_namespace && ours->pid_namespace == theirs->pid_namespace &&
           !memcmp(ours->boot_id, theirs->boot_id, sizeof ours->boot_id);
}

bool palm_space_same_host(const palm_space *space, const palm_identity *peer)
{
    palm_identity ours;
    palm_space_identity(space, &ours);
    return same_host(&ours, peer);
}

bool palmi_peers_reachable(const palm_identity *ours, const palm_identity *theirs)
{
    return (theirs->arena_hi || theirs->arena_lo) && same_host(ours, theirs);
}

/* --------------------------------------------------------------------------------------------------------- attaching */

/* Where a process begins to look is spread over the words: fewer collisions, and fewer processes to a word of bits. */
static bool claim_slot(palm_arena *arena)
{
    uint32_t start = (uint32_t)arena->space->who * 61u;
    for (uint32_t i = 0; i < PALMI_SLOTS - 1; i++) {
        uint32_t slot = 1 + (start + i) % (PALMI_SLOTS - 1);
        uint64_t nobody = 0;
        PALMI_CRASHPOINT();
        /* acq_rel: pairs with the release by which the slot became free. A sweeper finds a dead process's slot. */
        if (atomic_compare_exchange_strong_explicit(&arena->head->slot[slot], &nobody, arena->space->who,
                                                    memory_order_acq_rel, memory_order_relaxed)) {
            PALMI_CRASHPOINT();
            arena->slot = slot;
            return true;
        }
    }
    return false;
}

palm_err palmi_peers_attach(palm_space *space, int32_t pid, int32_t fd, uint64_t id_hi, uint64_t id_lo, palm_arena **out)
{
    palm_arena *arena;
    if (space->no_arena)
        return PALM_EUNREACHABLE;
    palm_err err = palmi_arena_open(space, pid, fd, id_hi, id_lo, &arena);
    if (err)
        return err;
    PALMI_CRASHPOINT();
    err = claim_slot(arena) ? palmi_space_remember(space, arena) : PALM_EFULL;
    if (err) {
        palmi_peers_detach(arena);
        return err;
    }
    *out = arena;
    return PALM_OK;
}

/* All our bits are clear by now, so the slot may be another's at once. */
void palmi_peers_detach(palm_arena *arena)
{
    if (!palmi_is_own(arena) && arena->slot != PALMI_NONE && arena->head) {
        PALMI_CRASHPOINT();
        /* release: pairs with the claim; our bits were cleared before */
        atomic_store_explicit(&arena->head->slot[arena->slot], 0, memory_order_release);
        PALMI_CRASHPOINT();
    }
    palmi_arena_destroy(arena);
}

static palm_err attach_locked(palm_space *space, const palm_identity *peer, uint32_t *slot)
{
    palm_identity ours;
    if (space->forked)
        return PALM_EFORK;
    if (space->closed)
        return PALM_ECLOSED;
    palm_space_identity(space, &ours);
    if (!palmi_peers_reachable(&ours, peer))
        return PALM_EUNREACHABLE;
    palm_arena *arena = palmi_space_find(space, peer->arena_hi, peer->arena_lo);
    palm_err err = arena ? PALM_OK : palmi_peers_attach(space, peer->pid, peer->fd, peer->arena_hi, peer->arena_lo, &arena);
    if (!err)
        *slot = arena->slot;
    return err;
}

palm_err palm_space_attach(palm_space *space, const palm_identity *peer, uint32_t *slot)
{
    pthread_mutex_lock(&space->lock);
    palm_err err = attach_locked(space, peer, slot);
    pthread_mutex_unlock(&space->lock);
    return err;
}

/* ----------------------------------------------------------------------------------------------------- taken words */

/* A receiver that is late may still write into the word of a link that has ended: so it rests as long as can be. */
palm_err palm_space_claim_word(palm_space *space, uint32_t *word)
{
    palmi_words *words = &space->words;
    palm_err err = PALM_OK;
    pthread_mutex_lock(&space->lock);
    if (space->forked) {
        err = PALM_EFORK;
    } else if (!space->own || space->closed) {
        err = PALM_EUNREACHABLE;
    } else if (!words->count) {
        err = PALM_EFULL;
    } else {
        uint32_t claimed = words->queue[words->first];
        words->first = (words->first + 1) % PALM_TAKEN_WORDS;
        words->count--;
        words->claimed[claimed] = true;
        /* relaxed: the receiver learns of the word from us, in a message */
        atomic_store_explicit(&space->own->head->taken[claimed].value, 0, memory_order_relaxed);
        *word = claimed;
    }
    pthread_mutex_unlock(&space->lock);
    return err;
}

void palm_space_return_word(palm_space *space, uint32_t word)
{
    palmi_words *words = &space->words;
    pthread_mutex_lock(&space->lock);
    if (word < PALM_TAKEN_WORDS && words->claimed[word]) {
        words->claimed[word] = false;
        words->queue[(words->first + words->count++) % PALM_TAKEN_WORDS] = (uint16_t)word;
    }
    pthread_mutex_unlock(&space->lock);
}

uint64_t palm_space_taken(const palm_space *space, uint32_t word)
{
    if (!space->own || word >= PALM_TAKEN_WORDS)
        return 0;
    /* acquire: pairs with set_taken; what the peer did before, setting its bits, is done */
    return atomic_load_explicit(&space->own->head->taken[word].value, memory_order_acquire);
}

void palm_space_set_taken(palm_space *space, uint64_t arena_hi, uint64_t arena_lo, uint32_t word, uint64_t value)
{
    pthread_mutex_lock(&space->lock);
    bool can = !space->forked && !space->closed && word < PALM_TAKEN_WORDS;
    palm_arena *arena = can ? palmi_space_find(space, arena_hi, arena_lo) : NULL;
    if (arena) {
        PALMI_CRASHPOINT();
        /* release: pairs with palm_space_taken; our bits are set before the sender lets go */
        atomic_store_explicit(&arena->head->taken[word].value, value, memory_order_release);
        PALMI_CRASHPOINT();
    }
    pthread_mutex_unlock(&space->lock);
}

/* ---------------------------------------------------------------------------------------------------- who is dead */

/* A pidfd, then the start time: if that is right, the pidfd names the process meant. */
static palmi_process *watch(palm_space *space, uint64_t who)
{
    for (uint32_t i = 0; i < space->n_processes; i++)
        if (space->processes[i].who == who)
            return &space->processes[i];
    if (space->n_processes == space->room_processes) {
        uint32_t room = space->room_processes ? 2 * space->room_processes : 16;
        palmi_process *more = realloc(space->processes, room * sizeof *more);
        if (!more)
            return NULL;
        space->processes = more;
        space->room_processes = room;
    }
    int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)(uint32_t)who, 0); /* close-on-exec by itself */
    if (pidfd < 0 || process_now((int32_t)(uint32_t)who) != who) {
        if (pidfd >= 0)
            close(pidfd);
        return NULL;
    }
    space->processes[space->n_processes] = (palmi_process){who, pidfd, true};
    return &space->processes[space->n_processes++];
}

/* True once all its threads and their memory are gone. 0: an owner that has closed its arena. */
bool palmi_peers_dead(palm_space *space, uint64_t who)
{
    if (!who)
        return true;
    if (who == space->who)
        return false;
    palmi_process *process = watch(space, who);
    if (!process) /* dead already; or no pidfd to be had: before Linux 5.3, or too many open files */
        return process_now((int32_t)(uint32_t)who) != who;
    process->wanted = true;
    struct pollfd p = {process->pidfd, POLLIN, 0};
    return poll(&p, 1, 0) == 1;
}

/* Closes the pidfds that nobody has asked for since the last time. */
void palmi_peers_tidy(palm_space *space)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < space->n_processes; i++) {
        palmi_process *process = &space->processes[i];
        if (process->wanted)
            space->processes[n++] = (palmi_process){process->who, process->pidfd, false};
        else
            close(process->pidfd);
    }
    space->n_processes = n;
}

void palmi_peers_close(palm_space *space)
{
    for (uint32_t i = 0; i < space->n_processes; i++)
        close(space->processes[i].pidfd);
    free(space->processes);
    space->processes = NULL;
    space->n_processes = space->room_processes = 0;
}
