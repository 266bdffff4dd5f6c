# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True, boundscheck=False, wraparound=False
"""k messages as arrays (k, ...), and k rows as messages: what goes into a batch function, and what comes out of it."""

from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cimport numpy as cnp
import numpy as np

from palm._core.decode import BlockLost
from palm._core.errors import PayloadError

from palm._core.cpalm cimport *
from palm._core.nep49 cimport PALM_NEP49_THRESHOLD
from palm._core.decode cimport check_reach, get_array, new_view
from palm._core.encode cimport NOBODY_ELSE, are_rows, let_go, put_rows
from palm._core.space cimport Holder, counters

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *o) nogil

cdef object ndarray = np.ndarray
cdef object generic = np.generic
cdef dict NATURAL = {bool: np.dtype(np.bool_), int: np.dtype(np.int64), float: np.dtype(np.float64),
                     complex: np.dtype(np.complex128)}
cdef enum:
    MOST_DIMS = 63  # one more, and it is an array that cannot be sent


# ------------------------------------------------------------------------------------------------- messages, as arrays

def kind_of(tuple values not None, str what not None) -> tuple:
    """Messages of the same kind can be stacked; `values`: one for each parameter. PayloadError: it can not, not even
    alone."""
    return tuple([kind_of_one(value, what) for value in values])


cdef object kind_of_one(value, str what):
    t = type(value)
    if t is ndarray and value.ndim <= MOST_DIMS:
        return value.dtype, value.shape
    if isinstance(value, generic):
        return t, value.dtype
    if t is int and not -(1 << 63) <= value < 1 << 63:
        raise PayloadError(f"{what} stacks its messages, and {value} does not fit in an int64")
    if t in NATURAL:
        return t
    found = f"an array of {value.ndim} dimensions" if t is ndarray else f"a {t.__name__}"
    advice = f"; give it {len(value)} parameters" if t is tuple else ""
    raise PayloadError(f"{what} stacks its messages: each parameter gets arrays or numbers, but {found} came{advice}")


def stacked(list messages not None) -> list:
    """Messages of one kind, as tuples of values: for each parameter an array (k, ...), read-only; a view, where they lie
    side by side."""
    return [column([m[j] for m in messages]) for j in range(len(messages[0]))]


cdef object column(list values):
    first = values[0]
    if type(first) is ndarray:
        if len(values) == 1:
            found = first.reshape((1, *first.shape))
            found.flags.writeable = False
            return found
        found = side_by_side(values)
        return copied(values, first.dtype, first.shape) if found is None else found
    found = np.array(values, first.dtype if isinstance(first, generic) else NATURAL[type(first)])
    found.flags.writeable = False
    return found


cdef object copied(list values, dtype, tuple shape):
    cdef palm_counters *c = counters()
    found = np.empty((len(values), *shape), dtype)
    for n, value in enumerate(values):
        found[n] = value
    palm_count(&c.bytes_copied, found.nbytes)
    found.flags.writeable = False
    return found


cdef bint is_same_memory(object a, object b) noexcept:
    """Of what keeps the memory of two received arrays."""
    if type(a) is not Holder or type(b) is not Holder:
        return False
    if a is b:
        return True
    return (<Holder> a).arena != NULL and (<Holder> a).arena == (<Holder> b).arena and (<Holder> a).index == (<Holder> b).index


cdef object view_over(cnp.ndarray first, Py_ssize_t k, Py_ssize_t step):
    """k arrays as the first one, each `step` bytes behind the one before."""
    cdef Py_ssize_t[64] shape
    cdef Py_ssize_t[64] strides
    cdef int d
    shape[0], strides[0] = k, step
    for d in range(cnp.PyArray_NDIM(first)):
        shape[d + 1], strides[d + 1] = cnp.PyArray_DIM(first, d), cnp.PyArray_STRIDE(first, d)
    return new_view(first.dtype, cnp.PyArray_NDIM(first) + 1, shape, strides, cnp.PyArray_DATA(first),
                    cnp.get_array_base(first))


