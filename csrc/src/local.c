/* SPDX-License-Identifier: BSD-3-Clause
 * Rings between this node and others of its host. Who sends makes the ring, anew for each link, and tells its descriptor in
 * HELLO; who receives maps it, and says so in it. What does not fit takes the socket, and the sequence numbers of envelopes
 * say which is next (docs/decisions/links.md). */
#include "node_internal.h"
#include "sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------------- files */

static void *map(int file, size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_DONTFORK);
    madvise(p, size, MADV_DONTDUMP);
    return p;
}

/* A new file with this at its begin, and its mapping; NULL: there is no room for one. */
static void *make(size_t size, palmi_label label, int *file)
{
    *file = palmi_sealed_new(size);
    if (*file < 0)
        return NULL;
    palmi_label *p = map(*file, size);
    if (p) {
        *p = label;
        return p;
    }
    close(*file);
    *file = -1;
    return NULL;
}

/* Another process's file of this size, with this magic and id; NULL: it is none. */
static void *open_and_map(int32_t pid, int32_t fd, size_t size, uint64_t magic, uint64_t id)
{
    uint64_t bytes = 0;
    palmi_label label;
    int file = fd > 0 ? palmi_sealed_open(pid, fd, O_RDWR, &bytes) : -1;
    if (file < 0)
        return NULL;
    bool right = bytes == size && pread(file, &label, sizeof label, 0) == (ssize_t)sizeof label && label.magic == magic &&
                 label.id == id;
    void *p = right ? map(file, size) : NULL;
    close(file);
    return p;
}

/* The pipe that a peer sleeps on; -1: it cannot be had. Open for reading too, writing to it never raises SIGPIPE. */
static int open_pipe(int32_t pid, int32_t fd, uint64_t inode)
{
    char path[64];
    struct stat s;
    if (fd <= 0)
        return -1;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, (int)fd);
    if (stat(path, &s) || !S_ISFIFO(s.st_mode) || s.st_ino != inode)
        return -1;
    int file = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (file >= 0 && (fstat(file, &s) || !S_ISFIFO(s.st_mode) || s.st_ino != inode)) { /* it was another by then */
        close(file);
        return -1;
    }
    return file;
}

/* --------------------------------------------------------------------------------------------------- a node's door */

palm_err palmi_door_open(palm_node *node, bool rings, bool spins)
{
    palmi_door *door = &node->door;
    struct stat s;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
        return (palm_err)(PALM_ESYS + errno);
    door->read_end = ends[0];
    door->write_end = ends[1];
    if (fstat(ends[0], &s))
        return (palm_err)(PALM_ESYS + errno);
    if (rings)
        door->bell = make(sizeof *door->bell, (palmi_label){PALMI_BELL_MAGIC, node->id, s.st_ino}, &door->file);
    if (door->bell && spins)
        palmi_spin_open(&door->spin);
    return PALM_OK;
}

void palmi_door_close(palm_node *node)
{
    palmi_door *door = &node->door;
    int files[] = {door->read_end, door->write_end, door->file};
    for (int i = 0; i < 3; i++)
        if (files[i] >= 0)
            close(files[i]);
    palmi_spin_close(&door->spin);
    if (door->bell)
        munmap(door->bell, sizeof *door->bell);
}

void palmi_door_ring(const palm_node *node)
{
    ssize_t written = write(node->door.write_end, "", 1); /* full means that it rings already */
    (void)written;
}

bool palmi_door_answer(const palm_node *node)
{
    char rings[256];
    bool signal = false;
    ssize_t got = read(node->door.read_end, rings, sizeof rings);
    for (ssize_t i = 0; i < got; i++)
        signal |= rings[i] != 0;
    return signal;
}

static bool has_early(const palmi_local *local)
{
    return local->early_first < local->early.n;
}

/* -------------------------------------------------------------------------------------------------- the hand-shake */

/* Only who receives by a socket of this host can be one of it. */
static bool may_offer(const palm_node *node, const palmi_link *link)
{
    bool may_be_here = !palmi_is_tcp(link->endpoint) || palmi_same_address(link->endpoint, node->endpoint);
    return node->door.bell && !link->local.out.ring && !link->local.refused && may_be_here;
}

static void offer(palmi_link *link)
{
    uint64_t id;
    if (getrandom(&id, sizeof id, 0) != sizeof id)
        return;
    link->local.out.ring = make(sizeof *link->local.out.ring, (palmi_label){PALMI_RING_MAGIC, id, 0}, &link->local.file);
}

