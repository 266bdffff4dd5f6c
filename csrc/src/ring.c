/* SPDX-License-Identifier: BSD-3-Clause
 * A ring has one writer and one reader. No wake-up is lost, since of two stores and two loads in one total order (seq_cst,
 * all of them) one load sees the other's store, twice over:
 *   sender: head = h; marked?       receiver: marked = 0; head?         it marks again, or the other finds the envelope
 *   sender: marked |= 1; sleeping?  receiver: sleeping = n; marked?     it wakes the other, or that does not sleep
 * Each sender wakes for itself, once a sleep, so who stops in between harms nobody else's. What itself has put lies there until
 * it goes on, or its death wakes the receiver. */
#include "crashpoint.h"
#include "ring.h"

#include <string.h>
#include <unistd.h>

typedef struct record { /* before each envelope */
    uint32_t size;      /* SKIP: nothing more comes until the front */
    uint32_t unused;
    uint64_t seq;
} record;

#define SKIP UINT32_MAX
_Static_assert(sizeof(record) == 16 && PALMI_RING_BYTES % 16 == 0, "there is room for a record wherever one ends");
_Static_assert(PALMI_RING_MOST < PALMI_RING_FIRST / 2, "what does not fit at the end fits behind it, in an empty ring");

static uint64_t room_for(uint64_t size)
{
    return (sizeof(record) + size + 15) & ~UINT64_C(15);
}

/* ------------------------------------------------------------------------------------------------------- sending */

static void look_at_tail(palmi_out *out)
{
    /* acquire: the receiver's reads of what it has taken are over */
    uint64_t tail = atomic_load_explicit(&out->ring->tail, memory_order_acquire);
    if (out->head - tail <= out->head - out->tail) /* not behind what it was, nor ahead of us: else it is a lie */
        out->tail = tail;
}

static bool is_empty(palmi_out *out)
{
    look_at_tail(out);
    return out->tail == out->head;
}

static bool has_room(palmi_out *out, uint64_t bytes)
{
    if (PALMI_RING_BYTES - (out->head - out->tail) < bytes)
        look_at_tail(out);
    return PALMI_RING_BYTES - (out->head - out->tail) >= bytes;
}

static uint8_t *at(const palmi_out *out)
{
    return out->ring->bytes + out->head % PALMI_RING_BYTES;
}

static uint64_t used(const palmi_out *out)
{
    return (uint64_t)PALMI_RING_FIRST << out->doubled;
}

/* At the end of what is used of the ring: it goes on behind it, since there was no room once, or is none in front. */
static bool goes_on(palmi_out *out, uint64_t needed, uint64_t to_front)
{
    if (used(out) == PALMI_RING_BYTES || !has_room(out, needed) || (!out->was_full && has_room(out, to_front + needed)))
        return false;
    out->doubled++;
    out->was_full = false;
    return true;
}

uint8_t *palmi_ring_begin(palmi_out *out, uint64_t size)
{
    uint64_t needed = room_for(size), place = out->head % PALMI_RING_BYTES, left = PALMI_RING_BYTES - place;
    if (size > PALMI_RING_MOST)
        return NULL;
    bool is_far = place > PALMI_RING_FRONT && needed <= PALMI_RING_LITTLE;
    bool skip = place + needed > used(out) ? !goes_on(out, needed, left) : is_far && is_empty(out);
    if (!has_room(out, needed + (skip ? left : 0))) {
        out->was_full = true;
        return NULL;
    }
    if (skip) {
        memcpy(at(out), &(record){.size = SKIP}, sizeof(record));
        PALMI_CRASHPOINT();
        out->head += left;
    }
    return at(out) + sizeof(record);
}

void palmi_ring_end(palmi_out *out, uint64_t size, uint64_t seq)
{
    memcpy(at(out), &(record){(uint32_t)size, 0, seq}, sizeof(record));
    out->head += room_for(size);
    PALMI_CRASHPOINT();
    atomic_store(&out->ring->head, out->head);
}

void palmi_ring_call(palmi_out *out)
{
    _Atomic uint64_t *word = &out->bell->marked[out->number / 64];
    uint64_t bit = UINT64_C(1) << out->number % 64;
    PALMI_CRASHPOINT();
    if (!(atomic_load(word) & bit))
        atomic_fetch_or(word, bit);
    PALMI_CRASHPOINT();
    uint32_t sleeping = atomic_load(&out->bell->sleeping);
    if (!sleeping || sleeping == out->woken)
        return;
    PALMI_CRASHPOINT();
    out->woken = sleeping;
    ssize_t written = write(out->wake, "", 1); /* full means that it is awake */
    (void)written;
}

/* ------------------------------------------------------------------------------------------------------ receiving */

static palm_err look_at_head(palmi_in *in)
{
    uint64_t head = atomic_load(&in->ring->head);
    if (head - in->tail > PALMI_RING_BYTES || head % sizeof(record))
        return PALM_EMALFORMED;
    in->head = head;
    return head == in->tail ? PALM_EAGAIN : PALM_OK;
}

palm_err palmi_ring_peek(palmi_in *in, palmi_letter *out)
{
    record r;
    palm_err err = in->tail == in->head ? look_at_head(in) : PALM_OK;
    if (err)
        return err;
    uint64_t place = in->tail % PALMI_RING_BYTES, left = PALMI_RING_BYTES - place;
    memcpy(&r, in->ring->bytes + place, sizeof r);
    if (r.size == SKIP) {
        if (left >= in->head - in->tail) /* a record comes with it */
            return PALM_EMALFORMED;
        in->tail += left;
        place = 0;
        left = PALMI_RING_BYTES;
        memcpy(&r, in->ring->bytes, sizeof r);
    }
    if (r.size > PALMI_RING_MOST || room_for(r.size) > left || room_for(r.size) > in->head - in->tail)
        return PALM_EMALFORMED;
    *out = (palmi_letter){in->ring->bytes + place + sizeof r, r.size, r.seq};
    return PALM_OK;
}

void palmi_ring_take(palmi_in *in, const palmi_letter *letter)
{
    in->tail += room_for(letter->size);
    PALMI_CRASHPOINT();
    /* release: our reads of it are over */
    atomic_store_explicit(&in->ring->tail, in->tail, memory_order_release);
}

bool palmi_bell_sleep(palmi_bell *bell, uint32_t which)
{
    atomic_store(&bell->sleeping, which);
    PALMI_CRASHPOINT();
    for (int i = 0; i < PALMI_RING_WORDS; i++)
        if (atomic_load(&bell->marked[i])) {
            palmi_bell_rise(bell);
            return false;
        }
    return true;
}

void palmi_bell_rise(palmi_bell *bell)
{
    atomic_store_explicit(&bell->sleeping, 0, memory_order_relaxed); /* at worst, somebody writes to the pipe for nothing */
}

void palmi_bell_collect(palmi_bell *bell, uint64_t marked[PALMI_RING_WORDS])
{
    for (int i = 0; i < PALMI_RING_WORDS; i++)
        if (atomic_load_explicit(&bell->marked[i], memory_order_relaxed))
            marked[i] |= atomic_exchange(&bell->marked[i], 0);
    PALMI_CRASHPOINT();
}
