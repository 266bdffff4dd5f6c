/* SPDX-License-Identifier: BSD-3-Clause
 * Complete children of one node, as sorted ranges: as many as there are gaps, whatever the indices. */
#include "book_internal.h"

#include <stdlib.h>
#include <string.h>

void palmi_ranges_init(palmi_ranges *ranges)
{
    ranges->at = ranges->few;
    ranges->n = 0;
    ranges->room = PALMI_FEW;
}

void palmi_ranges_free(palmi_ranges *ranges)
{
    if (ranges->at != ranges->few)
        free(ranges->at);
}

palm_err palmi_ranges_reserve(palmi_ranges *ranges, uint64_t wanted)
{
    if (wanted <= ranges->room)
        return PALM_OK;
    if (wanted > UINT32_MAX / 2)
        return PALM_ENOMEM;
    uint32_t room = ranges->room;
    while (room < wanted)
        room *= 2;
    bool few = ranges->at == ranges->few;
    palmi_range *bigger = realloc(few ? NULL : ranges->at, room * sizeof *bigger);
    if (!bigger)
        return PALM_ENOMEM;
    if (few)
        memcpy(bigger, ranges->few, ranges->n * sizeof *bigger);
    ranges->at = bigger;
    ranges->room = room;
    return PALM_OK;
}

void palmi_ranges_trim(palmi_ranges *ranges, uint64_t wanted)
{
    if (ranges->at == ranges->few || wanted >= ranges->room / 4)
        return;
    if (wanted <= PALMI_FEW) {
        palmi_range *at = ranges->at;
        memcpy(ranges->few, at, ranges->n * sizeof *at);
        free(at);
        ranges->at = ranges->few;
        ranges->room = PALMI_FEW;
        return;
    }
    palmi_range *smaller = realloc(ranges->at, ranges->room / 2 * sizeof *smaller);
    if (!smaller)
        return;
    ranges->at = smaller;
    ranges->room /= 2;
}

/* The first range that ends at `index` or later. */
static uint32_t lower_bound(const palmi_ranges *ranges, uint64_t index)
{
    uint32_t low = 0, high = ranges->n;
    if (high && ranges->at[high - 1].to <= index) /* in order: the common case */
        return ranges->at[high - 1].to == index ? high - 1 : high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ranges->at[middle].to < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t palmi_ranges_kinds(const palmi_ranges *ranges, uint64_t index)
{
    uint32_t i = lower_bound(ranges, index + 1);
    return i < ranges->n && ranges->at[i].from <= index ? ranges->at[i].kinds : 0;
}

bool palmi_ranges_reach(const palmi_ranges *ranges, uint64_t index)
{
    return !index || (ranges->n && !ranges->at[0].from && ranges->at[0].to >= index);
}

static void move(palmi_ranges *ranges, uint32_t from, uint32_t to)
{
    memmove(ranges->at + to, ranges->at + from, (ranges->n - from) * sizeof *ranges->at);
    ranges->n = ranges->n - from + to;
}

void palmi_ranges_add(palmi_ranges *ranges, uint64_t index, uint32_t kind)
{
    uint32_t i = lower_bound(ranges, index);
    palmi_range *at = ranges->at + i;
    uint32_t after = i < ranges->n && at->to == index ? i + 1 : i;
    bool left = after > i, right = after < ranges->n && ranges->at[after].from == index + 1;
    if (left && right) {
        at->kinds |= at[1].kinds | kind;
        at->to = at[1].to;
        move(ranges, i + 2, i + 1);
    } else if (left) {
        at->kinds |= kind;
        at->to = index + 1;
    } else if (right) {
        at->kinds |= kind;
        at->from = index;
    } else {
        move(ranges, i, i + 1);
        *at = (palmi_range){.from = index, .kinds = kind, .to = index + 1};
    }
}