void palmi_local_hello(palm_node *node, palmi_link *link, palm_hello *hello)
{
    const palmi_local *local = &link->local;
    if (!node->door.bell)
        return;
    if (may_offer(node, link))
        offer(link);
    hello->bell = node->door.file;
    hello->wake = node->door.read_end;
    if (local->out.ring && local->file >= 0) {
        hello->ring = local->file;
        hello->ring_id = local->out.ring->label.id;
    }
}

static void open_bell(palmi_link *link, const palm_hello *hello)
{
    palmi_out *out = &link->local.out;
    int32_t pid = hello->identity.pid;
    if (out->bell)
        return;
    out->bell = open_and_map(pid, hello->bell, sizeof *out->bell, PALMI_BELL_MAGIC, link->peer);
    if (!out->bell)
        return;
    out->wake = open_pipe(pid, hello->wake, out->bell->label.detail);
    if (out->wake < 0) {
        munmap(out->bell, sizeof *out->bell);
        out->bell = NULL;
    }
}

static uint32_t free_number(const palmi_door *door)
{
    uint32_t n = 0;
    while (n < PALMI_RINGS && door->readers[n])
        n++;
    return n;
}

static void open_ring(palm_node *node, palmi_link *link, const palm_hello *hello)
{
    palmi_local *local = &link->local;
    uint32_t number = free_number(&node->door);
    uint64_t nobody = 0;
    if (local->in.ring || !hello->ring || number == PALMI_RINGS)
        return;
    palmi_ring *ring = open_and_map(hello->identity.pid, hello->ring, sizeof *ring, PALMI_RING_MAGIC, hello->ring_id);
    if (!ring)
        return;
    if (!atomic_compare_exchange_strong(&ring->reader, &nobody, number + 1)) {
        munmap(ring, sizeof *ring);
        return;
    }
    local->in = (palmi_in){.ring = ring};
    local->number = number;
    local->seq = local->waits_since_ms = 0;
    node->door.readers[number] = link;
}

static void drop_out(palmi_local *local)
{
    if (local->out.ring)
        munmap(local->out.ring, sizeof *local->out.ring);
    if (local->out.bell) {
        munmap(local->out.bell, sizeof *local->out.bell);
        close(local->out.wake);
    }
    if (local->file >= 0)
        close(local->file);
    local->out = (palmi_out){0};
    local->file = -1;
    local->usable = false;
}

/* The peer's answer to our HELLO has come, so it has mapped our ring by now, or never will. */
static void settle_offer(palmi_local *local)
{
    if (local->usable || !local->out.ring)
        return;
    uint64_t reader = local->out.bell ? atomic_load(&local->out.ring->reader) : 0;
    if (!reader || reader > PALMI_RINGS) {
        drop_out(local);
        local->refused = true;
        return;
    }
    local->out.number = (uint32_t)reader - 1;
    local->usable = true;
    close(local->file);
    local->file = -1;
}

void palmi_local_greeted(palm_node *node, palmi_link *link, const palm_hello *hello)
{
    if (node->door.bell && palm_space_same_host(node->space, &hello->identity)) {
        open_bell(link, hello);
        open_ring(node, link, hello);
    }
    if (hello->slot != PALM_SLOT_UNKNOWN)
        settle_offer(&link->local);
}

void palmi_local_drop(palm_node *node, palmi_link *link)
{
    palmi_local *local = &link->local;
    drop_out(local);
    if (local->in.ring) {
        node->door.readers[local->number] = NULL;
        munmap(local->in.ring, sizeof *local->in.ring);
    }
    while (has_early(local)) {
        palm_event event = palmi_local_take_early(link);
        palm_event_done(&event);
    }
    free(local->early.at);
    local->early.at = NULL;
    local->early.room = 0;
    local->in = (palmi_in){0};
    local->refused = local->dying = false;
}

/* -------------------------------------------------------------------------------------------------------- sending */

bool palmi_local_send(palmi_link *link, uint64_t seq, const void *head, size_t n_head, const void *body, size_t n_body)
{
    palmi_out *out = &link->local.out;
    uint8_t *at = link->local.usable ? palmi_ring_begin(out, n_head + n_body) : NULL;
    if (!at)
        return false;
    memcpy(at, head, n_head);
    if (n_body)
        memcpy(at + n_head, body, n_body);
    palmi_ring_end(out, n_head + n_body, seq);
    palmi_ring_call(out);
    return true;
}

/* ------------------------------------------------------------------------------------------------------ receiving */

