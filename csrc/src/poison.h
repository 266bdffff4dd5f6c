/* SPDX-License-Identifier: BSD-3-Clause
 * Memory that nobody may touch now, for ASan, which knows of malloc alone. */
#ifndef PALMI_POISON_H
#define PALMI_POISON_H

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define PALMI_POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define PALMI_UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define PALMI_POISON(p, n) ((void)(p), (void)(n))
#define PALMI_UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#endif
