/* SPDX-License-Identifier: BSD-3-Clause
 *
 * palm_decls.h: around what the other headers declare: C's names, seen from outside the library.
 */
#ifndef PALM_DECLS_H
#define PALM_DECLS_H

#ifdef __cplusplus
#define PALM_BEGIN_DECLS _Pragma("GCC visibility push(default)") extern "C" {
#define PALM_END_DECLS } _Pragma("GCC visibility pop")
#else
#define PALM_BEGIN_DECLS _Pragma("GCC visibility push(default)")
#define PALM_END_DECLS _Pragma("GCC visibility pop")
#endif

#endif
