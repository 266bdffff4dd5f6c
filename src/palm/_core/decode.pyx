# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True
"""Records to Python values: arrays as views of what was received, trees, numbers.

docs/wire.md describes what comes in; whatever does not agree with it is a `BlockLost`, since a stranger may have sent it."""

import struct as _struct

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_FromDouble
from cpython.long cimport PyLong_FromLong, PyLong_FromLongLong, PyLong_FromUnsignedLongLong
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

cimport numpy as cnp
import msgspec
import numpy as np

from palm._core import dtypes

from palm._core.cpalm cimport *
from palm._core.space cimport Holder

cnp.import_array()

cdef extern from *:
    """
    #include <numpy/arrayobject.h>
    static PyObject *new_array(PyObject *dtype, int n, const npy_intp *shape, const npy_intp *strides, void *data, int flags)
    {
        Py_INCREF(dtype); /* stolen */
        return PyArray_NewFromDescr(&PyArray_Type, (PyArray_Descr *)dtype, n, shape, strides, data, flags, NULL);
    }
    static PyObject *new_scalar(void *data, PyObject *dtype)
    {
        return PyArray_Scalar(data, (PyArray_Descr *)dtype, NULL);
    }
    static int set_base(PyObject *array, PyObject *base)
    {
        Py_INCREF(base); /* stolen, on failure too */
        return PyArray_SetBaseObject((PyArrayObject *)array, base);
    }
    """
    object new_array(object dtype, int n, const cnp.npy_intp *shape, const cnp.npy_intp *strides, void *data, int flags)
    int set_base(object array, object base) except -1
    object new_scalar(void *data, object dtype)


class BlockLost(RuntimeError):
    """An array was offered that cannot be taken any more, or not be mapped from here."""


def want_of_memory(error):
    """The MemoryError for which a payload could not be read: there will be no more room the next time. None: it is another
    error."""
    return error.__cause__ if isinstance(error, BlockLost) and isinstance(error.__cause__, MemoryError) else None


class _Nothing:
    def __repr__(self):
        return "NOTHING"


NOTHING = _Nothing()  # the value of an empty message


# ------------------------------------------------------------------------------------------------------------ dtypes

cdef dict known = {}   # bytes -> dtype


def dtype_of_text(bytes text not None):
    """The inverse of `dtype_text`; ValueError if it is none, or one that holds pointers."""
    if len(text) > PALM_MAX_TEXT:
        raise ValueError(f"the text of a dtype takes {len(text)} bytes")
    return dtypes.of_text(text.decode())


# Those of the array before: numpy's own dtypes are single objects, which never change.
cdef bytes got_text = None
cdef object got_dtype = None


cdef object dtype_of(bytes text):
    dtype = known.get(text)
    if dtype is None:
        dtype = dtype_of_text(text)
        if len(known) >= MOST_KNOWN:
            known.clear()
        known[text] = dtype
    return dtype


cdef object dtype_at(const palm_text *text):
    global got_text, got_dtype
    cdef bytes text_now
    if got_text is None or text.size != PyBytes_GET_SIZE(got_text) or memcmp(text.data, PyBytes_AS_STRING(got_text), text.size):
        text_now = text.data[:text.size]
        dtype_now = dtype_of(text_now)
        got_text, got_dtype = text_now, dtype_now
    return got_dtype


# ----------------------------------------------------------------------------------------------------------- values

cdef uint64_t no_bytes = 0


cdef int check_reach(const palm_event *event, uint32_t i, cnp.dtype dtype) except -1:
    """BlockLost if an element of array i ends beyond its bytes: where elements begin, the reader has checked."""
    cdef const palm_array *a = &event.envelope.arrays[i]
    cdef const int64_t *dims = event.envelope.dims + a.dims_at
    cdef int64_t low = 0, high = 0, step  # bounded by the reader's check of extents
    cdef int k
    for k in range(a.ndim):
        if dims[k] == 0:
            return 0
        step = (dims[k] - 1) * dims[a.ndim + k]
        if step < 0:
            low += step
        else:
            high += step
    if (<int64_t> a.origin + low < 0
            or <uint64_t> (<int64_t> a.origin + high + cnp.PyDataType_ELSIZE(dtype)) > a.size):
        raise BlockLost(f"an array of dtype {dtype} with shape {tuple([dims[k] for k in range(a.ndim)])} reaches beyond its {a.size} bytes")
    return 0


