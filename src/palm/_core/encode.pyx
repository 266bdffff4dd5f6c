# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True
"""Python values to records: which bytes are lent, which are copied, and what a tree looks like on the wire.

docs/wire.md describes the result, docs/arena.md the rules by which an array goes without a copy."""

import struct as _struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cimport numpy as cnp
import msgspec
import numpy as np

from palm._core import dtypes
from palm._core.errors import PayloadError
from palm._core.decode import NOTHING
from palm._core.space import CoreError

from palm._core.cpalm cimport *
from palm._core.decode cimport EXT_ARRAY, EXT_BYTES, EXT_COMPLEX, EXT_INT, EXT_SCALAR, EXT_TUPLE, MOST_KNOWN
from palm._core.space cimport Holder, check, counters, space, whose

cnp.import_array()

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) noexcept  # of an int: no more can go wrong
    Py_ssize_t Py_REFCNT(PyObject *o) nogil

cdef extern from *:
    """
    #include <numpy/arrayobject.h>
    static PyObject *new_array(PyObject *dtype, int n, const npy_intp *shape, const npy_intp *strides, void *data, int flags)
    {
        Py_INCREF(dtype); /* stolen */
        return PyArray_NewFromDescr(&PyArray_Type, (PyArray_Descr *)dtype, n, shape, strides, data, flags, NULL);
    }
    static PyObject *base_of(PyObject *array) { return PyArray_BASE((PyArrayObject *)array); }
    """
    object new_array(object dtype, int n, const cnp.npy_intp *shape, const cnp.npy_intp *strides, void *data, int flags)
    PyObject *base_of(PyObject *array) noexcept

cdef extern from "numpy/arrayobject.h":
    int PyArray_CopyInto(cnp.ndarray dest, cnp.ndarray src) except -1

from palm._core.nep49 cimport PALM_NEP49_THRESHOLD

# A small view of a large block is copied, since it would keep the block: the copy takes at most 2 us.
cdef enum:
    SMALL_VIEW = 65536
    SMALL_SHARE = 16


cdef object encode = msgspec.msgpack.Encoder().encode
cdef object Ext = msgspec.msgpack.Ext
cdef object ndarray = np.ndarray
cdef object memmap = np.memmap
cdef object generic = np.generic
cdef frozenset SCALARS = frozenset(np.sctypeDict.values())  # numpy's own, without np.record


# ------------------------------------------------------------------------------------------------------------ dtypes

cdef dict texts = {}   # dtype -> bytes


def dtype_text(dtype) -> bytes:
    """A dtype as text; PayloadError if it cannot be sent."""
    cdef bytes text = dtypes.text_of(dtype).encode()
    if len(text) > PALM_MAX_TEXT:
        raise PayloadError(f"the description of the dtype takes {len(text)} bytes, at most {PALM_MAX_TEXT} can be sent")
    return text


# Those of the array before: numpy's own dtypes are single objects, which never change.
cdef object put_dtype = None
cdef bytes put_text = None


cdef bint is_own(cnp.dtype dtype) except -1:
    return dtype.type_num < cnp.NPY_OBJECT and cnp.PyArray_DescrFromType(dtype.type_num) is dtype


cdef bytes text_of(object dtype):
    global put_dtype, put_text
    if dtype is put_dtype:
        return put_text
    cdef bytes text = texts.get(dtype)
    # equal dtypes may differ in byte order spelling or metadata only: never in their text
    if text is None:
        text = dtype_text(dtype)
        if len(texts) >= MOST_KNOWN:
            texts.clear()
        texts[dtype] = text
    if is_own(dtype):
        put_dtype, put_text = dtype, text
    return text


# ------------------------------------------------------------------------------------------------------ arrays, sending

cdef struct Extent:
    char *low       # first byte of any element
    uint64_t size   # up to the last byte of any element
    uint64_t origin


cdef Extent extent_of(cnp.ndarray a) noexcept:
    cdef Extent e
    cdef Py_ssize_t low = 0, high = 0, step
    cdef int k
    cdef int n = cnp.PyArray_NDIM(a)
    e.low = <char *> cnp.PyArray_DATA(a)
    e.size = 0
    e.origin = 0
    for k in range(n):
        if cnp.PyArray_DIM(a, k) == 0:
            return e
        step = (cnp.PyArray_DIM(a, k) - 1) * cnp.PyArray_STRIDE(a, k)
        if step < 0:
            low += step
        else:
            high += step
    e.low += low
    e.origin = <uint64_t> -low
    e.size = <uint64_t> (high - low) + <uint64_t> cnp.PyArray_ITEMSIZE(a)
    return e


