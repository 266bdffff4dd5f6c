/* SPDX-License-Identifier: BSD-3-Clause
 * The events of a book, and what can be asked of it. */
#include "book_internal.h"

#include <stdlib.h>

enum { DEPTH_SHIFT = 16 };

palm_err palm_book_new(palm_book **out)
{
    palm_book *book = calloc(1, sizeof *book);
    if (!book)
        return PALM_ENOMEM;
    *out = book;
    return PALM_OK;
}

void palm_book_free(palm_book *book)
{
    if (!book)
        return;
    palmi_tree_free(&book->tree);
    palmi_pages_free(&book->pages);
    free(book);
}

palm_err palm_book_copy(const palm_book *book, palm_book **out)
{
    palm_book *copy;
    palm_err err = palm_book_new(&copy);
    if (err)
        return err;
    err = palmi_pages_copy(&book->pages, &copy->pages);
    if (!err)
        err = palmi_tree_copy(&book->tree, &copy->tree);
    if (err) {
        palm_book_free(copy);
        return err;
    }
    *out = copy;
    return PALM_OK;
}

/* ------------------------------------------------------------------------------------------------- inputs */

palm_err palm_book_begin(palm_book *book, uint64_t first, uint64_t n)
{
    return palmi_pages_begin(&book->pages, first, n);
}

palm_err palm_book_skip(palm_book *book, uint64_t next)
{
    return palmi_pages_skip(&book->pages, next);
}

static bool has_tree(const palmi_page *page, uint64_t number)
{
    return page->trees[palmi_page_word(number)] & palmi_page_bit(number);
}

void palm_book_forget(palm_book *book, uint64_t number)
{
    palmi_page *page = palmi_pages_find(&book->pages, number);
    if (!page)
        return;
    if (has_tree(page, number))
        palmi_tree_drop(&book->tree, palmi_tree_lookup(&book->tree, NULL, number));
    palmi_pages_close(&book->pages, page, number);
}

/* ------------------------------------------------------------------------------------------------- events */

/* An open node, whose name has `depth` components, is complete, and perhaps some above it are. */
static uint32_t complete(palm_book *book, palmi_page *page, palmi_node *node, uint32_t depth, uint32_t kind)
{
    for (;;) {
        palmi_node *parent = node->parent;
        uint64_t key = node->key;
        palmi_tree_drop(&book->tree, node);
        if (!parent) {
            palmi_pages_close(&book->pages, page, key);
            return PALM_BOOK_COMPLETED | PALM_BOOK_INPUT_DONE;
        }
        palmi_tree_add(&book->tree, parent, key, kind);
        if (!palmi_tree_is_complete(parent))
            return PALM_BOOK_COMPLETED | depth << DEPTH_SHIFT;
        node = parent;
        kind = PALMI_NODE;
        depth--;
    }
}

static palm_err extend(palm_book *book, palmi_page *page, palmi_place *place, uint64_t number, const uint64_t *path,
                       uint32_t depth)
{
    palm_err err = palmi_tree_extend(&book->tree, place, number, path, depth);
    if (!err)
        page->trees[palmi_page_word(number)] |= palmi_page_bit(number);
    return err;
}

/* A name of which nothing is known yet is a leaf. */
static palm_err add_leaf(palm_book *book, palmi_page *page, palmi_place *place, uint64_t number, const uint64_t *path,
                         uint32_t n_path, uint32_t kind, uint32_t *verdict)
{
    palm_err err = extend(book, page, place, number, path, n_path);
    if (err)
        return err;
    palmi_tree_add(&book->tree, place->node, path[n_path - 1], kind);
    *verdict = PALM_BOOK_NEW;
    if (palmi_tree_is_complete(place->node))
        *verdict |= complete(book, page, place->node, n_path - 1, PALMI_NODE);
    else
        *verdict |= PALM_BOOK_COMPLETED | n_path << DEPTH_SHIFT;
    return PALM_OK;
}

/* What ends once more, or ends below a name that is complete. */
static bool contradicts_complete(const palmi_place *place, uint32_t n_path, uint32_t kind)
{
    if (place->depth < n_path)
        return place->kinds == PALMI_LEAF;
    return place->kinds == PALMI_NODE && kind == PALMI_LEAF;
}