cdef object get_array(palm_event *event, uint32_t i, list holders):
    """A read-only view of array i of the envelope, which keeps its memory."""
    cdef const palm_array *a = &event.envelope.arrays[i]
    cdef const int64_t *dims = event.envelope.dims + a.dims_at
    cdef cnp.npy_intp shape[64]
    cdef cnp.npy_intp strides[64]
    cdef int k
    cdef const uint8_t *data
    cdef Holder holder
    cdef palm_taken *taken
    cdef const palm_text *text = &event.envelope.dtypes[a.dtype]
    cdef cnp.dtype dtype = dtype_at(text)
    check_reach(event, i, dtype)
    for k in range(a.ndim):
        shape[k] = dims[k]
        strides[k] = dims[a.ndim + k]
    if a.place == PALM_IN_BLOCK:
        taken = &event.blocks[a.source]
        if holders[a.source] is None:
            if taken.err != PALM_OK:
                raise BlockLost((<bytes> palm_strerror(taken.err)).decode())
            palm_block_hold(taken.arena, taken.index)
            holders[a.source] = Holder.of_block(taken.arena, taken.index)
        holder = holders[a.source]
        data = taken.first
    else:
        if holders[len(holders) - 1] is None:
            holders[len(holders) - 1] = Holder.of_frames(event.frames)
        holder = holders[len(holders) - 1]
        data = event.parts[a.source] if a.place == PALM_IN_PART else event.envelope.body
    if data == NULL:  # nothing but empty arrays: for NULL, numpy would allocate
        data = <const uint8_t *> &no_bytes
    arr = new_array(dtype, a.ndim, shape, strides, <void *> (data + a.start + a.origin), 0)
    set_base(arr, holder)
    return arr


cdef object new_view(object dtype, int n, const Py_ssize_t *shape, const Py_ssize_t *strides, void *data, object base):
    """A read-only array over memory that `base` keeps."""
    arr = new_array(dtype, n, <const cnp.npy_intp *> shape, <const cnp.npy_intp *> strides, data, 0)
    set_base(arr, base)
    return arr


cdef object scalar_at(void *data, object dtype):
    return new_scalar(data, dtype)


cdef object scalar_of(object dtype, bytes raw):
    if len(raw) != dtype.itemsize:
        raise BlockLost(f"a scalar of dtype {dtype} that takes {len(raw)} bytes")
    # an array would drop NULs at the end, and has no elements without bytes
    if dtype.kind == "S":
        return np.bytes_(raw)
    if dtype.kind == "U":
        return np.str_(raw.decode("utf-32-be" if dtype.str[0] == ">" else "utf-32-le", "surrogatepass"))
    return np.frombuffer(raw, dtype, 1)[0] if raw else np.zeros(1, dtype)[0]


cdef object octets_in(object array):
    if array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
        raise BlockLost(f"bytes as an array of {array.ndim} dimensions, dtype {array.dtype}, strides {array.strides}")
    return array


cdef bytes bytes_in(object array):
    return octets_in(array).tobytes()


cdef class _Reader:
    """Makes a tree of what msgpack found."""
    cdef palm_event *event
    cdef const palm_record *record
    cdef list holders
    cdef object decoder
    cdef int depth
    cdef uint64_t body_end     # what bytes out of band may begin with: they are copied, so no two have the same
    cdef uint32_t next_source

    cdef int claim(self, const palm_array *a) except -1:
        if a.start < self.body_end if a.place == PALM_IN_BODY else a.source < self.next_source:
            raise BlockLost("bytes of which others are part, or that are not in the order of the tree")
        if a.place == PALM_IN_BODY:
            self.body_end = a.start + a.size
        else:
            self.next_source = a.source + 1
        return 0

    def ext(self, int code, data):
        if code == EXT_ARRAY or code == EXT_BYTES:
            i = int.from_bytes(data, "big") if len(data) == 4 else self.record.array_count
            if i >= self.record.array_count:
                raise BlockLost(f"the tree names array {i}, but its record has {self.record.array_count}")
            if code == EXT_BYTES:
                self.claim(&self.event.envelope.arrays[self.record.array_at + <uint32_t> i])
            value = get_array(self.event, self.record.array_at + <uint32_t> i, self.holders)
            return value if code == EXT_ARRAY else bytes_in(value)
        if code == EXT_TUPLE:
            self.depth += 1
            if self.depth > PALM_MAX_DEPTH:
                raise BlockLost(f"a tree nested deeper than {PALM_MAX_DEPTH}")
            value = self.decoder.decode(data)
            self.depth -= 1
            if type(value) is not list:
                raise BlockLost("a tuple that is not an array in msgpack")
            return tuple(value)
        if code == EXT_SCALAR:
            text, _, raw = bytes(data).partition(b"\0")
            return scalar_of(dtype_of(text), raw)
        if code == EXT_COMPLEX:
            if len(data) != 16:
                raise BlockLost("a complex number that does not take 16 bytes")
            return complex(*_struct.unpack(">dd", data))
        if code == EXT_INT:
            return int.from_bytes(data, "big", signed=True)
        raise BlockLost(f"a tree with the unknown extension type {code}")


cdef bint is_plain_number(const uint8_t *body, uint64_t size) noexcept:
    """Whether a tree is an int of up to 64 bits, or a float."""
    cdef uint8_t kind = body[0] if size else 0xC1
    if kind < 0x80 or kind >= 0xE0:
        return size == 1
    if 0xCC <= kind <= 0xD3:
        return size == 1 + (1 << ((kind - 0xCC) & 3))
    return kind == 0xCB and size == 9


