/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Arrays that grow, twice as large each time. */
#ifndef PALMI_VECTOR_H
#define PALMI_VECTOR_H

#include "palm_err.h"

#include <stddef.h>
#include <stdint.h>

#define PALMI_VECTOR(type) struct { type *at; uint32_t n, room; }

/* Room for `more` behind the n that there are; on failure the vector is as it was. */
#define PALMI_GROW(v, more) palmi_vector_grow(&(v).at, (v).n, &(v).room, (more), sizeof *(v).at)
palm_err palmi_vector_grow(void *vector_at, uint32_t n, uint32_t *room, uint32_t more, size_t item);

#endif