static palm_err settle_in_tree(palm_book *book, palmi_page *page, uint64_t number, const uint64_t *path, uint32_t n_path,
                               uint32_t kind, uint32_t *verdict)
{
    palmi_place place = palmi_tree_find(&book->tree, number, path, n_path);
    switch (place.state) {
    case PALMI_ABSENT:
        return add_leaf(book, page, &place, number, path, n_path, kind, verdict);
    case PALMI_OPEN:
        *verdict = kind == PALMI_EITHER ? PALM_BOOK_NEW | complete(book, page, place.node, n_path, kind)
                                        : PALM_BOOK_CONTRADICTION;
        return PALM_OK;
    case PALMI_COMPLETE:
        *verdict = contradicts_complete(&place, n_path, kind) ? PALM_BOOK_CONTRADICTION : 0;
        return PALM_OK;
    default:
        *verdict = PALM_BOOK_CONTRADICTION;
        return PALM_OK;
    }
}

static inline palm_err settle(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t kind,
                              uint32_t *verdict)
{
    if (n_path > PALM_MAX_PATH)
        return PALM_ELIMIT;
    palmi_page *page = palmi_pages_find(&book->pages, number);
    if (!page) {
        *verdict = 0;
        return PALM_OK;
    }
    if (n_path || has_tree(page, number))
        return settle_in_tree(book, page, number, path, n_path, kind, verdict);
    palmi_pages_close(&book->pages, page, number);
    *verdict = PALM_BOOK_NEW | PALM_BOOK_COMPLETED | PALM_BOOK_INPUT_DONE;
    return PALM_OK;
}

palm_err palm_book_settle(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict)
{
    return settle(book, number, path, n_path, PALMI_LEAF, verdict);
}

bool palm_book_are_open(const palm_book *book, uint64_t first, uint64_t n)
{
    return palmi_pages_are_open(&book->pages, first, n);
}

void palm_book_settle_all(palm_book *book, uint64_t first, uint64_t n)
{
    palmi_pages_close_all(&book->pages, first, n);
}

palm_err palm_book_prune(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint32_t *verdict)
{
    return settle(book, number, path, n_path, PALMI_EITHER, verdict);
}

/* Finds the open node of this name, or makes it. *node is NULL if there can be none; then *verdict says why. */
static palm_err node_of(palm_book *book, palmi_page *page, uint64_t number, const uint64_t *path, uint32_t n_path,
                        palmi_node **node, bool *made, uint32_t *verdict)
{
    palmi_place place = palmi_tree_find(&book->tree, number, path, n_path);
    *node = NULL;
    *made = place.state == PALMI_ABSENT;
    if (place.state == PALMI_CONTRADICTS || place.kinds == PALMI_LEAF) {
        *verdict = PALM_BOOK_CONTRADICTION;
        return PALM_OK;
    }
    *verdict = 0;
    if (place.state == PALMI_COMPLETE)
        return PALM_OK;
    if (*made) {
        palm_err err = extend(book, page, &place, number, path, n_path + 1);
        if (err)
            return err;
    }
    *node = place.node;
    return PALM_OK;
}

static uint32_t close_node(palm_book *book, palmi_page *page, palmi_node *node, uint32_t n_path, uint64_t children)
{
    if (node->end == children)
        return 0;
    if (node->end != PALMI_NO_END || node->top > children)
        return PALM_BOOK_CONTRADICTION;
    palmi_tree_close(&book->tree, node, children);
    if (!palmi_tree_is_complete(node))
        return PALM_BOOK_NEW;
    return PALM_BOOK_NEW | complete(book, page, node, n_path, PALMI_NODE);
}

static uint32_t grant_node(palm_book *book, palmi_node *node, bool made, uint64_t upto)
{
    if (node->end != PALMI_NO_END || (upto <= palmi_tree_sent(node) && !made))
        return 0;
    palmi_tree_grant(&book->tree, node, upto);
    return PALM_BOOK_NEW;
}

