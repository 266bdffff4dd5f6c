/* SPDX-License-Identifier: BSD-3-Clause
 * The inside of a book: pages of open inputs (book_pages.c), and for those inputs of which more than the root is known a
 * tree of open nodes (book_tree.c), each with the ranges of its complete children (book_ranges.c). What is complete has no
 * node, and what is done no bit: so the size goes with what is open, never with what has been (I9). */
#ifndef PALMI_BOOK_INTERNAL_H
#define PALMI_BOOK_INTERNAL_H
#include "palm_book.h"

/* ------------------------------------------------------------------------------------------------------ pages */

enum { PALMI_PAGE_BITS = 4096, PALMI_PAGE_WORDS = PALMI_PAGE_BITS / 64 };

typedef struct palmi_page {
    uint64_t base;                    /* its first number, a multiple of PALMI_PAGE_BITS */
    uint32_t open;                    /* bits set in `bits`; a page without any is freed */
    uint32_t low;                     /* words below this one are 0 */
    uint64_t bits[PALMI_PAGE_WORDS];  /* the open inputs */
    uint64_t trees[PALMI_PAGE_WORDS]; /* of an open input: it has a root in the tree */
} palmi_page;

typedef struct palmi_pages {
    palmi_page **at; /* by base; only pages with open inputs */
    uint32_t n, room;
    palmi_page *spare; /* one that is done: who has one input open at a time needs one each time */
    uint32_t hot;      /* where the last one was found */
    uint64_t next;     /* the first number that has not begun */
    uint64_t open;     /* inputs */
} palmi_pages;

static inline uint64_t palmi_page_bit(uint64_t number)
{
    return (uint64_t)1 << number % 64;
}
static inline uint32_t palmi_page_word(uint64_t number)
{
    return (uint32_t)(number % PALMI_PAGE_BITS / 64);
}

palm_err palmi_pages_begin(palmi_pages *pages, uint64_t first, uint64_t n);
palm_err palmi_pages_skip(palmi_pages *pages, uint64_t next);
/* The page of an open input, NULL if it is not open. */
palmi_page *palmi_pages_find_slowly(const palmi_pages *pages, uint64_t number, uint32_t *at);
static inline palmi_page *palmi_pages_find(palmi_pages *pages, uint64_t number)
{
    palmi_page *page = pages->hot < pages->n ? pages->at[pages->hot] : NULL;
    if (!page || number - page->base >= PALMI_PAGE_BITS)
        page = palmi_pages_find_slowly(pages, number, &pages->hot);
    return page && page->bits[palmi_page_word(number)] & palmi_page_bit(number) ? page : NULL;
}
bool palmi_pages_is_open(const palmi_pages *pages, uint64_t number, bool *tree);
/* The input is done; `page` is what palmi_pages_find has just found for it. */
void palmi_pages_close(palmi_pages *pages, palmi_page *page, uint64_t number);
/* Whether first..first+n-1, n > 0, are open, and have no root in the tree. */
bool palmi_pages_are_open(const palmi_pages *pages, uint64_t first, uint64_t n);
/* These are done. */
void palmi_pages_close_all(palmi_pages *pages, uint64_t first, uint64_t n);
bool palmi_pages_next(const palmi_pages *pages, uint64_t from, uint64_t *number);
palm_err palmi_pages_copy(const palmi_pages *pages, palmi_pages *out);
void palmi_pages_free(palmi_pages *pages);

/* ----------------------------------------------------------------------------------------------------- ranges */

/* What complete children were. A range joins neighbours, and then knows only what they have been between them. */
enum { PALMI_LEAF = 1, PALMI_NODE = 2, PALMI_EITHER = PALMI_LEAF | PALMI_NODE };

typedef struct palmi_range {
    uint64_t from : 49, kinds : 2;
    uint64_t to : 49;
} palmi_range;

enum { PALMI_FEW = 2 };

typedef struct palmi_ranges {
    palmi_range *at;  /* sorted, apart from each other; `few` or on the heap */
    uint32_t n, room;
    palmi_range few[PALMI_FEW];
} palmi_ranges;

