/* SPDX-License-Identifier: BSD-3-Clause
 * The open nodes of all inputs of a book, found by parent and key. */
#include "book_internal.h"

#include <stdlib.h>

static uint32_t hop_of(uint64_t component)
{
    return (uint32_t)(component >> PALMI_INDEX_BITS);
}

/* ------------------------------------------------------------------------------------------------- the table */

static uint64_t bucket_of(const palmi_tree *tree, const palmi_node *parent, uint64_t key)
{
    uint64_t x = (uint64_t)(uintptr_t)parent * 0x9e3779b97f4a7c15u ^ key;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return (x ^ x >> 32) & (tree->room - 1);
}

palmi_node *palmi_tree_lookup(const palmi_tree *tree, const palmi_node *parent, uint64_t key)
{
    if (!tree->n)
        return NULL;
    palmi_node *node = tree->buckets[bucket_of(tree, parent, key)];
    while (node && !(node->parent == parent && node->key == key))
        node = node->chained;
    return node;
}

static void chain(palmi_tree *tree, palmi_node *node)
{
    palmi_node **bucket = &tree->buckets[bucket_of(tree, node->parent, node->key)];
    node->chained = *bucket;
    *bucket = node;
}

static void unchain(palmi_tree *tree, palmi_node *node)
{
    palmi_node **at = &tree->buckets[bucket_of(tree, node->parent, node->key)];
    while (*at != node)
        at = &(*at)->chained;
    *at = node->chained;
}

static palm_err make_room(palmi_tree *tree, uint32_t more)
{
    if (tree->n + more <= tree->room)
        return PALM_OK;
    palmi_tree bigger = {.room = tree->room ? tree->room * 2 : 64};
    while (bigger.room < tree->n + more)
        bigger.room *= 2;
    bigger.buckets = calloc(bigger.room, sizeof *bigger.buckets);
    if (!bigger.buckets)
        return PALM_ENOMEM;
    for (uint64_t i = 0; i < tree->room; i++)
        for (palmi_node *node = tree->buckets[i], *next; node; node = next) {
            next = node->chained;
            chain(&bigger, node);
        }
    free(tree->buckets);
    tree->buckets = bigger.buckets;
    tree->room = bigger.room;
    return PALM_OK;
}

/* ------------------------------------------------------------------------------------------------- slots */

uint64_t palmi_tree_sent(const palmi_node *node)
{
    if (node->end != PALMI_NO_END)
        return node->end;
    return node->granted > node->top ? node->granted : node->top;
}

/* The slots that its children hold. */
static uint64_t share_of(const palmi_node *node)
{
    uint64_t share = palmi_tree_sent(node) - node->complete;
    return share < UINT32_MAX ? share : UINT32_MAX; /* so that no sum runs over, whatever index a peer made up */
}

/* To be called before and after a node changes. */
static void leave_share(palmi_tree *tree, const palmi_node *node)
{
    tree->live -= share_of(node);
}
static void enter_share(palmi_tree *tree, const palmi_node *node)
{
    tree->live += share_of(node);
}

void palmi_tree_close(palmi_tree *tree, palmi_node *node, uint64_t children)
{
    leave_share(tree, node);
    node->end = children;
    enter_share(tree, node);
}

void palmi_tree_grant(palmi_tree *tree, palmi_node *node, uint64_t upto)
{
    leave_share(tree, node);
    node->granted = upto;
    enter_share(tree, node);
}

/* There is a child of this name. */
static void know(palmi_node *node, uint64_t component)
{
    node->hop = hop_of(component);
    if (node->top <= palmi_index(component))
        node->top = palmi_index(component) + 1;
}

/* ------------------------------------------------------------------------------------------------- nodes */

static palmi_node *new_node(uint64_t key)
{
    palmi_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->key = key;
    node->end = PALMI_NO_END;
    node->hop = PALMI_NO_HOP;
    palmi_ranges_init(&node->ranges);
    return node;
}

static void link_node(palmi_tree *tree, palmi_node *parent, palmi_node *node)
{
    node->parent = parent;
    if (parent) {
        leave_share(tree, parent);
        know(parent, node->key);
        enter_share(tree, parent);
        parent->nodes++;
        node->after = parent->child;
        if (node->after)
            node->after->before = node;
        parent->child = node;
    }
    chain(tree, node);
    tree->n++;
    enter_share(tree, node);
}

static void unlink_node(palmi_tree *tree, palmi_node *node)
{
    leave_share(tree, node);
    tree->n--;
    unchain(tree, node);
    if (node->after)
        node->after->before = node->before;
    if (node->before)
        node->before->after = node->after;
    else if (node->parent)
        node->parent->child = node->after;
    if (node->parent)
        node->parent->nodes--;
}

void palmi_tree_drop(palmi_tree *tree, palmi_node *node)
{
    for (palmi_node *at = node, *next; at; at = next) {
        next = at->child;
        if (next)
            continue;
        next = at == node ? NULL : at->parent;
        unlink_node(tree, at);
        palmi_ranges_free(&at->ranges);
        free(at);
    }
}

bool palmi_tree_is_complete(const palmi_node *node)
{
    return node->complete == node->end;
}

uint64_t palmi_tree_unsettled(const palmi_node *node)
{
    uint64_t n = 0;
    for (const palmi_node *at = node; at;) {
        if (at->end == PALMI_NO_END)
            return UINT64_MAX;
        n += at->end - at->complete - at->nodes;
        if (at->child) {
            at = at->child;
            continue;
        }
        while (at != node && !at->after)
            at = at->parent;
        at = at == node ? NULL : at->after;
    }
    return n;
}