cdef bint let_go(PyObject *a, Py_ssize_t expected) noexcept:
    """True if nobody but the caller, with `expected` references, can reach the array or one whose memory it views."""
    if expected >= NOBODY_ELSE:
        return True
    while True:
        if Py_REFCNT(a) != expected:
            return False
        a = base_of(a)
        if a == NULL:
            return True
        if not isinstance(<object> a, ndarray):
            # a Holder's memory cannot be written; what a memoryview or as_strided's helper views, others may have
            return type(<object> a) is Holder
        # <object> takes no reference here that lasts: the base is held by the view alone
        expected = 1


cdef bint was_received(cnp.ndarray a) noexcept:
    """True if nobody can ever write: only arrays over a Holder stay read-only. Others are as long as their owner likes."""
    cdef PyObject *at = <PyObject *> a
    while isinstance(<object> at, ndarray):
        if cnp.PyArray_ISWRITEABLE(<cnp.ndarray> at):
            return False
        at = base_of(at)
        if at == NULL:
            return False
    return type(<object> at) is Holder


cdef object owner_of(object at):
    """Who has the memory, as far as it can be followed: through views, memoryviews, and what as_strided puts between."""
    cdef int k
    for k in range(64):
        base = at.obj if type(at) is memoryview else getattr(at, "base", None)
        if base is None:
            break
        at = base
    return at


cdef bint on_the_users_word(cnp.ndarray a) except -1:
    owner = owner_of(a)
    return isinstance(owner, ndarray) and whose(owner) == 2


cdef bint made_in_a_thread(cnp.ndarray a) except -1:
    """numpy's own memory, but not ours: allocated where the hook is not set."""
    owner = owner_of(a)
    return isinstance(owner, ndarray) and (<cnp.ndarray> owner).flags.owndata and whose(owner) == 0


cdef int dims_of(cnp.ndarray a, int64_t *shape, int64_t *strides) except -1:
    cdef int k
    cdef int n = cnp.PyArray_NDIM(a)
    for k in range(n):
        shape[k] = cnp.PyArray_DIM(a, k)
        strides[k] = cnp.PyArray_STRIDE(a, k)
    return n


cdef object view_of(void *data, cnp.ndarray like):
    """A C-contiguous array of the same shape and dtype over `data`."""
    return new_array(like.dtype, cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like), NULL, data, cnp.NPY_ARRAY_WRITEABLE)


cdef int c_strides(cnp.ndarray a, const int64_t *shape, int64_t *strides) except -1:
    cdef int64_t step = cnp.PyArray_ITEMSIZE(a)
    cdef int k
    for k in range(cnp.PyArray_NDIM(a) - 1, -1, -1):
        strides[k] = step
        step *= shape[k] if shape[k] > 0 else 1
    return 0


cdef int put_inline(palm_batch *b, cnp.ndarray a, bytes text, Extent e, bint dense) except -1:
    cdef int64_t shape[64]
    cdef int64_t strides[64]
    cdef uint8_t *at = NULL
    cdef int n = dims_of(a, shape, strides)
    if dense:
        check(palm_batch_array(b, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), n, shape, strides, e.size, e.origin, &at))
        memcpy(at, e.low, e.size)
        return 0
    c_strides(a, shape, strides)
    check(palm_batch_array(b, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), n, shape, strides,
                           cnp.PyArray_NBYTES(a), 0, &at))
    return PyArray_CopyInto(view_of(at, a), a)


cdef int lend(palm_batch *b, cnp.ndarray a, bytes text, Extent e, palm_arena *arena, uint32_t index,
              const void *first) except -1:
    cdef int64_t shape[64]
    cdef int64_t strides[64]
    cdef int n = dims_of(a, shape, strides)
    cdef palm_err err = palm_batch_lend(b, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), n, shape, strides, e.size,
                                        e.origin, arena, index, first, e.low - <const char *> first)
    if err != PALM_OK:
        palm_block_drop(arena, index)
        check(err)
    return 0