void palmi_ranges_init(palmi_ranges *ranges);
void palmi_ranges_free(palmi_ranges *ranges);
/* Makes room for so many in all. */
palm_err palmi_ranges_reserve(palmi_ranges *ranges, uint64_t wanted);
/* Gives memory back if `wanted` need much less than there is. */
void palmi_ranges_trim(palmi_ranges *ranges, uint64_t wanted);
/* What the child was; 0: it is not in here. */
uint32_t palmi_ranges_kinds(const palmi_ranges *ranges, uint64_t index);
/* Adds a child that is not in here; there is room. */
void palmi_ranges_add(palmi_ranges *ranges, uint64_t index, uint32_t kind);
/* All before `index` are in here. */
bool palmi_ranges_reach(const palmi_ranges *ranges, uint64_t index);

/* ------------------------------------------------------------------------------------------------------- tree */

#define PALMI_INDEX_BITS 48
#define PALMI_NO_END UINT64_MAX
#define PALMI_NO_HOP UINT32_MAX

/* An open name that has children. ranges.room >= ranges.n + nodes: a node that completes finds its place in its parent's
 * ranges without asking for memory. */
typedef struct palmi_node {
    struct palmi_node *chained;          /* in its bucket */
    struct palmi_node *parent, *child;   /* NULL: the root of an input; any of the open nodes right below, or NULL */
    struct palmi_node *before, *after;   /* the parent's other open nodes, in no order */
    uint64_t key;                        /* its component of the path; of a root the number */
    uint64_t end;                        /* how many children there are, or PALMI_NO_END */
    uint64_t granted;                    /* so many children it may have sent */
    uint64_t top;                        /* all known children have indices below */
    uint64_t complete;                   /* children in `ranges` */
    uint32_t hop;                        /* at which it fans out, or PALMI_NO_HOP */
    uint32_t nodes;                      /* open nodes right below */
    palmi_ranges ranges;
} palmi_node;

typedef struct palmi_tree {
    palmi_node **buckets; /* by parent and key */
    uint64_t n, room;
    uint64_t live;        /* the shares of all nodes */
} palmi_tree;

/* How far a name is known. */
typedef struct palmi_place {
    enum { PALMI_ABSENT, PALMI_OPEN, PALMI_COMPLETE, PALMI_CONTRADICTS } state;
    palmi_node *node;  /* the last on the way that is open; NULL: not even the root */
    uint32_t depth;    /* so many of the name's n + 1 nodes (the root and one each component) are open; PALMI_COMPLETE: it
                        * is the name with so many components that is complete */
    uint32_t kinds;    /* PALMI_COMPLETE: what that name was; else 0 */
} palmi_place;

static inline uint64_t palmi_index(uint64_t component)
{
    return component & (((uint64_t)1 << PALMI_INDEX_BITS) - 1);
}

palmi_place palmi_tree_find(const palmi_tree *tree, uint64_t number, const uint64_t *path, uint32_t n_path);
/* The open node below `parent` of this key; of no parent, the root of an input. */
palmi_node *palmi_tree_lookup(const palmi_tree *tree, const palmi_node *parent, uint64_t key);
/* Makes nodes until the first `depth` of the name's are there, and room for one more child in the last. */
palm_err palmi_tree_extend(palmi_tree *tree, palmi_place *place, uint64_t number, const uint64_t *path, uint32_t depth);
bool palmi_tree_is_complete(const palmi_node *node);
/* Children that it has sent or may have sent: one that arrives beyond the grant stands for all before it. */
uint64_t palmi_tree_sent(const palmi_node *node);
/* Children without children that are not complete, of it and of all below; UINT64_MAX if it is not known how many. */
uint64_t palmi_tree_unsettled(const palmi_node *node);
void palmi_tree_close(palmi_tree *tree, palmi_node *node, uint64_t children);
void palmi_tree_grant(palmi_tree *tree, palmi_node *node, uint64_t upto);
/* A child is complete; there is room for it. */
void palmi_tree_add(palmi_tree *tree, palmi_node *node, uint64_t component, uint32_t kind);
/* Frees a node and all below. */
void palmi_tree_drop(palmi_tree *tree, palmi_node *node);
/* Failed, *out has a part, to be freed like the whole. */
palm_err palmi_tree_copy(const palmi_tree *tree, palmi_tree *out);
void palmi_tree_free(palmi_tree *tree);

struct palm_book {
    palmi_pages pages;
    palmi_tree tree;
};
#endif
