/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_batch.h: what one envelope will carry (batch.c, batch_run.c, batch_copy.c, spare.c).
 */
#ifndef PALM_BATCH_H
#define PALM_BATCH_H

#include "palm_envelope.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

PALM_BEGIN_DECLS

/* What one envelope will carry, put together piece by piece; may be used again after palm_node_send took its content.
 * One thread at a time. */
typedef struct palm_batch palm_batch;
palm_err palm_batch_new(palm_batch **out);
void palm_batch_free(palm_batch *batch);
void palm_batch_clear(palm_batch *batch);
uint32_t palm_batch_count(const palm_batch *batch); /* messages: records, and those of a run one by one */
uint64_t palm_batch_bytes(const palm_batch *batch); /* of body and of blocks */
uint32_t palm_batch_lent(const palm_batch *batch);  /* blocks */
/* True if it should be sent before more is added: nothing is gained by waiting, or one more record of legal size might
 * exceed a limit of the envelope. A record of more than half of PALM_MAX_HEAD or PALM_MAX_ARRAYS is PALM_ELIMIT. */
bool palm_batch_full(const palm_batch *batch);
/* Begins a record; what is added next belongs to it. The pointer is valid until the next record is begun. */
palm_err palm_batch_record(palm_batch *batch, palm_form form, uint64_t number, palm_record **out);
/* Says what the record begun last is, after the fact: an error is a tree in all but this. count: see palm_record. */
void palm_batch_set_form(palm_batch *batch, palm_form form, uint32_t count);
/* And the number of its message, where that was not known yet. */
void palm_batch_set_number(palm_batch *batch, uint64_t number);
/* Makes the message one more of the record begun last, a run from then on (docs/wire.md, 5), if that ends with the message
 * before it, and has pieces of the same form and size. False: it has to be a record of its own. */
bool palm_batch_extend(palm_batch *batch, palm_form form, uint64_t number, uint64_t deadline, const void *bytes, size_t n);
/* The same for an array in C order: where its `size` bytes are to be copied to; NULL: it has to be a record of its own. */
uint8_t *palm_batch_extend_array(palm_batch *batch, uint64_t number, uint64_t deadline, const char *dtype, size_t dtype_size,
                                 uint8_t ndim, const int64_t *shape, const int64_t *strides, uint64_t size);
/* The record begun last, of form BYTES, TREE or ARRAY, is a run of n > 0 messages. */
palm_err palm_batch_run(palm_batch *batch, uint32_t n);
/* Adds message i of another batch: what it lends is lent once more. PALM_EFULL: the batch, left as it was, would lend more
 * than PALM_MAX_PARTS blocks, and has to be sent before. */
palm_err palm_batch_add(palm_batch *batch, const palm_batch *from, uint32_t i);
/* Gives up the record begun last and all that was added to it, the messages that it was extended by too. */
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

PALM_END_DECLS
#endif