cdef int put_copy(palm_batch *b, cnp.ndarray a, bytes text, Extent e, bint dense) except -1:
    """Into a block of its own, once; where the arena is full, into the envelope's frame."""
    cdef palm_arena *arena = NULL
    cdef uint32_t index = 0
    cdef const void *first = NULL
    cdef size_t size = 0
    cdef uint64_t n = e.size if dense else <uint64_t> cnp.PyArray_NBYTES(a)
    cdef void *p = palm_space_alloc(space(), n, False)
    cdef palm_counters *c = counters()
    cdef cnp.ndarray copy
    palm_count(&c.bytes_copied, n)
    if p == NULL:
        palm_count(&c.alloc_full, 1)
        return put_inline(b, a, text, e, dense)
    try:
        if dense:
            memcpy(p, e.low, n)
            e.low = <char *> p
            copy = a
        else:
            copy = view_of(p, a)
            PyArray_CopyInto(copy, a)
            e = extent_of(copy)
        check(palm_space_hold(space(), p, n, &arena, &index, &first, &size))
        lend(b, copy, text, e, arena, index, first)
    finally:
        palm_space_free(space(), p)
    return 0


cdef int put_array(palm_batch *b, cnp.ndarray a, Py_ssize_t expected) except -1:
    cdef palm_arena *arena = NULL
    cdef uint32_t index = 0
    cdef const void *first = NULL
    cdef size_t size = 0
    cdef bytes text = text_of(a.dtype)
    cdef Extent e = extent_of(a)
    cdef uint64_t nbytes = cnp.PyArray_NBYTES(a)
    # dense: its bytes can go as they lie, strides and all; broadcast arrays are shorter than their number of elements
    cdef bint dense = e.size <= nbytes
    cdef uint64_t least = e.size if dense else nbytes
    cdef palm_counters *c
    if cnp.PyArray_NDIM(a) > 64:
        raise PayloadError(f"an array of {cnp.PyArray_NDIM(a)} dimensions cannot be sent, at most {PALM_MAX_DIMS}")
    if expected < 0 or least < <uint64_t> PALM_NEP49_THRESHOLD:
        return put_inline(b, a, text, e, dense)
    if palm_batch_lent(b) >= PALM_MAX_PARTS:  # where the peer needs frames, there would be too many
        c = counters()
        palm_count(&c.bytes_copied, least)
        return put_inline(b, a, text, e, dense)
    if palm_space_hold(space(), e.low, e.size, &arena, &index, &first, &size) != PALM_OK:
        if e.size <= <uint64_t> PALM_LITTLE_PART and was_received(a):  # in a body; so it goes on, as it lies
            return put_inline(b, a, text, e, True)
        c = counters()
        palm_count(&c.copied_thread if made_in_a_thread(a) else &c.copied_foreign, 1)
        return put_copy(b, a, text, e, dense)
    if least <= SMALL_VIEW and least <= size // SMALL_SHARE:
        palm_block_drop(arena, index)
        return put_inline(b, a, text, e, dense)
    # a peer's memory cannot be written from here, whatever views it
    if (not palm_space_owns(space(), first) or let_go(<PyObject *> a, expected) or was_received(a)
            or on_the_users_word(a)):
        return lend(b, a, text, e, arena, index, first)
    palm_block_drop(arena, index)
    c = counters()
    palm_count(&c.copied_kept, 1)
    return put_copy(b, a, text, e, dense)


# ------------------------------------------------------------------------------------------------------ trees, sending

cdef enum:
    LARGE_TREE = 1 << 18  # bytes: from 400 KB on it takes half the time there and back, below 150 KB some more


cdef int put_tree(palm_batch *b, bytes body, Py_ssize_t expected) except -1:
    """A large one as an array, where there is room for one more: who receives it may have private memory for less."""
    cdef cnp.ndarray large
    if expected >= 0 and PyBytes_GET_SIZE(body) >= LARGE_TREE and palm_batch_lent(b) < PALM_MAX_PARTS:
        large = np.frombuffer(body, np.uint8)
        try:
            return put_copy(b, large, text_of(large.dtype), extent_of(large), True)
        except CoreError as e:
            if e.code != "PALM_ELIMIT":
                raise
    check(palm_batch_body(b, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)))
    return 0


