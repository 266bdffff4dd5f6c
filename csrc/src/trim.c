/* SPDX-License-Identifier: BSD-3-Clause
 * What is kept to be used again, by us and by malloc, goes back to the kernel: somebody needs the memory. */
#include "palm_memory.h"
#include "spare.h"
#include "warm.h"

#include <malloc.h>
#include <stdlib.h>

#ifdef __GLIBC__
/* Each thread keeps the last pieces of each small size that it freed (glibc's tcache, 7 of each or 16): of a list, those that lie
 * last in the heap, which cannot shrink then. They are had again, and let go of while others are kept instead, which malloc
 * takes from where it finds room. */
static void keep_pieces_of_elsewhere(void)
{
    enum { STEP = 16, LEAST = 24, MOST = 1032, MORE_THAN_KEPT = 32 };
    void *pieces[2 * MORE_THAN_KEPT];
    for (size_t size = LEAST; size <= MOST; size += STEP) {
        for (int i = 0; i < 2 * MORE_THAN_KEPT; i++)
            pieces[i] = malloc(size);
        for (int i = 2 * MORE_THAN_KEPT - 1; i >= 0; i--)
            free(pieces[i]);
    }
}
#endif

void palm_memory_limit_trim(void)
{
    palmi_warm_clear();
    palmi_spare_clear();
#ifdef __GLIBC__
    keep_pieces_of_elsewhere();
    malloc_trim(0);
#endif
}
