/* SPDX-License-Identifier: BSD-3-Clause */
#include "palm_err.h"

#include <string.h>

static const struct {
    const char *name, *sentence;
} errors[PALM_ERR_COUNT] = {
    [PALM_OK] = {"PALM_OK", "success"},
    [PALM_ENOMEM] = {"PALM_ENOMEM", "no memory"},
    [PALM_EINVAL] = {"PALM_EINVAL", "invalid argument"},
    [PALM_EAGAIN] = {"PALM_EAGAIN", "nothing there yet"},
    [PALM_EINTR] = {"PALM_EINTR", "interrupted by a signal"},
    [PALM_ECLOSED] = {"PALM_ECLOSED", "closed"},
    [PALM_EFORK] = {"PALM_EFORK", "PALM cannot be used in a forked child: start a new process with spawn or exec"},
    [PALM_EMALFORMED] = {"PALM_EMALFORMED", "malformed envelope"},
    [PALM_EVERSION] = {"PALM_EVERSION", "envelope of an unknown version"},
    [PALM_ELIMIT] = {"PALM_ELIMIT", "a limit of the wire format is exceeded"},
    [PALM_ESTALE] = {"PALM_ESTALE", "the offered block has been recycled"},
    [PALM_EUNREACHABLE] = {"PALM_EUNREACHABLE", "the peer's memory cannot be mapped"},
    [PALM_EFULL] = {"PALM_EFULL", "the arena, or the batch, has no room"},
    [PALM_ENOSYM] = {"PALM_ENOSYM", "libzmq lacks an entry point"},
    [PALM_EKEY] = {"PALM_EKEY", "who has a key connects by TCP only to who has one, tcp://KEY@address:port, and who has none only to "
                                "who has none"},
};

const char *palm_errname(palm_err err)
{
    return (unsigned)err < PALM_ERR_COUNT ? errors[err].name : NULL;
}

const char *palm_strerror(palm_err err)
{
    if ((unsigned)err < PALM_ERR_COUNT)
        return errors[err].sentence;
    if ((int)err > PALM_ESYS)
        return strerror((int)err - PALM_ESYS);
    return "unknown error";
}