void palmi_tree_add(palmi_tree *tree, palmi_node *node, uint64_t component, uint32_t kind)
{
    leave_share(tree, node);
    know(node, component);
    palmi_ranges_add(&node->ranges, palmi_index(component), kind);
    node->complete++;
    enter_share(tree, node);
    palmi_ranges_trim(&node->ranges, (uint64_t)node->ranges.n + node->nodes);
}

/* ------------------------------------------------------------------------------------------------- names */

static bool contradicts(const palmi_node *node, uint64_t component)
{
    return (node->hop != PALMI_NO_HOP && node->hop != hop_of(component)) || palmi_index(component) >= node->end;
}

palmi_place palmi_tree_find(const palmi_tree *tree, uint64_t number, const uint64_t *path, uint32_t n_path)
{
    palmi_place place = {.node = palmi_tree_lookup(tree, NULL, number)};
    if (!place.node)
        return place;
    for (place.depth = 1; place.depth <= n_path; place.depth++) {
        uint64_t component = path[place.depth - 1];
        if (contradicts(place.node, component)) {
            place.state = PALMI_CONTRADICTS;
            return place;
        }
        uint32_t kinds = palmi_ranges_kinds(&place.node->ranges, palmi_index(component));
        if (kinds) {
            place.state = PALMI_COMPLETE;
            place.kinds = kinds;
            return place;
        }
        palmi_node *child = palmi_tree_lookup(tree, place.node, component);
        if (!child)
            return place;
        place.node = child;
    }
    place.state = PALMI_OPEN;
    return place;
}

/* A chain of nodes, not yet in the tree, for depths from..to-1 of the name; linked by `parent`. */
static palmi_node *new_chain(uint64_t number, const uint64_t *path, uint32_t from, uint32_t to)
{
    palmi_node *last = NULL;
    for (uint32_t depth = from; depth < to; depth++) {
        palmi_node *node = new_node(depth ? path[depth - 1] : number);
        if (!node) {
            while ((node = last)) {
                last = node->parent;
                free(node);
            }
            return NULL;
        }
        node->parent = last;
        last = node;
    }
    return last;
}

/* Links the chain, from its upper end. */
static void link_chain(palmi_tree *tree, palmi_node *parent, palmi_node *last)
{
    palmi_node *upper[PALM_MAX_PATH + 1];
    uint32_t n = 0;
    for (; last; last = last->parent)
        upper[n++] = last;
    while (n--) {
        link_node(tree, parent, upper[n]);
        parent = upper[n];
    }
}

palm_err palmi_tree_extend(palmi_tree *tree, palmi_place *place, uint64_t number, const uint64_t *path, uint32_t depth)
{
    palm_err err = PALM_OK;
    if (place->node)
        err = palmi_ranges_reserve(&place->node->ranges, (uint64_t)place->node->ranges.n + place->node->nodes + 1);
    if (err || place->depth >= depth)
        return err;
    err = make_room(tree, depth - place->depth);
    if (err)
        return err;
    palmi_node *last = new_chain(number, path, place->depth, depth);
    if (!last)
        return PALM_ENOMEM;
    link_chain(tree, place->node, last);
    place->node = last;
    place->depth = depth;
    return PALM_OK;
}

/* ------------------------------------------------------------------------------------------------- copies */

static palmi_node *copy_node(const palmi_node *node)
{
    palmi_node *copy = new_node(node->key);
    if (!copy)
        return NULL;
    if (palmi_ranges_reserve(&copy->ranges, (uint64_t)node->ranges.n + node->nodes)) {
        free(copy);
        return NULL;
    }
    for (uint32_t i = 0; i < node->ranges.n; i++)
        copy->ranges.at[i] = node->ranges.at[i];
    copy->ranges.n = node->ranges.n;
    copy->end = node->end;
    copy->granted = node->granted;
    copy->top = node->top;
    copy->complete = node->complete;
    copy->hop = node->hop;
    return copy;
}

static palm_err copy_below(palmi_tree *out, palmi_node *parent, const palmi_node *node)
{
    palmi_node *copy = copy_node(node);
    if (!copy)
        return PALM_ENOMEM;
    link_node(out, parent, copy);
    palm_err err = PALM_OK;
    for (const palmi_node *child = node->child; child && !err; child = child->after)
        err = copy_below(out, copy, child);
    return err;
}

palm_err palmi_tree_copy(const palmi_tree *tree, palmi_tree *out)
{
    *out = (palmi_tree){0};
    if (!tree->n)
        return PALM_OK;
    out->buckets = calloc(tree->room, sizeof *out->buckets);
    if (!out->buckets)
        return PALM_ENOMEM;
    out->room = tree->room;
    palm_err err = PALM_OK;
    for (uint64_t i = 0; i < tree->room && !err; i++)
        for (const palmi_node *node = tree->buckets[i]; node && !err; node = node->chained)
            if (!node->parent)
                err = copy_below(out, NULL, node);
    return err;
}

void palmi_tree_free(palmi_tree *tree)
{
    for (uint64_t i = 0; i < tree->room; i++)
        for (palmi_node *node = tree->buckets[i], *next; node; node = next) {
            next = node->chained;
            palmi_ranges_free(&node->ranges);
            free(node);
        }
    free(tree->buckets);
}