/* The number of the next marked ring from `from` on, or PALMI_RINGS. */
static uint32_t next_marked(const palmi_door *door, uint32_t from)
{
    for (uint32_t w = from / 64; w < PALMI_RING_WORDS; w++) {
        uint64_t bits = door->marked[w] & (w == from / 64 ? ~UINT64_C(0) << from % 64 : ~UINT64_C(0));
        if (bits)
            return w * 64 + (uint32_t)__builtin_ctzll(bits);
    }
    return PALMI_RINGS;
}

enum { PATIENCE_WITH_THE_DEAD_MS = 100 }; /* libzmq's thread has read what they have sent by then */

/* What comes before it by the socket is here, or will not come: then it has been rejected, and is reported as missing.
 * is_dry: there is nothing in the socket. */
static bool is_its_turn(palm_node *node, palmi_link *link, const palmi_letter *letter, bool is_dry)
{
    palmi_local *local = &link->local;
    uint64_t last = link->heard > local->seq ? link->heard : local->seq, now = palmi_now_ms();
    if (letter->seq <= last + 1 || has_early(local))
        return true;
    if (!local->waits_since_ms)
        local->waits_since_ms = now;
    uint64_t until = local->waits_since_ms + (local->dying ? PATIENCE_WITH_THE_DEAD_MS : node->patience_ms);
    if (is_dry && now >= until)
        return true;
    if (!node->door.waits_until_ms || until < node->door.waits_until_ms)
        node->door.waits_until_ms = until;
    return false;
}

static bool look_into(palm_node *node, uint32_t number, palmi_letter *letter, bool is_dry)
{
    palmi_link *link = node->door.readers[number];
    palm_err err = link ? palmi_ring_peek(&link->local.in, letter) : PALM_EAGAIN;
    const palmi_local *local = link ? &link->local : NULL;
    if (local && err != PALM_EMALFORMED && has_early(local) &&
        (err || letter->seq > local->early.at[local->early_first].envelope.seq)) {
        letter->bytes = NULL;
        return true;
    }
    if (!err)
        return is_its_turn(node, link, letter, is_dry);
    node->door.marked[number / 64] &= ~(UINT64_C(1) << number % 64);
    if (err == PALM_EMALFORMED)
        palm_count(&node->counters->rejected, 1);
    if (link && (err == PALM_EMALFORMED || link->local.dying))
        palmi_link_lose(node, link, 1);
    return false;
}

palmi_link *palmi_local_next(palm_node *node, palmi_letter *letter, bool is_dry)
{
    palmi_door *door = &node->door;
    door->waits_until_ms = 0;
    palmi_bell_collect(door->bell, door->marked);
    for (int lap = 0; lap < 2; lap++) {
        uint32_t number = next_marked(door, door->cursor);
        for (; number < PALMI_RINGS; number = next_marked(door, number + 1))
            if (look_into(node, number, letter, is_dry)) {
                door->cursor = (number + 1) % PALMI_RINGS;
                return door->readers[number];
            }
        door->cursor = 0;
    }
    return NULL;
}

void palmi_local_took(palmi_link *link, const palmi_letter *letter)
{
    palmi_ring_take(&link->local.in, letter);
    link->local.seq = letter->seq;
    link->local.waits_since_ms = 0;
}

static void mark(palm_node *node, const palmi_link *link)
{
    node->door.marked[link->local.number / 64] |= UINT64_C(1) << link->local.number % 64;
}

bool palmi_local_precedes(palm_node *node, palmi_link *link, uint64_t seq)
{
    palmi_letter letter;
    if (has_early(&link->local))
        return true;
    if (!link->local.in.ring || seq <= link->heard + 1 || palmi_ring_peek(&link->local.in, &letter) != PALM_OK ||
        letter.seq >= seq)
        return false;
    mark(node, link); /* whoever has it marked or not: it is waited for */
    return true;
}

bool palmi_local_keep_early(palmi_link *link, palm_event *event)
{
    palmi_local *local = &link->local;
    if (PALMI_GROW(local->early, 1))
        return false;
    local->early.at[local->early.n++] = *event;
    memset(event, 0, sizeof *event);
    return true;
}

palm_event palmi_local_take_early(palmi_link *link)
{
    palmi_local *local = &link->local;
    palm_event event = local->early.at[local->early_first++];
    if (!has_early(local))
        local->early_first = local->early.n = 0;
    return event;
}

bool palmi_local_dies(palm_node *node, palmi_link *link)
{
    palmi_letter letter;
    bool is_empty = !link->local.in.ring || palmi_ring_peek(&link->local.in, &letter) != PALM_OK;
    if (is_empty && !has_early(&link->local))
        return false;
    link->local.dying = true;
    mark(node, link); /* it may have died before it could */
    return true;
}
