/* SPDX-License-Identifier: BSD-3-Clause
 * A book as words: the number that begins next, then each open input, whether it has a tree, and the nodes of that tree in
 * the order of their names. */
#include "book_internal.h"

typedef struct sink {
    uint64_t *out;
    size_t room, n;
} sink;

static void put(sink *to, uint64_t word)
{
    if (to->n < to->room)
        to->out[to->n] = word;
    to->n++;
}

/* The next of the children by key, as they are chained in no order. */
static const palmi_node *following(const palmi_node *parent, const palmi_node *last)
{
    const palmi_node *found = NULL;
    for (const palmi_node *child = parent->child; child; child = child->after)
        if ((!last || child->key > last->key) && (!found || child->key < found->key))
            found = child;
    return found;
}

static void put_node(sink *to, const palmi_node *node)
{
    put(to, node->key);
    put(to, node->end);
    put(to, palmi_tree_sent(node));
    put(to, node->hop);
    put(to, node->ranges.n);
    for (uint32_t i = 0; i < node->ranges.n; i++) {
        put(to, node->ranges.at[i].from);
        put(to, (uint64_t)node->ranges.at[i].kinds << PALMI_INDEX_BITS << 1 | node->ranges.at[i].to);
    }
    put(to, node->nodes);
    for (const palmi_node *child = following(node, NULL); child; child = following(node, child))
        put_node(to, child);
}

size_t palm_book_dump(const palm_book *book, uint64_t *out, size_t room)
{
    sink to = {.out = out, .room = room};
    put(&to, book->pages.next);
    uint64_t number = 0;
    for (bool more = palmi_pages_next(&book->pages, 0, &number); more;
         more = palmi_pages_next(&book->pages, number + 1, &number)) {
        const palmi_node *root = palmi_tree_lookup(&book->tree, NULL, number);
        put(&to, number);
        put(&to, root != NULL);
        if (root)
            put_node(&to, root);
    }
    return to.n;
}
