/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_envelope.h: the header of a message or of a batch of messages (envelope.cc).
 */
#ifndef PALM_ENVELOPE_H
#define PALM_ENVELOPE_H

#include "palm_limits.h"
#include "palm_space.h"

#include <stddef.h>
#include <stdint.h>

PALM_BEGIN_DECLS

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
    PALM_TREE,            /* msgpack, with arrays out of band: the body, or if there is none the last array */
    PALM_DROP,            /* this message ended without a result; `count`: a palm_drop */
    PALM_CLOSE,           /* this message became `count` children */
    PALM_ERROR,           /* this message failed; as PALM_TREE */
    PALM_ASK,             /* this message's generator would send more children than the `count` it was granted */
    PALM_LOST,            /* a link was lost over which messages of the job had been sent, in its epoch `count` */
    PALM_ASIDE,           /* this message is in a branch that holds up nobody: it holds no slot, and is not waited for */
    PALM_REDUCED          /* what a Reduce has of the job, in its epoch `count`; as PALM_TREE */
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
                                     * of a PALM_ASK, and in a PALM_RELEASE; of a PALM_DROP: why; of a payload in a PALM_DATA:
                                     * messages, if it is a run of such */
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

enum { PALM_ARRAY_SCALAR = 1u << 31 }; /* in the flags of an array, never sent: it stands for its only element */

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

PALM_END_DECLS
#endif