static bool within_limits(uint32_t n_path, uint64_t children)
{
    return n_path <= PALM_MAX_PATH && children <= (uint64_t)1 << PALMI_INDEX_BITS;
}

palm_err palm_book_close(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t children,
                         uint32_t *verdict)
{
    palmi_node *node;
    bool made;
    if (!within_limits(n_path, children))
        return PALM_ELIMIT;
    palmi_page *page = palmi_pages_find(&book->pages, number);
    if (!page) {
        *verdict = 0;
        return PALM_OK;
    }
    palm_err err = node_of(book, page, number, path, n_path, &node, &made, verdict);
    if (!err && node)
        *verdict = close_node(book, page, node, n_path, children);
    return err;
}

palm_err palm_book_grant(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t upto,
                         uint32_t *verdict)
{
    palmi_node *node;
    bool made;
    if (!within_limits(n_path, upto))
        return PALM_ELIMIT;
    palmi_page *page = palmi_pages_find(&book->pages, number);
    if (!page) {
        *verdict = 0;
        return PALM_OK;
    }
    palm_err err = node_of(book, page, number, path, n_path, &node, &made, verdict);
    if (!err && node)
        *verdict = grant_node(book, node, made, upto);
    return err;
}

/* ------------------------------------------------------------------------------------------------- questions */

uint64_t palm_book_open_inputs(const palm_book *book)
{
    return book->pages.open;
}

uint64_t palm_book_live(const palm_book *book)
{
    return book->pages.open + book->tree.live;
}

bool palm_book_is_open(const palm_book *book, uint64_t number)
{
    bool tree;
    return palmi_pages_is_open(&book->pages, number, &tree);
}


bool palm_book_next(const palm_book *book, uint64_t from, uint64_t *number)
{
    return palmi_pages_next(&book->pages, from, number);
}

static bool is_next_in(const palmi_tree *tree, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    const palmi_node *node = palmi_tree_lookup(tree, NULL, number);
    for (uint32_t i = 0; i < n_path; i++) {
        uint64_t index = palmi_index(path[i]);
        if (!node || !palmi_ranges_reach(&node->ranges, index))
            return false;
        if (palmi_ranges_kinds(&node->ranges, index))
            return true;
        node = palmi_tree_lookup(tree, node, path[i]);
    }
    return true;
}

bool palm_book_is_next(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    uint64_t first;
    if (!palmi_pages_next(&book->pages, 0, &first) || number < first)
        return true;
    return number == first && is_next_in(&book->tree, number, path, n_path);
}

/* The open node of this name, or NULL. */
static const palmi_node *look(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                              palm_book_state *state)
{
    bool tree;
    if (!palmi_pages_is_open(&book->pages, number, &tree)) {
        *state = number < book->pages.next ? PALM_BOOK_OVER : PALM_BOOK_UNKNOWN;
        return NULL;
    }
    palmi_place place = palmi_tree_find(&book->tree, number, path, n_path);
    *state = place.state == PALMI_OPEN       ? PALM_BOOK_OPEN
             : place.state == PALMI_COMPLETE ? PALM_BOOK_OVER
                                             : PALM_BOOK_UNKNOWN;
    return place.state == PALMI_OPEN ? place.node : NULL;
}

uint64_t palm_book_unsettled(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    palm_book_state state;
    const palmi_node *node = look(book, number, path, n_path, &state);
    return node ? palmi_tree_unsettled(node) : state == PALM_BOOK_OVER ? 0 : 1;
}

palm_book_state palm_book_ranges(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                                 palm_range *ranges, uint32_t room, uint32_t *n)
{
    palm_book_state state;
    const palmi_node *node = look(book, number, path, n_path, &state);
    *n = node ? node->ranges.n : 0;
    for (uint32_t i = 0; i < *n && i < room; i++)
        ranges[i] = (palm_range){node->ranges.at[i].from, node->ranges.at[i].to};
    return state;
}

uint64_t palm_book_granted(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    palm_book_state state;
    const palmi_node *node = look(book, number, path, n_path, &state);
    return node ? palmi_tree_sent(node) : 0;
}