cdef class _Tree:
    """The walk over a tree: makes of it what msgpack knows, and adds its arrays to the record."""
    cdef palm_batch *batch
    cdef uint32_t arrays, of_bytes

    cdef object plain(self, PyObject *at, Py_ssize_t expected, str place, int depth):
        # `at` is borrowed from its container, so that reference counts tell who else has it
        cdef object value = <object> at   # one reference more from here on
        cdef list items
        cdef bint mine
        t = type(value)
        if value is None or t is bool or t is float:
            return value
        if t is bytes:
            return self.put(EXT_BYTES, np.frombuffer(value, np.uint8), 0) if self.is_to_lend(value, expected) else value
        if t is str:
            if not value.isascii():
                check_text(value, place)
            return value
        if t is int:
            return value if -(1 << 63) <= value < (1 << 64) else Ext(EXT_INT, value.to_bytes(
                value.bit_length() // 8 + 1, "big", signed=True))
        mine = expected > 0 and Py_REFCNT(at) == expected + 1
        inner = 1 if mine else -1 if expected < 0 else expected if expected >= NOBODY_ELSE else 0
        if (t is list or t is tuple or t is dict) and depth >= PALM_MAX_DEPTH:
            raise PayloadError(f"{place}: nested deeper than {PALM_MAX_DEPTH}")
        # copying an array lets go of the GIL: who else has a list or dict may change it meanwhile
        if t is list:
            items = <list> value if mine else list(value)
            return [self.plain(PyList_GET_ITEM(items, i), inner, f"{place}[{i}]", depth + 1)
                    for i in range(PyList_GET_SIZE(items))]
        if t is dict:
            return self.plain_dict(<dict> value if mine else (<dict> value).copy(), inner, place, depth)
        if t is tuple:
            return Ext(EXT_TUPLE, encode([self.plain(PyTuple_GET_ITEM(value, i), inner, f"{place}[{i}]", depth + 1)
                                          for i in range(PyTuple_GET_SIZE(value))]))
        if isinstance(value, generic):
            try:
                return Ext(EXT_SCALAR, scalar_bytes(value))
            except PayloadError as e:
                raise PayloadError(f"{place}: {e}") from None
        if t is complex:
            return Ext(EXT_COMPLEX, _struct.pack(">dd", value.real, value.imag))
        if t is ndarray or t is memmap:
            try:
                if self.arrays - self.of_bytes >= PALM_MAX_ARRAYS // 2:
                    raise PayloadError(f"a message has at most {PALM_MAX_ARRAYS // 2} arrays; stack them into fewer")
                return self.put(EXT_ARRAY, value, expected + 1 if expected > 0 else expected)
            except PayloadError as e:
                raise PayloadError(f"{place}: {e}") from None
        raise PayloadError(f"{place}: {unsupported(value)}")

    cdef bint is_to_lend(self, bytes value, Py_ssize_t expected) noexcept:
        """Bytes so large that they go as an array would, not with the rest of the tree."""
        return (expected >= 0 and PyBytes_GET_SIZE(value) >= PALM_NEP49_THRESHOLD
                and self.arrays < PALM_MAX_ARRAYS // 2 and palm_batch_lent(self.batch) < PALM_MAX_PARTS)

    cdef object put(self, int kind, cnp.ndarray value, Py_ssize_t expected):
        put_array(self.batch, value, expected)
        self.arrays += 1
        self.of_bytes += kind == EXT_BYTES
        return Ext(kind, (self.arrays - 1).to_bytes(4, "big"))

    cdef dict plain_dict(self, dict value, Py_ssize_t inner, str place, int depth):
        cdef PyObject *k = NULL
        cdef PyObject *v = NULL
        cdef Py_ssize_t pos = 0
        cdef dict out = {}
        while PyDict_Next(value, &pos, &k, &v):
            key = <object> k
            if type(key) is not str and type(key) is not int:
                raise PayloadError(f"{place}: the key {key!r} is of type {type(key).__name__}; keys have to be str or int")
            check_key(key, place)
            out[key] = self.plain(v, inner, f"{place}[{quoted(key)}]", depth + 1)
        return out


cdef str quoted(object key):
    # `repr` runs signal handlers, and takes longer: those of its types do not
    if type(key) is str and key.isascii() and key.isprintable() and "'" not in key and "\\" not in key:
        return f"'{<str> key}'"
    return str.__repr__(key) if type(key) is str else int.__repr__(key)


cdef bytes scalar_bytes(object value):
    if type(value) not in SCALARS:
        raise PayloadError(unsupported(value))
    # as Python sees them: numpy's own bytes of strings lack what is empty, or NULs at the end
    if isinstance(value, bytes):
        return f"|S{len(value)}".encode() + b"\0" + bytes(value)
    if isinstance(value, str):
        return f"<U{len(value)}".encode() + b"\0" + value.encode("utf-32-le", "surrogatepass")
    return text_of(value.dtype) + b"\0" + value.tobytes()


cdef int check_text(str value, str place) except -1:
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise PayloadError(f"{place}: a str that is not Unicode cannot be sent ({e}); send bytes") from None
    return 0


cdef int check_key(object key, str place) except -1:
    if type(key) is str:
        if not key.isascii():
            check_text(key, f"{place}, a key")
    elif not -(1 << 63) <= key < (1 << 64):
        raise PayloadError(f"{place}: the key {key} does not fit in 64 bits")
    return 0


cdef str unsupported(object value):
    t = type(value)
    name = t.__qualname__ if t.__module__ == "builtins" else f"{t.__module__}.{t.__qualname__}"
    if isinstance(value, ndarray):
        return (f"{name}, a subclass of ndarray, cannot be sent, since what it adds would be lost; "
                "send np.asarray(x), or its parts in a tuple")
    if isinstance(value, generic):
        return (f"{name}, a subclass of numpy's scalars, cannot be sent, since what it adds would be lost; "
                "send x.item(), or x.view((np.void, x.dtype)) of a record")
    for plain in (bytes, bool, int, float, complex, str, tuple, list, dict):
        if isinstance(value, (bytearray, memoryview) if plain is bytes else plain):
            return f"{name} is no plain {plain.__name__}, and cannot be sent as one; send {plain.__name__}(x)"
    return (f"{name} cannot be sent; what can is ndarray, numpy scalars, bytes, str, int, float, complex, bool, None in a "
            "tree of tuple, list and dict")


cdef int begin(palm_batch *b, palm_form form, uint64_t number, uint64_t deadline, path, uint32_t flags) except -1:
    cdef palm_record *r = NULL
    cdef uint64_t component
    cdef palm_err err
    check(palm_batch_record(b, form, number, &r))
    r.deadline = deadline
    r.flags = <uint8_t> flags
    if path is not None:
        for p in path:
            component = p
            err = palm_batch_path(b, &component, 1)
            if err != PALM_OK:
                palm_batch_undo(b)
                check(err)
    return 0


cdef int put_value(palm_batch *b, object value, Py_ssize_t expected, uint64_t number, uint64_t deadline, path,
                   uint32_t flags) except -1:
    """Adds one record with a payload; leaves the batch as it was if that fails. expected: references to `value` that the
    caller knows of, this call's argument not counted (it is borrowed); 0: treat arrays as kept by somebody else; -1: copy
    all arrays into the batch, lend none; NOBODY_ELSE: the caller knows that nobody else has the memory of any."""
    cdef _Tree tree
    t = type(value)
    if t is bytes and PyBytes_GET_SIZE(value) < PALM_NEP49_THRESHOLD:
        begin(b, PALM_BYTES, number, deadline, path, flags)
        try:
            check(palm_batch_body(b, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)))
        except BaseException:
            palm_batch_undo(b)
            raise
        return 0
    if value is NOTHING:
        return begin(b, PALM_NOTHING, number, deadline, path, flags)
    begin(b, PALM_TREE if t is not ndarray and t is not memmap and t is not bytes
          else PALM_BYTES if t is bytes else PALM_ARRAY, number, deadline, path, flags)
    try:
        if t is ndarray or t is memmap:
            try:
                put_array(b, value, expected)
            except PayloadError as e:
                raise PayloadError(f"payload: {e}") from None
        elif t is bytes:
            put_array(b, np.frombuffer(value, np.uint8), -1 if expected < 0 else 0)
        else:
            tree = _Tree.__new__(_Tree)
            tree.batch = b
            put_tree(b, encode(tree.plain(<PyObject *> value, expected, "payload", 0)), expected)
    except CoreError as e:
        palm_batch_undo(b)
        if e.code == "PALM_ELIMIT":
            raise PayloadError("its arrays, dimensions and dtypes take more room than an envelope has for them; send "
                               "fewer, larger arrays") from None
        raise
    except BaseException:
        palm_batch_undo(b)
        raise
    return 0


cdef int put_rows(palm_batch *b, cnp.ndarray rows, Py_ssize_t expected, uint64_t number, uint64_t deadline) except -1:
    """Adds a record that is a message for each row (`are_rows`), numbered from `number` on; as `put_value`."""
    begin(b, PALM_ARRAY, number, deadline, None, 0)
    try:
        put_array(b, rows, expected)
        check(palm_batch_run(b, <uint32_t> cnp.PyArray_DIM(rows, 0)))
    except BaseException:
        palm_batch_undo(b)
        raise
    return 0


cdef bint are_rows(object value) except -1:
    """True of an array whose items may go as one record: arrays, or numpy's own numbers."""
    if type(value) is not ndarray:
        return False
    cdef cnp.ndarray a = value
    if cnp.PyArray_NDIM(a) == 0 or cnp.PyArray_NDIM(a) > PALM_MAX_DIMS:
        return False
    if cnp.PyArray_NDIM(a) == 1 and not (a.dtype.kind in "biufc" and is_own(a.dtype)):
        return False
    try:
        text_of(a.dtype)
    except PayloadError:
        return False
    return True


cdef bint extend_by_array(palm_batch *b, cnp.ndarray a, uint64_t number, uint64_t deadline) noexcept:
    cdef uint8_t *at
    cdef uint64_t size
    if <object> cnp.PyArray_DESCR(a) is not put_dtype or not cnp.PyArray_IS_C_CONTIGUOUS(a):
        return False
    size = cnp.PyArray_NBYTES(a)
    if size >= PALM_NEP49_THRESHOLD:
        return False
    at = palm_batch_extend_array(b, number, deadline, PyBytes_AS_STRING(put_text), PyBytes_GET_SIZE(put_text),
                                 cnp.PyArray_NDIM(a), <int64_t *> cnp.PyArray_DIMS(a), <int64_t *> cnp.PyArray_STRIDES(a), size)
    if at == NULL:
        return False
    memcpy(at, cnp.PyArray_DATA(a), size)
    return True


cdef Py_ssize_t pack_number(object value, uint8_t *to) noexcept:
    """An int or a float as msgpack, in up to 9 bytes; 0: it takes more. In the shortest form, as any other encoder has it."""
    cdef int overflow = 0
    cdef long long whole
    cdef double real
    cdef uint64_t bits
    cdef int n, k
    if type(value) is float:
        real = value
        memcpy(&bits, &real, sizeof(bits))
        n, to[0] = 8, 0xCB
    else:
        whole = PyLong_AsLongLongAndOverflow(value, &overflow)
        bits = <uint64_t> whole
        if overflow:
            return 0
        if -32 <= whole < 128:
            to[0] = <uint8_t> whole
            return 1
        if whole >= 0:
            k = 0 if bits < 1 << 8 else 1 if bits < 1 << 16 else 2 if bits < <uint64_t> 1 << 32 else 3
            to[0] = 0xCC + k
        else:
            k = 0 if whole >= -(1 << 7) else 1 if whole >= -(1 << 15) else 2 if whole >= -(<int64_t> 1 << 31) else 3
            to[0] = 0xD0 + k
        n = 1 << k
    for k in range(n):
        to[1 + k] = <uint8_t> (bits >> 8 * (n - 1 - k))
    return 1 + n


cdef bint extend(palm_batch *b, object value, uint64_t number, uint64_t deadline) noexcept:
    """Makes a message without a path part of the run before it; False: it has to be put."""
    cdef uint8_t[9] number_bytes
    cdef Py_ssize_t n
    t = type(value)
    if t is bytes:
        return PyBytes_GET_SIZE(value) < PALM_NEP49_THRESHOLD and palm_batch_extend(
            b, PALM_BYTES, number, deadline, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    if t is ndarray:
        return extend_by_array(b, value, number, deadline)
    if t is int or t is float:
        n = pack_number(value, number_bytes)
        return n != 0 and palm_batch_extend(b, PALM_TREE, number, deadline, number_bytes, n)
    return False


cdef int put_message(palm_batch *b, object value, Py_ssize_t expected, uint64_t number, uint64_t deadline) except -1:
    """As `put_value`, of a message without a path, which may become part of a run."""
    if extend(b, value, number, deadline):
        return 0
    return put_value(b, value, expected, number, deadline, None, 0)
