/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NumPy's allocation hook (NEP 49): arrays of this thread are born in the space (DESIGN 5.2). */
#ifndef PALM_NEP49_H
#define PALM_NEP49_H

#include <Python.h>
#include "palm.h"

/* Below this, arrays stay on numpy's heap and travel inline: to copy them costs less than to take over and let go of a block
 * (docs/decisions/batching.md has the sweep). */
enum { PALM_NEP49_THRESHOLD = 8192 };

/* Makes the handlers; once per process, with the GIL. The space has to live as long as the process does. */
int palm_nep49_setup(palm_space *space);
/* Sets the hook in this thread's context and returns the handler that was there (new reference), NULL on error.
 * shared: arrays made now may be handed on without a copy though they are kept, on the user's word (palm.arena). */
PyObject *palm_nep49_install(int shared);
/* Sets a handler that palm_nep49_install returned. */
int palm_nep49_restore(PyObject *handler);
/* Whose memory an array's data is: 0 not ours, 1 ours, 2 ours and shared on the user's word. arr: ndarray. */
int palm_nep49_whose(PyObject *arr);

#endif
