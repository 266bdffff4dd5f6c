/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The golden envelopes, as schema/make_golden.py has them. */
#ifndef PALM_TESTS_GOLDEN_ENVELOPES_H
#define PALM_TESTS_GOLDEN_ENVELOPES_H
#include "check.h"
#include <string.h>

#define VECTOR(field, array) .field = array, .n_##field = sizeof(array) / sizeof *(array)
#define TEXT(literal) {literal, sizeof(literal) - 1}
#define SENDER .sender = 0x1122334455667788
#define OF_ARENA .arena_hi = 0xA0A1A2A3A4A5A6A7, .arena_lo = 0xB0B1B2B3B4B5B6B7

static const palm_hello mapped = {
    .identity = {OF_ARENA, .boot_id = {0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC,
                                       0xCD, 0xCE, 0xCF},
                 .pid_namespace = 4026531836, .pid = 4242, .fd = 7},
    .endpoint = TEXT("ipc:///run/user/1000/palm/a.sock"), .name = TEXT("spectrum/0"),
    .slot = PALM_SLOT_UNKNOWN, .word = 3, .tag = 0x0A0B0C,
    .bell = 11, .wake = 12, .ring = 13, .ring_id = 0x1122334455667788};
static const palm_hello frames = {.endpoint = TEXT("tcp://127.0.0.1:5555"), .slot = PALM_SLOT_NONE, .tag = 1};

static const palm_record open_records[] = {{.form = PALM_TREE, .body_size = 40}};
static const palm_record bytes_records[] = {
    {.number = 17, .deadline = 1760000000000000000, .body_size = 64, .attempt = 1, .form = PALM_BYTES}};

static const palm_text u1[] = {TEXT("|u1")}, f8[] = {TEXT("<f8")};
static const uint64_t bytes_part_parts[] = {100000};
static const int64_t bytes_part_dims[] = {100000, 1};
static const palm_record bytes_part_records[] = {{.number = 18, .array_count = 1, .form = PALM_BYTES}};
static const palm_array bytes_part_arrays[] = {{.size = 100000, .ndim = 1, .place = PALM_IN_PART}};

static const int64_t array_body_dims[] = {3, 4, 32, 8};
static const palm_record array_body_records[] = {{.number = 19, .array_count = 1, .form = PALM_ARRAY}};
static const palm_array array_body_arrays[] = {{.size = 96, .ndim = 2}};

static const int64_t array_block_dims[] = {4, 3, -24, 8};
static const palm_record array_block_records[] = {{.number = 20, .array_count = 1, .form = PALM_ARRAY}};
static const palm_array array_block_arrays[] = {
    {.start = 128, .size = 96, .origin = 72, .ndim = 2, .place = PALM_IN_BLOCK}};
static const palm_block array_block_blocks[] = {
    {OF_ARENA, .generation = 5, .at = 8192, .size = 4096, .index = 2, .pid = 4242, .fd = 7}};

static const uint64_t tree_parts[] = {2000, 8};
static const palm_text tree_dtypes[] = {TEXT("<u2"), TEXT("<i8")};
static const int64_t tree_dims[] = {1000, 2};
static const palm_record tree_records[] = {{.number = 21, .body_size = 24, .array_count = 2, .form = PALM_TREE}};
static const palm_array tree_arrays[] = {{.size = 2000, .ndim = 1, .place = PALM_IN_PART},
                                         {.size = 8, .dtype = 1, .source = 1, .place = PALM_IN_PART}};

static const uint64_t batch_parts[] = {10};
static const uint64_t batch_paths[] = {5, (uint64_t)2 << 48 | 1, (uint64_t)1 << 48 | 0xFFFFFFFFFFFF};
static const palm_text batch_dtypes[] = {TEXT("<f4"), TEXT("|b1"), TEXT("[[\"x\", \"<f4\"], [\"y\", \"<i2\"]]")};
static const int64_t batch_dims[] = {10, 4, 0, 5, 20, 4, 2, 2, 0, 1, 7, -1};
static const palm_block batch_blocks[] = {
    {OF_ARENA, .generation = 1, .at = 4096, .size = 65536, .pid = 4242, .fd = 7},
    {OF_ARENA, .generation = ((uint64_t)1 << 62) - 1, .at = (uint64_t)1 << 40, .size = (uint64_t)1 << 33, .index = 77,
     .pid = 1, .fd = 1023}};
static const palm_array batch_arrays[] = {
    {.start = 64, .size = 40, .ndim = 1},
    {.start = 128, .ndim = 2, .dims_at = 2},
    {.start = 3, .size = 2, .dtype = 1, .ndim = 2, .dims_at = 6, .source = 1, .place = PALM_IN_BLOCK},
    {.start = 65529, .size = 7, .origin = 6, .ndim = 1, .dims_at = 10, .place = PALM_IN_BLOCK, .flags = 1},
    {.start = 4, .size = 6, .dtype = 2, .place = PALM_IN_PART}};