cdef object side_by_side(list values):
    """One view of several received arrays of equal shape and dtype; None: they do not lie in one memory at equal
    distances."""
    cdef cnp.ndarray first = values[0], a
    cdef Py_ssize_t at = <Py_ssize_t> cnp.PyArray_DATA(first)
    cdef Py_ssize_t step = <Py_ssize_t> cnp.PyArray_DATA(<cnp.ndarray> values[1]) - at
    cdef Py_ssize_t n
    for n in range(len(values)):
        a = values[n]
        if <Py_ssize_t> cnp.PyArray_DATA(a) != at + n * step or not is_same_memory(cnp.get_array_base(first), cnp.get_array_base(a)):
            return None
        if memcmp(cnp.PyArray_STRIDES(first), cnp.PyArray_STRIDES(a), cnp.PyArray_NDIM(first) * sizeof(cnp.npy_intp)):
            return None
    return view_over(first, len(values), step)


# ------------------------------------------------------------------------ the same, of records that are an array each

cdef const int64_t *dims_of(palm_event *event, const palm_array *a) noexcept:
    return event.envelope.dims + a.dims_at


cdef const palm_array *array_of(palm_event *event, uint32_t record) noexcept:
    return &event.envelope.arrays[event.envelope.records[record].array_at]


cdef bint alike(palm_event *event, uint32_t i, uint32_t j) noexcept:
    """Whether two records, of form ARRAY both, have equal shape and dtype."""
    cdef const palm_array *a = array_of(event, i)
    cdef const palm_array *b = array_of(event, j)
    return (a.dtype == b.dtype and a.ndim == b.ndim and
            not memcmp(dims_of(event, a), dims_of(event, b), a.ndim * sizeof(int64_t)))


cdef bint is_beside(palm_event *event, const palm_array *a, const palm_array *b, int64_t distance) noexcept:
    """Whether b is an array as a, of the same memory, `distance` bytes behind it."""
    if a.place != b.place or a.size != b.size or a.origin != b.origin or <int64_t> (b.start - a.start) != distance:
        return False
    if memcmp(dims_of(event, a) + a.ndim, dims_of(event, b) + b.ndim, a.ndim * sizeof(int64_t)):
        return False
    if a.source == b.source or a.place == PALM_IN_BODY:
        return True
    return (a.place == PALM_IN_BLOCK and event.blocks[a.source].err == PALM_OK and event.blocks[b.source].err == PALM_OK
            and event.blocks[a.source].arena == event.blocks[b.source].arena
            and event.blocks[a.source].index == event.blocks[b.source].index
            and event.blocks[a.source].first == event.blocks[b.source].first)


cdef object get_stacked(palm_event *event, list records, list holders):
    """Records that are alike, of form ARRAY, as one array; a view without a Python object for each, where they lie side by
    side. BlockLost as of `get_value`."""
    cdef const palm_array *a = array_of(event, records[0])
    cdef const palm_array *b
    cdef Py_ssize_t n, k = len(records)
    cdef int64_t step = 0
    first = get_array(event, event.envelope.records[<uint32_t> records[0]].array_at, holders)
    if k > 1:
        step = <int64_t> (array_of(event, records[1]).start - a.start)
    for n in range(1, k):
        b = array_of(event, records[n])
        if not is_beside(event, a, b, n * step):
            return column([get_array(event, event.envelope.records[<uint32_t> i].array_at, holders) for i in records])
    return view_over(first, k, step if k > 1 else cnp.PyArray_NBYTES(first))


cdef cnp.ndarray get_rows(palm_event *event, uint32_t first, const palm_run *run, Py_ssize_t k, list holders):
    """k messages of a run of arrays, from record `first` on, as one array; a view. BlockLost as of `get_value`."""
    cdef const palm_array *whole = &event.envelope.arrays[run.array]
    try:
        row = get_array(event, event.envelope.records[first].array_at, holders)
        # what is between the first and the last lies between their ends
        check_reach(event, event.envelope.records[first + k - 1].array_at, row.dtype)
        return view_over(row, k, event.envelope.dims[whole.dims_at + whole.ndim])
    except BlockLost:
        raise
    except Exception as e:
        raise BlockLost(f"the payloads cannot be read: {e!r}") from None


# --------------------------------------------------------------------------------------------------- rows, as messages

# Of a run that is taken out of an array: as much as is sent at a time anyway, and a block of which a row that is kept for
# long does not keep too much.
cdef enum:
    RUN_BYTES = 1 << 18


