/* SPDX-License-Identifier: BSD-3-Clause */
#include "vector.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST = 16 };

/* vector_at: of a pointer to whatever the items are, so it is copied, not read as one to void. */
palm_err palmi_vector_grow(void *vector_at, uint32_t n, uint32_t *room, uint32_t more, size_t item)
{
    if (more <= *room - n)
        return PALM_OK;
    uint32_t wanted = *room ? *room : FIRST;
    while (wanted - n < more) {
        if (wanted > UINT32_MAX / 2)
            return PALM_ELIMIT;
        wanted *= 2;
    }
    void *at;
    memcpy(&at, vector_at, sizeof at);
    at = realloc(at, wanted * item);
    if (!at)
        return PALM_ENOMEM;
    memcpy(vector_at, &at, sizeof at);
    *room = wanted;
    return PALM_OK;
}