cdef object plain_number(const uint8_t *body):
    """Its value. https://github.com/msgpack/msgpack/blob/master/spec.md has the formats."""
    cdef uint8_t kind = body[0]
    cdef uint64_t bits = 0
    cdef double real
    cdef int k, n
    if kind < 0x80:
        return PyLong_FromLong(kind)
    if kind >= 0xE0:
        return PyLong_FromLong(<long> kind - 256)
    n = 8 if kind == 0xCB else 1 << ((kind - 0xCC) & 3)
    for k in range(1, n + 1):
        bits = bits << 8 | body[k]
    if kind == 0xCB:
        memcpy(&real, &bits, sizeof(real))
        return PyFloat_FromDouble(real)
    if kind < 0xD0:
        return PyLong_FromUnsignedLongLong(bits)
    k = 64 - 8 * n
    return PyLong_FromLongLong(<int64_t> (bits << k) >> k)


cdef object number_of(const uint8_t *body, uint64_t size):
    """A tree that is one numpy number, in the byte order of this machine; None: it is another one. Many results of batch
    functions are such, and the general way makes half a dozen objects for each."""
    cdef const uint8_t *data = body + 3
    cdef const uint8_t *end
    cdef uint8_t[16] aligned
    # msgpack: ext 8, its size, its type
    if size < 3 or body[0] != 0xC7 or body[2] != EXT_SCALAR or body[1] != size - 3:
        return None
    end = <const uint8_t *> memchr(data, 0, size - 3)
    if end == NULL:
        return None
    dtype = dtype_of((<const char *> data)[:end - data])
    size = body + size - (end + 1)
    if dtype.kind not in "biufc" or not dtype.isnative or <uint64_t> dtype.itemsize != size or size > sizeof(aligned):
        return None
    memcpy(aligned, end + 1, size)
    return new_scalar(aligned, dtype)


cdef enum:
    LARGE = 65536  # bytes, of which a copy takes some 5 us, and a memoryview 0.2


cdef object body_of(palm_event *event, const palm_record *r, list holders):
    """For msgspec alone. In place where it is large, since what is made of it takes as much memory again; but what others
    may write to is copied."""
    cdef char *body = <char *> event.envelope.body + r.body_at
    cdef uint32_t last = r.array_at + r.array_count - 1
    if not r.body_size and r.array_count:
        large = octets_in(get_array(event, last, holders))
        return large.tobytes() if event.envelope.arrays[last].place == PALM_IN_BLOCK else large
    if r.body_size < <uint64_t> LARGE:
        return PyBytes_FromStringAndSize(body, r.body_size)
    return PyMemoryView_FromMemory(body, r.body_size, PyBUF_READ)


# A decoder takes longer to make than a small tree to read: those that are not at work wait here, two as a rule.
cdef list _readers = []


cdef object get_tree(palm_event *event, const palm_record *r, list holders):
    cdef _Reader reader
    if is_plain_number(event.envelope.body + r.body_at, r.body_size):
        return plain_number(event.envelope.body + r.body_at)
    number = number_of(event.envelope.body + r.body_at, r.body_size)
    if number is not None:
        return number
    if _readers:
        reader = _readers.pop()
    else:
        reader = _Reader.__new__(_Reader)
        reader.decoder = msgspec.msgpack.Decoder(ext_hook=reader.ext)
    reader.event, reader.record, reader.holders, reader.depth = event, r, holders, 0
    reader.body_end, reader.next_source = 0, 0
    try:
        return reader.decoder.decode(body_of(event, r, holders))
    finally:
        reader.event, reader.record, reader.holders = NULL, NULL, None
        _readers.append(reader)


cdef bytes get_bytes(palm_event *event, const palm_record *r, list holders):
    """Those of form BYTES: in the body, or as an array of bytes, one after the other."""
    if r.array_count == 0:
        return PyBytes_FromStringAndSize(<const char *> event.envelope.body + r.body_at, r.body_size)
    return bytes_in(get_array(event, r.array_at, holders))


cdef object get_value(palm_event *event, uint32_t i, list holders):
    """The payload of record i. holders: one place for each block and one for the frames, None at first.

    Raises BlockLost if it cannot be read, for whatever reason: who has sent it is a stranger, perhaps. Its cause is a
    MemoryError where there was no room for it here."""
    cdef const palm_record *r = &event.envelope.records[i]
    try:
        if r.form == PALM_BYTES:
            return get_bytes(event, r, holders)
        if r.form == PALM_ARRAY:
            value = get_array(event, r.array_at, holders)
            return value[()] if event.envelope.arrays[r.array_at].flags & PALM_ARRAY_SCALAR else value
        if r.form == PALM_TREE or r.form == PALM_ERROR or r.form == PALM_REDUCED:
            return get_tree(event, r, holders)
    except BlockLost:
        raise
    except Exception as e:
        raise BlockLost(f"the payload cannot be read: {e!r}") from (e if isinstance(e, MemoryError) else None)
    return NOTHING