cdef class Items:
    """Iterates over an array of rows or numbers, which go as runs; see `items_of`."""

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_over():
            raise StopIteration
        value = self.array[self.at]
        self.at += 1
        return value

    cdef bint is_over(self) noexcept:
        return self.at >= cnp.PyArray_DIM(self.array, 0)

    cdef Py_ssize_t put(self, palm_batch *b, Py_ssize_t most, uint64_t number, uint64_t deadline) except -1:
        """Adds up to so many; returns how many."""
        cdef Py_ssize_t each = max(1, cnp.PyArray_NBYTES(self.array) // max(1, cnp.PyArray_DIM(self.array, 0)))
        cdef Py_ssize_t n = max(0, min(most, cnp.PyArray_DIM(self.array, 0) - self.at, RUN_BYTES // each))
        cdef cnp.ndarray rows
        cdef palm_counters *c
        if n == 0:
            return 0
        rows = self.array[self.at:self.at + n]
        if cnp.PyArray_IS_C_CONTIGUOUS(rows):
            put_rows(b, rows, 0, number, deadline)
        else:  # a piece of what lies otherwise would be as large as the whole
            rows, c = rows.copy(), counters()
            palm_count(&c.bytes_copied, cnp.PyArray_NBYTES(rows))
            put_rows(b, rows, NOBODY_ELSE, number, deadline)
        self.at += n
        return n


def items_of(inputs):
    """What to iterate over instead of `inputs`: the same, many at a time where that is an array of small items."""
    cdef Items items
    if not are_rows(inputs) or len(inputs) == 0 or inputs.nbytes // len(inputs) >= PALM_NEP49_THRESHOLD:
        return inputs
    items = Items.__new__(Items)
    items.array = inputs
    return items


cdef bint is_let_go(PyObject *result) noexcept:
    """True if nobody but the caller, with one reference, can reach what a batch function returned: an array, a tuple of
    arrays, or a list, which says nothing of its items."""
    cdef Py_ssize_t j
    cdef PyObject *item
    if type(<object> result) is ndarray:
        return let_go(result, 1)
    if Py_REFCNT(result) != 1 or type(<object> result) is not tuple:
        return Py_REFCNT(result) == 1 and type(<object> result) is list  # its items are taken out one by one
    for j in range(PyTuple_GET_SIZE(<object> result)):
        item = PyTuple_GET_ITEM(<object> result, j)
        if type(<object> item) is not ndarray or not let_go(item, 1):
            return False
    return True


cdef class Rows:
    """What a batch function returned for k messages, row by row.

    Parameters
    ----------
    result : ndarray, list or tuple
        Of k rows; a tuple: of arrays or lists of k rows each, whose rows are tuples.
    k : int
    what : str
        The function, for the error.
    mine : bool
        Nobody else has `result`: each item of a list is taken out of it.

    Raises
    ------
    PayloadError
        There are not k rows.
    """

    def __init__(self, result, Py_ssize_t k, str what not None, bint mine=False):
        cdef Py_ssize_t j
        self.is_taken_out = mine and type(result) is list
        self.result = result
        self.columns = result if type(result) is tuple else None
        if self.columns is None:
            check_rows(result, k, what, "")
            return
        if not self.columns:
            raise PayloadError(wrong(what, k, "an empty tuple"))
        for j in range(PyTuple_GET_SIZE(self.columns)):
            check_rows(self.columns[j], k, what, f" at place {j} of its tuple")

    cdef object row(self, Py_ssize_t n):
        if self.columns is None:
            row = self.result[n]
            if self.is_taken_out:
                self.result[n] = None
            return row
        return tuple([c[n] for c in self.columns])

    def __getitem__(self, Py_ssize_t n):
        return self.row(n)


cdef int check_rows(result, Py_ssize_t k, str what, str where) except -1:
    if isinstance(result, ndarray):
        if result.ndim and result.shape[0] == k:
            return 0
        found = f"an array of shape {result.shape}"
    elif type(result) is list:
        if len(result) == k:
            return 0
        found = f"a list of {len(result)}"
    else:
        found = f"a {type(result).__name__}"
    raise PayloadError(wrong(what, k, found + where))


cdef str wrong(str what, Py_ssize_t k, str found):
    return (f"{what} got {k} message{'s' * (k != 1)} and has to return as many rows, in an array (k, ...), a list, or a tuple "
            f"of these; it returned {found}")
