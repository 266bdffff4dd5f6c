/* SPDX-License-Identifier: BSD-3-Clause
 * Which inputs are open: bits in pages of 4096. Only pages with a bit set are there, so a page that is done costs nothing,
 * even above an old input that is not. */
#include "book_internal.h"

#include <stdlib.h>
#include <string.h>

static uint64_t base_of(uint64_t number)
{
    return number - number % PALMI_PAGE_BITS;
}

/* Where the first page with a base of at least `base` is, or would be. */
static uint32_t lower_bound(const palmi_pages *pages, uint64_t base)
{
    uint32_t low = 0, high = pages->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (pages->at[middle]->base < base)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

palmi_page *palmi_pages_find_slowly(const palmi_pages *pages, uint64_t number, uint32_t *at)
{
    uint32_t i = lower_bound(pages, base_of(number));
    if (i == pages->n || pages->at[i]->base != base_of(number))
        return NULL;
    *at = i;
    return pages->at[i];
}

bool palmi_pages_is_open(const palmi_pages *pages, uint64_t number, bool *tree)
{
    uint32_t at;
    const palmi_page *page = palmi_pages_find_slowly(pages, number, &at);
    uint32_t word = palmi_page_word(number);
    if (!page || !(page->bits[word] & palmi_page_bit(number)))
        return false;
    *tree = page->trees[word] & palmi_page_bit(number);
    return true;
}

/* ---------------------------------------------------------------------------------------------------- begin */

static palm_err make_room(palmi_pages *pages, uint64_t more)
{
    if (more > UINT32_MAX / 2 - pages->n)
        return PALM_ENOMEM;
    uint32_t wanted = pages->n + (uint32_t)more, room = pages->room ? pages->room : 4;
    if (wanted <= pages->room)
        return PALM_OK;
    while (room < wanted)
        room *= 2;
    palmi_page **bigger = realloc(pages->at, room * sizeof *bigger);
    if (!bigger)
        return PALM_ENOMEM;
    pages->at = bigger;
    pages->room = room;
    return PALM_OK;
}

static palmi_page *empty_page(palmi_pages *pages)
{
    palmi_page *page = pages->spare;
    if (!page)
        return calloc(1, sizeof *page);
    pages->spare = NULL;
    memset(page, 0, sizeof *page);
    return page;
}

/* Empty pages, behind those there are; they count only when pages->n is raised. */
static palm_err make_pages(palmi_pages *pages, uint64_t base, uint64_t more)
{
    palm_err err = make_room(pages, more);
    if (err)
        return err;
    for (uint64_t i = 0; i < more; i++) {
        palmi_page *page = empty_page(pages);
        if (!page) {
            while (i--)
                free(pages->at[pages->n + i]);
            return PALM_ENOMEM;
        }
        page->base = base + i * PALMI_PAGE_BITS;
        pages->at[pages->n + i] = page;
    }
    return PALM_OK;
}

/* Bits from..to-1 of a word. */
static uint64_t mask(uint64_t from, uint64_t to)
{
    uint64_t below = to < 64 ? ((uint64_t)1 << to) - 1 : UINT64_MAX;
    return below & ~(((uint64_t)1 << from) - 1);
}

static void open_bits(palmi_page *page, uint64_t from, uint64_t to)
{
    if (!page->open)
        page->low = (uint32_t)(from / 64);
    page->open += (uint32_t)(to - from);
    for (uint64_t at = from; at < to; at = at / 64 * 64 + 64) {
        uint64_t word = at / 64, end = to - word * 64;
        page->bits[word] |= mask(at % 64, end < 64 ? end : 64);
    }
}

palm_err palmi_pages_begin(palmi_pages *pages, uint64_t first, uint64_t n)
{
    if (first != pages->next || n > UINT64_MAX - first)
        return PALM_EINVAL;
    if (!n)
        return PALM_OK;
    uint64_t last = first + n - 1, base = base_of(first);
    bool there = pages->n && pages->at[pages->n - 1]->base == base;
    uint64_t from_base = there ? base + PALMI_PAGE_BITS : base; /* wraps behind the last page of all, as does `more` */
    uint64_t more = (base_of(last) - from_base) / PALMI_PAGE_BITS + 1;
    if (there && base_of(last) == base)
        more = 0;
    palm_err err = make_pages(pages, from_base, more);
    if (err)
        return err;
    uint32_t at = pages->n - there;
    pages->n += (uint32_t)more;
    for (; at < pages->n; at++) {
        palmi_page *page = pages->at[at];
        uint64_t from = page->base < first ? first - page->base : 0;
        uint64_t to = last - page->base < PALMI_PAGE_BITS ? last - page->base + 1 : PALMI_PAGE_BITS;
        open_bits(page, from, to);
    }
    pages->next = last + 1;
    pages->open += n;
    return PALM_OK;
}

palm_err palmi_pages_skip(palmi_pages *pages, uint64_t next)
{
    if (next < pages->next)
        return PALM_EINVAL;
    pages->next = next;
    return PALM_OK;
}

/* ------------------------------------------------------------------------------------------------------ end */

static void remove_hot(palmi_pages *pages)
{
    free(pages->spare);
    pages->spare = pages->at[pages->hot];
    pages->n--;
    memmove(pages->at + pages->hot, pages->at + pages->hot + 1, (pages->n - pages->hot) * sizeof *pages->at);
}

static void close_bits(palmi_pages *pages, palmi_page *page, uint32_t n)
{
    pages->open -= n;
    page->open -= n;
    if (!page->open) {
        remove_hot(pages);
        return;
    }
    while (!page->bits[page->low])
        page->low++;
}

void palmi_pages_close(palmi_pages *pages, palmi_page *page, uint64_t number)
{
    page->bits[palmi_page_word(number)] &= ~palmi_page_bit(number);
    close_bits(pages, page, 1);
}

/* Of n from `first` on, those in its page. */
static uint64_t in_page(uint64_t first, uint64_t n)
{
    uint64_t left = PALMI_PAGE_BITS - first % PALMI_PAGE_BITS;
    return n < left ? n : left;
}

static bool are_open_here(const palmi_pages *pages, uint64_t first, uint64_t n)
{
    uint32_t at = 0;
    const palmi_page *page = palmi_pages_find_slowly(pages, first, &at);
    if (!page)
        return false;
    uint64_t from = first % PALMI_PAGE_BITS, to = from + n;
    for (uint64_t i = from; i < to; i = i / 64 * 64 + 64) {
        uint64_t word = i / 64, wanted = mask(i % 64, to - word * 64);
        if ((page->bits[word] & ~page->trees[word] & wanted) != wanted)
            return false;
    }
    return true;
}

bool palmi_pages_are_open(const palmi_pages *pages, uint64_t first, uint64_t n)
{
    for (uint64_t here; n; first += here, n -= here) {
        here = in_page(first, n);
        if (!are_open_here(pages, first, here))
            return false;
    }
    return true;
}

static void close_here(palmi_pages *pages, uint64_t first, uint64_t n)
{
    palmi_page *page = palmi_pages_find(pages, first);
    uint64_t from = first % PALMI_PAGE_BITS, to = from + n;
    for (uint64_t i = from; i < to; i = i / 64 * 64 + 64)
        page->bits[i / 64] &= ~mask(i % 64, to - i / 64 * 64);
    close_bits(pages, page, (uint32_t)n);
}

void palmi_pages_close_all(palmi_pages *pages, uint64_t first, uint64_t n)
{
    for (uint64_t here; n; first += here, n -= here) {
        here = in_page(first, n);
        close_here(pages, first, here);
    }
}

bool palmi_pages_next(const palmi_pages *pages, uint64_t from, uint64_t *number)
{
    for (uint32_t i = lower_bound(pages, base_of(from)); i < pages->n; i++) {
        const palmi_page *page = pages->at[i];
        uint64_t start = page->base < from ? from - page->base : 0;
        uint32_t word = (uint32_t)(start / 64);
        uint64_t bits = page->bits[word] & ~(palmi_page_bit(start) - 1);
        if (word < page->low) {
            word = page->low;
            bits = page->bits[word];
        }
        while (!bits && ++word < PALMI_PAGE_WORDS)
            bits = page->bits[word];
        if (bits) {
            *number = page->base + word * 64 + (uint64_t)__builtin_ctzll(bits);
            return true;
        }
    }
    return false;
}

palm_err palmi_pages_copy(const palmi_pages *pages, palmi_pages *out)
{
    *out = (palmi_pages){0};
    palm_err err = make_pages(out, 0, pages->n);
    if (err)
        return err;
    for (uint32_t i = 0; i < pages->n; i++)
        *out->at[i] = *pages->at[i];
    out->n = pages->n;
    out->hot = pages->hot;
    out->next = pages->next;
    out->open = pages->open;
    return PALM_OK;
}

void palmi_pages_free(palmi_pages *pages)
{
    for (uint32_t i = 0; i < pages->n; i++)
        free(pages->at[i]);
    free(pages->at);
    free(pages->spare);
}
