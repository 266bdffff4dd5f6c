/* SPDX-License-Identifier: BSD-3-Clause
 * What fork does to arenas: they are mapped shared, so without this the child would write into its parent's arrays,
 * and both would hand out the same blocks. The child gets private mappings and can do nothing but read and write what
 * it has. The parent keeps what it held at the fork until no descendant can read it any more: a pipe whose write end
 * only they have tells. posix_spawn and vfork run no handlers and need none. */
#include "space_internal.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_mutex_t spaces_lock = PTHREAD_MUTEX_INITIALIZER; /* before the lock of any space */
static pthread_once_t installed = PTHREAD_ONCE_INIT;
static palm_space *spaces;
static bool install_failed;

static void prepare(void)
{
    pthread_mutex_lock(&spaces_lock);
    for (palm_space *s = spaces; s; s = s->next) {
        pthread_mutex_lock(&s->lock);
        s->fork_pipe[0] = s->fork_pipe[1] = -1;
        if (!s->forked && pipe2(s->fork_pipe, O_CLOEXEC))
            s->fork_pipe[0] = s->fork_pipe[1] = -1;
    }
}

/* ---------------------------------------------------------------------------------------------------------- parent */

static void pin_arena(palm_arena *arena, palmi_pin *pin)
{
    uint32_t left = arena->held;
    for (uint32_t i = 0; left && i < PALMI_BLOCKS; i++) {
        if (!arena->blocks[i].refs)
            continue;
        left--;
        palmi_block_hold(arena, i);
        if (pin)
            pin->blocks[pin->count++] = (palmi_pinned){arena, i};
    }
}

/* Without a pipe or memory for the list the references stay for ever: that costs memory and harms nobody. */
static void pin_all(palm_space *space)
{
    uint64_t held = space->stats.blocks_held;
    palmi_pin *pin = space->fork_pipe[0] < 0 ? NULL : malloc(sizeof *pin + held * sizeof pin->blocks[0]);
    if (pin) {
        pin->fd = space->fork_pipe[0];
        pin->count = 0;
        pin->next = space->pins;
        space->pins = pin;
    } else if (space->fork_pipe[0] >= 0) {
        close(space->fork_pipe[0]);
    }
    if (space->own)
        pin_arena(space->own, pin);
    for (uint32_t i = 0; i < space->n_mapped; i++)
        pin_arena(space->mapped[i], pin);
}

static void in_parent(void)
{
    for (palm_space *s = spaces; s; s = s->next) {
        if (s->fork_pipe[1] >= 0)
            close(s->fork_pipe[1]);
        if (!s->forked)
            pin_all(s);
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_unlock(&spaces_lock);
}

static void drop_pin(palmi_pin *pin)
{
    close(pin->fd);
    for (uint32_t i = 0; i < pin->count; i++)
        palmi_block_let_go(pin->blocks[i].arena, pin->blocks[i].index);
    free(pin);
}

static bool descendants_are_gone(const palmi_pin *pin)
{
    struct pollfd p = {pin->fd, POLLIN, 0};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
}

void palmi_fork_tick(palm_space *space)
{
    for (palmi_pin **p = &space->pins; *p;) {
        palmi_pin *pin = *p;
        if (!descendants_are_gone(pin)) {
            p = &pin->next;
            continue;
        }
        *p = pin->next;
        drop_pin(pin);
    }
}

/* A closed space recycles nothing, so own blocks need no pin. Others' blocks do: palmi_fork_tick looks after them
 * whenever a reference is dropped. */
static void unpin_own(palmi_pin *pin)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < pin->count; i++)
        if (palmi_is_own(pin->blocks[i].arena))
            palmi_block_let_go(pin->blocks[i].arena, pin->blocks[i].index);
        else
            pin->blocks[kept++] = pin->blocks[i];
    pin->count = kept;
}

void palmi_fork_close(palm_space *space)
{
    for (palmi_pin **p = &space->pins; *p;) {
        palmi_pin *pin = *p;
        unpin_own(pin);
        if (pin->count) {
            p = &pin->next;
            continue;
        }
        *p = pin->next;
        drop_pin(pin);
    }
}

/* ------------------------------------------------------------------------------------------------------------ child */

/* The pages stay where they are and show what they showed; from now on writes are the child's own. */
static void make_private(palm_arena *arena)
{
    if (arena->fd < 0) /* evacuated: private already */
        return;
    int data = palmi_is_own(arena) ? PROT_READ | PROT_WRITE : PROT_READ, flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
    if (mmap(arena->head, PALMI_DATA_AT, PROT_READ | PROT_WRITE, flags, arena->fd, 0) == MAP_FAILED ||
        mmap(arena->data, arena->data_size, data, flags, arena->fd, (off_t)PALMI_DATA_AT) == MAP_FAILED)
        mprotect(arena->data, arena->data_size, PROT_READ); /* a fault is better than a write into the parent */
    close(arena->fd);
    arena->fd = -1;
}

static void become_child(palm_space *space)
{
    space->forked = true;
    if (space->own)
        make_private(space->own);
    for (uint32_t i = 0; i < space->n_mapped; i++)
        make_private(space->mapped[i]);
    for (palmi_pin *pin = space->pins; pin; pin = pin->next)
        close(pin->fd);
    palmi_peers_close(space);
    if (space->fork_pipe[0] >= 0)
        close(space->fork_pipe[0]); /* the write end stays open as long as we and our children live */
}

static void in_child(void)
{
    for (palm_space *s = spaces; s; s = s->next) {
        if (!s->forked)
            become_child(s);
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_unlock(&spaces_lock);
}

/* -------------------------------------------------------------------------------------------------------------- list */

static void install(void)
{
    install_failed = pthread_atfork(prepare, in_parent, in_child) != 0;
}

palm_err palmi_fork_watch(palm_space *space)
{
    pthread_once(&installed, install);
    if (install_failed)
        return PALM_ENOMEM;
    pthread_mutex_lock(&spaces_lock);
    space->next = spaces;
    spaces = space;
    pthread_mutex_unlock(&spaces_lock);
    return PALM_OK;
}

void palmi_fork_unwatch(palm_space *space)
{
    pthread_mutex_lock(&spaces_lock);
    for (palm_space **s = &spaces; *s; s = &(*s)->next)
        if (*s == space) {
            *s = space->next;
            break;
        }
    pthread_mutex_unlock(&spaces_lock);
}
