/* SPDX-License-Identifier: BSD-3-Clause
 * Assertions for C tests: print what was wanted and what was found, then end the program. */
#ifndef PALM_TESTS_CHECK_H
#define PALM_TESTS_CHECK_H
#include "palm.h"
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                             \
    do {                                                                                             \
        if (!(condition)) {                                                                          \
            fprintf(stderr, "%s:%d: %s: wanted: %s\n", __FILE__, __LINE__, __func__, #condition);    \
            exit(1);                                                                                 \
        }                                                                                            \
    } while (0)
#define CHECK_ERR(call, wanted)                                                                      \
    do {                                                                                             \
        palm_err check_got = (call);                                                                 \
        if (check_got != (wanted)) {                                                                 \
            fprintf(stderr, "%s:%d: %s: %s: wanted %s, got %s (%d)\n", __FILE__, __LINE__, __func__, #call, #wanted, \
                    palm_strerror(check_got), (int)check_got);                                       \
            exit(1);                                                                                 \
        }                                                                                            \
    } while (0)
#define CHECK_OK(call) CHECK_ERR(call, PALM_OK)
#define SKIPPED 77 /* meson reports it as a skip */
#endif
