/* SPDX-License-Identifier: BSD-3-Clause */
#include "nep49.h"

#include <numpy/arrayobject.h>

#include <string.h>

/* Arrays outlive everything and are freed in any thread, so handlers and capsules are never freed. */
static palm_space *space;
static palm_counters *counters;
static PyDataMem_Handler *heap; /* who was there before us, and keeps numpy's own cache of small blocks */
static PyObject *capsules[2];

static void *heap_malloc(size_t n) { return heap->allocator.malloc(heap->allocator.ctx, n); }

static void *arena_alloc(size_t n, bool zeroed)
{
    if (n < PALM_NEP49_THRESHOLD) {
        palm_count(&counters->alloc_small, 1);
        return NULL;
    }
    void *p = palm_space_alloc(space, n, zeroed);
    palm_count(p ? &counters->alloc_arena : &counters->alloc_full, 1);
    return p;
}

static void *hook_malloc(void *ctx, size_t n)
{
    (void)ctx;
    void *p = arena_alloc(n, false);
    return p ? p : heap_malloc(n);
}

static void *hook_calloc(void *ctx, size_t items, size_t size)
{
    (void)ctx;
    size_t n;
    void *p = __builtin_mul_overflow(items, size, &n) ? NULL : arena_alloc(n, true);
    return p ? p : heap->allocator.calloc(heap->allocator.ctx, items, size);
}

/* By address, never by size: numpy does not always know it. */
static void hook_free(void *ctx, void *p, size_t n)
{
    (void)ctx;
    if (palm_space_owns(space, p))
        palm_space_free(space, p);
    else
        heap->allocator.free(heap->allocator.ctx, p, n);
}

static void *move_out(void *p, size_t n)
{
    size_t had = palm_space_usable(space, p);
    void *q = hook_malloc(NULL, n);
    if (!q)
        return NULL;
    memcpy(q, p, n < had ? n : had);
    palm_space_free(space, p);
    return q;
}

static void *hook_realloc(void *ctx, void *p, size_t n)
{
    (void)ctx;
    if (!p || !palm_space_owns(space, p))
        return heap->allocator.realloc(heap->allocator.ctx, p, n);
    void *same = palm_space_resize(space, p, n);
    return same ? same : move_out(p, n);
}

static PyDataMem_Handler handlers[2] = {
    {"palm_arena", 1, {NULL, hook_malloc, hook_calloc, hook_realloc, hook_free}},
    {"palm_arena_shared", 1, {NULL, hook_malloc, hook_calloc, hook_realloc, hook_free}},
};

int palm_nep49_setup(palm_space *the_space)
{
    if (space)
        return 0;
    if (PyArray_ImportNumPyAPI() < 0)
        return -1;
    PyObject *found = PyDataMem_GetHandler();
    if (!found)
        return -1;
    heap = PyCapsule_GetPointer(found, "mem_handler");
    if (!heap)
        return -1; /* the reference to `found` is kept: its struct has to stay */
    counters = palm_space_page(the_space);
    for (int i = 0; i < 2; i++)
        if (!(capsules[i] = PyCapsule_New(&handlers[i], "mem_handler", NULL)))
            return -1;
    space = the_space;
    return 0;
}

PyObject *palm_nep49_install(int shared)
{
    if (!space) {
        PyErr_SetString(PyExc_RuntimeError, "no shared memory has been opened in this process");
        return NULL;
    }
    return PyDataMem_SetHandler(capsules[shared != 0]);
}

int palm_nep49_restore(PyObject *handler)
{
    PyObject *was = PyDataMem_SetHandler(handler);
    Py_XDECREF(was);
    return was ? 0 : -1;
}

int palm_nep49_whose(PyObject *arr)
{
    PyObject *handler = PyArray_HANDLER((PyArrayObject *)arr);
    return !handler ? 0 : handler == capsules[0] ? 1 : handler == capsules[1] ? 2 : 0;
}
