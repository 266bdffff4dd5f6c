/* SPDX-License-Identifier: BSD-3-Clause */
#include "check.h"
#include <errno.h>
#include <string.h>

int main(void)
{
    for (int e = -10; e < PALM_ESYS + 200; e++)
        CHECK(palm_strerror((palm_err)e) && palm_strerror((palm_err)e)[0]);
    for (int e = 0; e < PALM_ERR_COUNT; e++) {
        CHECK(palm_errname((palm_err)e) && !strncmp(palm_errname((palm_err)e), "PALM_", 5));
        CHECK(strcmp(palm_strerror((palm_err)e), "unknown error"));
    }
    CHECK(palm_errname(PALM_ERR_COUNT) == NULL);
    CHECK(!strcmp(palm_strerror((palm_err)(PALM_ESYS + ENOENT)), strerror(ENOENT)));
    return 0;
}