static const palm_record batch_records[] = {
    {.number = 1, .path_count = 1, .form = PALM_NOTHING},
    {.number = 2, .path_count = 2, .body_size = 10, .form = PALM_BYTES, .flags = 3},
    {.number = 3, .path_at = 1, .path_count = 1, .body_at = 64, .array_count = 1, .form = PALM_ARRAY},
    {.number = 4, .path_at = 1, .path_count = 2, .body_at = 200, .body_size = 100, .array_count = 5, .form = PALM_TREE},
    {.number = 5, .array_at = 1, .array_count = 1, .form = PALM_ARRAY},
    {.number = 6, .form = PALM_DROP, .attempt = 2},
    {.number = 7, .form = PALM_CLOSE, .count = 4000000000},
    {.number = UINT64_MAX, .body_at = 300, .body_size = 212, .form = PALM_ERROR, .attempt = 65535}};

static const palm_text runs_dtypes[] = {TEXT("<f8"), TEXT("<u2")};
static const int64_t runs_dims[] = {3, 2, 16, 8, 2, 2};
static const palm_record runs_records[] = {
    {.number = 30, .count = 3, .body_size = 12, .form = PALM_BYTES},
    {.number = 33, .count = 2, .body_at = 12, .body_size = 2, .form = PALM_TREE},
    {.number = 35, .count = 3, .array_count = 1, .form = PALM_ARRAY},
    {.number = 38, .count = 2, .array_at = 1, .array_count = 1, .form = PALM_ARRAY}};
static const palm_array runs_arrays[] = {{.size = 48, .ndim = 2},
                                         {.start = 64, .size = 4, .dtype = 1, .ndim = 1, .dims_at = 4}};

static const uint64_t one_path[] = {5};
static const palm_record release_records[] = {
    {.number = 8, .count = 64, .body_size = 32, .form = PALM_BYTES},
    {.number = 9, .path_count = 1, .form = PALM_BYTES, .flags = 1}};
static const palm_record events_records[] = {
    {.number = 8, .count = 64, .path_count = 1, .form = PALM_ASK}, {.count = 2, .form = PALM_LOST},
    {.number = 9, .path_count = 1, .form = PALM_ASIDE}, {.number = 10, .count = PALM_DROP_SLOW, .form = PALM_DROP},
    {.number = 11, .count = 3, .body_size = 32, .form = PALM_REDUCED}};

static const struct golden {
    const char *name;
    palm_envelope e;
} goldens[] = {
    {"hello", {.kind = PALM_HELLO, SENDER, .seq = 1, .hello = &mapped}},
    {"hello_frames", {.kind = PALM_HELLO, SENDER, .seq = 2, .hello = &frames}},
    {"open", {.kind = PALM_OPEN, .handle = 1, SENDER, .seq = 3, .body_size = 40, VECTOR(records, open_records)}},
    {"bytes", {.kind = PALM_DATA, .hop = 1, .handle = 1, SENDER, .seq = 4, .body_size = 64,
               VECTOR(records, bytes_records)}},
    {"bytes_part", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 5, VECTOR(parts, bytes_part_parts),
                    VECTOR(dtypes, u1), VECTOR(dims, bytes_part_dims), VECTOR(records, bytes_part_records),
                    VECTOR(arrays, bytes_part_arrays)}},
    {"array_body", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 6, .body_size = 96, VECTOR(dtypes, f8),
                    VECTOR(dims, array_body_dims), VECTOR(records, array_body_records),
                    VECTOR(arrays, array_body_arrays)}},
    {"array_block", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 7, VECTOR(dtypes, f8),
                     VECTOR(dims, array_block_dims), VECTOR(records, array_block_records),
                     VECTOR(arrays, array_block_arrays), VECTOR(blocks, array_block_blocks)}},
    {"tree", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 8, .body_size = 24, VECTOR(parts, tree_parts),
              VECTOR(dtypes, tree_dtypes), VECTOR(dims, tree_dims), VECTOR(records, tree_records),
              VECTOR(arrays, tree_arrays)}},
    {"batch", {.kind = PALM_DATA, .hop = 3, .handle = 2, SENDER, .seq = 0x100000001, .body_size = 512,
               VECTOR(parts, batch_parts), VECTOR(paths, batch_paths), VECTOR(dtypes, batch_dtypes),
               VECTOR(dims, batch_dims), VECTOR(blocks, batch_blocks), VECTOR(arrays, batch_arrays),
               VECTOR(records, batch_records)}},
    {"runs", {.kind = PALM_DATA, .handle = 1, SENDER, .seq = 14, .body_size = 96, VECTOR(dtypes, runs_dtypes),
              VECTOR(dims, runs_dims), VECTOR(records, runs_records), VECTOR(arrays, runs_arrays)}},
    {"forget", {.kind = PALM_FORGET, .handle = 1, SENDER, .seq = 10}},
    {"cancel", {.kind = PALM_CANCEL, .handle = 2, SENDER, .seq = 11}},
    {"events", {.kind = PALM_DATA, .handle = 3, SENDER, .seq = 9, .body_size = 32,
                VECTOR(paths, one_path), VECTOR(records, events_records)}},
    {"release", {.kind = PALM_RELEASE, .handle = 1, SENDER, .seq = 12, .body_size = 32, VECTOR(paths, one_path),
                 VECTOR(records, release_records)}},
    {"bye", {.kind = PALM_BYE, SENDER, .seq = 13}},
};
enum { N_GOLDENS = sizeof goldens / sizeof *goldens };

static inline const palm_envelope *golden(const char *name)
{
    for (int i = 0; i < N_GOLDENS; i++)
        if (!strcmp(goldens[i].name, name))
            return &goldens[i].e;
    abort();
}
#endif
