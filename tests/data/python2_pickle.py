"""Pickles of protocol 2 byte for byte as Python 2 and its NumPy wrote them: text is bytes, integers have 32 bits."""

import struct

import numpy as np

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def python2_pickle(value: object) -> bytes:
    """str must be latin1."""
    return b"\x80\x02" + _emit(value) + b"."


def _emit(value: object) -> bytes:
    if isinstance(value, str):
        raw = value.encode("latin-1")
        return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_emit, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_emit(key) + _emit(item) for key, item in value.items()) + b"u"
    if isinstance(value, np.ndarray):
        shape = b"(" + b"".join(map(_emit, value.shape)) + b"t"
        name = value.dtype.str[1:]
        dtype = b"cnumpy\ndtype\n" + _emit(name) + b"K\x00K\x01\x87R"
        dtype += b"(K\x03" + _emit(value.dtype.str[0]) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return RECONSTRUCT + b"(K\x01" + shape + dtype + b"\x89" + _emit(value.tobytes().decode("latin-1")) + b"tb"
    raise TypeError(type(value).__name__)
