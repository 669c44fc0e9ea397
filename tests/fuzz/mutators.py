"""Ways to harm a file: by its bytes, by its words, by its fields with everything around them left sound.

Each way is a function (rng, data, other) -> bytes; `other` is another file of the same kind, to splice from. Those of
`STRUCTURED` know a format, so that the harm passes lengths and check sums and reaches the reader behind them.
"""

# ruff: noqa: E501  (lists of odd values)
from __future__ import annotations

import gzip
import json
import math
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np

Rng = np.random.Generator
Way = Callable[[Rng, bytes, bytes], bytes]

HUGE_INTEGERS = (0, -1, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
HOSTILE_WORDS = (
    "nan", "inf", "-inf", "1e400", "-1e308", "9" * 5000, "0x" + "f" * 5000, "-1", "0", "-0.0", "", "n/a", "true", "null",
    "1_000", "1.5", "99999999999999999999", "..", ".", "../../secret.png", "/etc/passwd", "sub/../../secret.png", "a\0b",
    "a/b.png", "b" * 300 + ".png", "c" * 100_000, "\u2028", "\x1b[31mred", "\r", "\n", '"two\nlines"', '"open', "²",
    "\udcff", "\x85", "é", "😀", "[" * 3000, "=cmd()", "test-0001.png ", "TEST-0001.PNG", "$HOME", "~", "C:\\x", "{}",
)  # fmt: skip
"""Numbers that overflow, paths that lead out, lines that break, letters that are digits and are not."""


def pick(rng: Rng, values):
    return values[int(rng.integers(len(values)))]


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# By bytes


def cut(rng, data, _):
    return data[: rng.integers(len(data))]


def flip_bits(rng, data, _):
    harmed = bytearray(data)
    for at in rng.integers(len(harmed), size=rng.integers(1, 9)):
        harmed[at] ^= 1 << rng.integers(8)
    return bytes(harmed)


def flip_head(rng, data, _):
    """Bits of the first bytes, where headers are."""
    harmed = bytearray(data)
    for at in rng.integers(min(len(harmed), 400), size=rng.integers(1, 5)):
        harmed[at] ^= 1 << rng.integers(8)
    return bytes(harmed)


def zero(rng, data, _):
    start, size = rng.integers(len(data)), rng.integers(1, 65)
    return data[:start] + b"\0" * len(data[start : start + size]) + data[start + size :]


def repeat(rng, data, _):
    start, size = rng.integers(len(data)), rng.integers(1, 257)
    return data[:start] + data[start : start + size] * rng.integers(2, 5) + data[start + size :]


def remove(rng, data, _):
    start = rng.integers(len(data))
    return data[:start] + data[start + rng.integers(1, 65) :]


def swap(rng, data, _):
    a, b = sorted(int(i) for i in rng.integers(len(data), size=2))
    size = min(int(rng.integers(1, 17)), b - a)
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def splice(rng, data, other):
    start, there = rng.integers(len(data)), rng.integers(max(1, len(other)))
    piece = other[there : there + rng.integers(1, 257)]
    return data[:start] + piece + data[start + (len(piece) if rng.integers(2) else 0) :]


def grow_a_length(rng, data, _):
    size = pick(rng, (1, 2, 4, 8))
    value = pick(rng, HUGE_INTEGERS) % 256**size
    start = int(rng.integers(len(data)))
    return data[:start] + value.to_bytes(size, pick(rng, ("little", "big"))) + data[start + size :]


def replace_whole(rng, data, _):
    kinds = (
        b"", b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x03\x04", b"\x1f\x8b\x08\0", b"{}", b"[]", b"null", b"\t\t\n",
        b"\x89PNG\r\n\x1a\n", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY", b"[" * 100_000, b'{"a":' * 100_000, b"a" * 1_000_000,
        b"\0" * 1_000_000, rng.bytes(1000), gzip.compress(data, 1),
    )  # fmt: skip
    return pick(rng, kinds)


BYTE_WAYS: tuple[Way, ...] = (
    cut, flip_bits, flip_bits, flip_head, flip_head, zero, repeat, remove, swap, splice, grow_a_length, grow_a_length,
    replace_whole,
)  # fmt: skip


# By words


def word(rng, data, _):
    """Put a hostile word in place of one of the file's words or numbers."""
    text = data.decode("utf-8", "replace")
    found = list(re.finditer(r"[A-Za-z0-9_.+/-]+", text))
    if not found:
        return encoded(pick(rng, HOSTILE_WORDS))
    at = pick(rng, found)
    return encoded(text[: at.start()] + pick(rng, HOSTILE_WORDS) + text[at.end() :])


def recoded(rng, data, _):
    text = data.decode("utf-8", "replace")
    return pick(
        rng,
        (
            b"\xef\xbb\xbf" + data,
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            text.encode("utf-16"),
            text.encode("utf-32"),
            data + b"\xff\xfe\xfd",
            b"\xc3\x28" + data,
            data.rstrip(b"\n"),
            data + b"\n\n\n",
            data.replace(b"\n", b"\0\n", 1),
            data.replace(b"\t", b" "),
            data.replace(b'"', b"'"),
        ),
    )


def lines(rng, data, _):
    """Twice, gone, or elsewhere."""
    found = data.split(b"\n")
    k, other = (int(i) for i in rng.integers(len(found), size=2))
    kind = rng.integers(3)
    if kind == 0:
        found.insert(other, found[k])
    elif kind == 1:
        del found[k]
    else:
        found[k], found[other] = found[other], found[k]
    return b"\n".join(found)


TEXT_WAYS: tuple[Way, ...] = (word, word, word, recoded, lines)


# By fields: tables


def cells(rng, data, _):
    rows = [line.split("\t") for line in data.decode("utf-8", "replace").rstrip("\n").split("\n")]
    kind, row = int(rng.integers(8)), pick(rng, rows)
    column = int(rng.integers(len(rows[0])))
    if kind <= 2:
        row[int(rng.integers(len(row)))] = pick(rng, HOSTILE_WORDS)
    elif kind == 3:
        for every in rows:
            every.append(every[min(column, len(every) - 1)])
    elif kind == 4:
        for every in rows:
            del every[column : column + 1]
    elif kind == 5:
        rows[0][column] = pick(rng, (*rows[0], *HOSTILE_WORDS))
    elif kind == 6:
        row += [pick(rng, HOSTILE_WORDS)] * int(rng.integers(1, 4))
    else:
        hostile = pick(rng, HOSTILE_WORDS)
        for every in rows[1:]:
            every[min(column, len(every) - 1)] = hostile
    return encoded("\n".join("\t".join(every) for every in rows) + "\n")


# By fields: JSON


def _deep(n):
    value: object = 1
    for _ in range(n):
        value = [value]
    return value


HOSTILE_VALUES = (
    None, True, False, 0, -1, 1.5, 1e308, math.nan, math.inf, -math.inf, 10**400, -(10**30), 2**63, "", "x", "..", "nan",
    "../../secret.png", "a\0b", "c" * 5000, "two\nlines", "\x1b[2J", [], {}, [[]], [1, "a"], _deep(50), _deep(500),
    {"a": {}}, [1e400] * 3, "\ud800", "Infinity", [None],
)  # fmt: skip


def json_fields(rng, data, _):
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return data
    holder, key = _place(rng, content)
    if holder is None:
        return json.dumps(pick(rng, HOSTILE_VALUES)).encode()
    kind = rng.integers(6)
    if kind <= 2:
        holder[key] = pick(rng, HOSTILE_VALUES)
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        if isinstance(holder, dict):
            holder[pick(rng, HOSTILE_WORDS)] = pick(rng, HOSTILE_VALUES)
        else:
            holder.append(pick(rng, HOSTILE_VALUES))
    else:
        text = json.dumps(content)
        extra = f"{json.dumps(str(key))}: {json.dumps(pick(rng, HOSTILE_VALUES))}"
        return (text[:-1] + (", " if len(text) > 2 else "") + extra + "}" if text.endswith("}") else text).encode()
    return json.dumps(content).encode()


def _place(rng, content):
    holder, key, value = None, None, content
    while isinstance(value, dict | list) and value and (holder is None or rng.integers(3)):
        holder, key = value, pick(rng, list(value) if isinstance(value, dict) else range(len(value)))
        value = holder[key]
    return holder, key


# By fields: NIfTI

FIELDS = {
    "sizeof_hdr": ("i", 0), "dim_info": ("B", 39), **{f"dim{k}": ("h", 40 + 2 * k) for k in range(8)},
    "intent": ("h", 68), "datatype": ("h", 70), "bitpix": ("h", 72), **{f"pixdim{k}": ("f", 76 + 4 * k) for k in range(8)},
    "vox_offset": ("f", 108), "slope": ("f", 112), "inter": ("f", 116), "xyzt_units": ("B", 123), "qform": ("h", 252),
    "sform": ("h", 254), **{f"quatern{k}": ("f", 256 + 4 * k) for k in range(6)},
    **{f"srow{k}": ("f", 280 + 4 * k) for k in range(12)}, "magic": ("I", 344), "extension": ("I", 348),
}  # fmt: skip
FLOATS = (0.0, -1.0, math.nan, math.inf, -math.inf, 1e30, -1e30, 3.4e38, 1e-40, 352.0, 348.0, 2.0, 1e9)
SHORTS = (0, -1, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 256, 512, 768, 1024, 1280, 1536, 2048, 32767, -32768)


def nifti_header(rng, data, _):
    """Write other values into fields of the header, of a file that may be compressed."""
    packed = data[:2] == b"\x1f\x8b"
    try:
        plain = bytearray(gzip.decompress(data) if packed else data)
    except (OSError, EOFError, zlib.error):
        return data
    if len(plain) < 352:
        return data
    for _ in range(int(rng.integers(1, 4))):
        code, at = FIELDS[pick(rng, list(FIELDS))]
        if code == "f":
            value = pick(rng, FLOATS)
        elif code == "h":
            value = pick(rng, SHORTS)
        else:
            value = pick(rng, HUGE_INTEGERS) % 2 ** (8 * struct.calcsize(code) - (code == "i"))
        struct.pack_into("<" + code, plain, at, value)
    if not rng.integers(6):
        struct.pack_into("<f", plain, int(rng.integers(352, max(353, len(plain) - 4))), pick(rng, FLOATS))
    return gzip.compress(bytes(plain), 1) if packed else bytes(plain)


@cache
def _zeros(megabytes: int) -> bytes:
    return gzip.compress(b"\0" * (megabytes * 2**20), 1)


def prepare() -> None:
    """Make the bombs that many cases share, before anyone's time is taken."""
    _zeros(300)
    _deflated(2**26)


@cache
def _deflated(size: int) -> bytes:
    return zlib.compress(b"\0" * size, 1)


def nifti_bomb(rng, data, _):
    """A small gzip stream that unpacks to much: as values, as a header extension, as what comes after the values."""
    if rng.integers(8):  # each takes as long as a hundred others
        return nifti_header(rng, data, b"")
    try:
        plain = bytearray(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (OSError, EOFError, zlib.error):
        return data
    if len(plain) < 352:
        return data
    kind = int(rng.integers(4))
    if kind == 0:
        struct.pack_into(
            "<8h", plain, 40, 3, *pick(rng, ((1024, 1024, 512), (32767, 32767, 1), (2048, 512, 512))), 1, 1, 1, 1
        )
    elif kind == 1:
        struct.pack_into("<8h", plain, 40, 4, 512, 512, 64, int(rng.integers(2, 3000)), 1, 1, 1)
    elif kind == 2:
        struct.pack_into("<f", plain, 108, float(pick(rng, (2**20, 2**28, 2**29, 2**31))))
        struct.pack_into("<4B2i", plain, 348, 1, 0, 0, 0, pick(rng, (2**20, 2**29 - 352, 2**31 - 16)), 6)
        plain = plain[:360]
    return gzip.compress(bytes(plain), 1) + _zeros(300)


def gzip_members(rng, data, _):
    if data[:2] != b"\x1f\x8b":
        return data
    kind = rng.integers(4)
    if kind == 0:
        return data + data
    if kind == 1:
        return data + rng.bytes(20)
    if kind == 2:
        return data[:-8] + rng.bytes(8)
    return gzip.compress(data, 1)


# By fields: PNG


def png_chunks(rng, data, _):
    """Write other chunks, each with a sound check sum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    if not chunks:
        return data
    kind = int(rng.integers(7))
    if kind == 0 and len(chunks[0][1]) >= 13:
        width, height = (pick(rng, (0, 1, 31, 4096, 16384, 65535, 2**31 - 1, 2**32 - 1)) for _ in range(2))
        chunks[0][1] = struct.pack(">II", width, height) + chunks[0][1][8:]
    elif kind == 1 and len(chunks[0][1]) >= 13:
        chunks[0][1] = chunks[0][1][:8] + bytes(pick(rng, (0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
    elif kind == 2:
        bomb = _deflated(2**26)
        extra = pick(
            rng,
            (
                [b"zTXt", b"hyperdecode\0\0" + bomb],
                [b"iTXt", b"hyperdecode\0\1\0\0\0" + bomb],
                [b"iCCP", b"p\0\0" + bomb],
                [b"tEXt", b"hyperdecode\0" + b"x" * 2_000_000],
                [b"tRNS", rng.bytes(300)],
                [b"PLTE", rng.bytes(int(rng.integers(0, 900)))],
                [b"acTL", struct.pack(">II", 2**31 - 1, 0)],
                [b"fcTL", rng.bytes(26)],
                [b"eXIf", rng.bytes(40)],
                [b"gAMA", rng.bytes(int(rng.integers(0, 5)))],
                [b"pHYs", rng.bytes(int(rng.integers(0, 10)))],
                [b"cHRM", rng.bytes(int(rng.integers(0, 33)))],
                [b"sRGB", b""],
                [rng.bytes(4), rng.bytes(8)],
            ),
        )
        chunks.insert(int(rng.integers(1, len(chunks) + 1)), extra)
    elif kind == 3:
        chunks[0][1] = struct.pack(">II", 4096, 4096) + chunks[0][1][8:]
        chunks[1:] = [[b"IDAT", _deflated(2**26)], [b"IEND", b""]]
    elif kind == 4:
        del chunks[int(rng.integers(len(chunks)))]
    elif kind == 5:
        chunks.insert(int(rng.integers(len(chunks) + 1)), list(pick(rng, chunks)))
    else:
        chosen = pick(rng, chunks)
        chosen[1] = flip_bits(rng, chosen[1], b"") if chosen[1] else b"\0"
    body = b"".join(struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)
    return data[:8] + body


# By fields: safetensors, NumPy


def safetensors_header(rng, data, _):
    size = int.from_bytes(data[:8], "little")
    header = json_fields(rng, data[8 : 8 + size], b"")
    if not rng.integers(3):
        header = re.sub(
            rb'"(F32|F64|I64|F16)"',
            b'"' + pick(rng, (b"BF16", b"F8_E4M3", b"U64", b"BOOL", b"I8", b"F64")) + b'"',
            header,
        )
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def safetensors_values(rng, data, _):
    size = 8 + int.from_bytes(data[:8], "little")
    if size + 4 > len(data):
        return data
    at = int(rng.integers(size, len(data) - 3))
    at -= (at - size) % 4
    return data[:at] + struct.pack("<f", pick(rng, FLOATS)) + data[at + 4 :]


NPY_HEADERS = (
    "{'descr': '|O', 'fortran_order': False, 'shape': (6, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 24), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (24, 6), }",
    "{'descr': '<f4', 'fortran_order': 1, 'shape': (6, 24), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2**40,), }",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (6, 12), }",
    "{'descr': '<U1', 'fortran_order': False, 'shape': (6, 24), }",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (6, 12), }",
    "{'descr': '|b1', 'fortran_order': False, 'shape': (6, 24), }",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (6, 48), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (6.0, 24), }",
    "{'descr': '', 'fortran_order': False, 'shape': (6, 24), }",
    "{'descr': '<f4' * 3, 'fortran_order': False, 'shape': (6, 24), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (6, 24), }",
    "{'descr': '|S0', 'fortran_order': False, 'shape': (99999999999999999999, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904), }",
    "__import__('os').system('touch canary')",
    "(" * 3000,
    "[" * 200 + "]" * 200,
    "{'descr': '<f4', 'fortran_order': False, 'shape': " + "-" * 4000 + "1}",
    "1" * 9000,
    "\0",
    "{}",
    "{'descr': '<f4'",
)  # fmt: skip


def npy_header(rng, data, _):
    text = pick(rng, NPY_HEADERS).encode("latin-1") + b"\n"
    head = 10 + int.from_bytes(data[8:10], "little")
    version = pick(rng, ((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + data[head:]


STRUCTURED: dict[str, tuple[Way, ...]] = {
    "toml": TEXT_WAYS,
    "tsv": (*TEXT_WAYS, cells, cells, cells),
    "json": (*TEXT_WAYS, json_fields, json_fields, json_fields),
    "nii": (nifti_header, nifti_header, nifti_header, nifti_bomb, gzip_members),
    "png": (png_chunks, png_chunks),
    "safetensors": (safetensors_header, safetensors_values),
    "npy": (npy_header,),
    "xml": TEXT_WAYS,
    "bytes": (),
}
"""Kind of file -> the ways that know it."""


def harm(rng: Rng, kind: str, data: bytes, other: bytes) -> bytes:
    """Return the file harmed once or twice, in ways drawn evenly from those of its bytes and of its format."""
    for _ in range(int(rng.integers(1, 3))):
        if not data or len(data) > 2**19:  # a bomb, which is not unpacked here
            return data
        own = STRUCTURED[kind]
        data = pick(rng, own if own and rng.integers(3) else BYTE_WAYS)(rng, data, other or data)
    return data
