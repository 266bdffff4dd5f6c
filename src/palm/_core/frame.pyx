# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, embedsignature=True
"""A payload as bytes and back, without a node: the frame that docs/wire.md describes, with one record, arrays inside.

What a value is after both is what it would be at the other end of a link."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from palm._core.cpalm cimport *
from palm._core.decode cimport get_value
from palm._core.encode cimport put_value
from palm._core.space cimport check

from palm._core.decode import BlockLost
from palm._core.space import CoreError


def pack(value) -> bytes:
    """One value as a frame.

    Raises
    ------
    PayloadError
        It cannot be sent; names the place in the tree.
    """
    cdef palm_batch *batch = NULL
    cdef palm_writer *writer = NULL
    cdef const uint8_t *head = NULL
    cdef const uint8_t *body = NULL
    cdef size_t head_size = 0, body_size = 0
    try:
        check(palm_batch_new(&batch))
        check(palm_writer_new(&writer))
        put_value(batch, value, -1, 0, 0, None, 0)
        check(palm_batch_pack(batch, writer, &head, &head_size, &body, &body_size))
        frame = PyBytes_FromStringAndSize(NULL, head_size + body_size)
        memcpy(PyBytes_AS_STRING(frame), head, head_size)
        if body_size:
            memcpy(PyBytes_AS_STRING(frame) + head_size, body, body_size)
        return frame
    finally:
        palm_writer_free(writer)
        palm_batch_free(batch)


def unpack(bytes frame not None):
    """The value in a frame that `pack` made; its arrays are read-only views of one copy of the bytes.

    Raises
    ------
    ValueError
        It is no such frame, or a damaged one. Nothing in it is trusted.
    """
    cdef palm_event event
    try:
        check(palm_event_unpack(PyBytes_AS_STRING(frame), len(frame), &event))
    except CoreError as e:
        raise ValueError(f"not a frame: {e}") from None
    try:
        if event.envelope.n_records != 1 or event.envelope.records[0].form > PALM_TREE:
            raise ValueError("not a frame with one value")
        return get_value(&event, 0, [None])
    except BlockLost as e:
        raise ValueError(f"the value cannot be read: {e}") from None
    finally:
        palm_event_done(&event)
