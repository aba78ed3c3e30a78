"""ClickHouse's own compression of HTTP bodies (``compress=1`` and ``decompress=1``): a row of blocks.

A block is a checksum (CityHash128 of the rest), the method, the size of the block from the method on, the size of its
data, and the data. See src/Compression/CompressedReadBufferBase.cpp and LZ4_Lz4.h of ClickHouse.
"""

import struct
import sys

from service.errors import BadRequest, BodyTooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHECKSUM = struct.Struct("<QQ")  # the upper half comes first
_HEAD = struct.Struct("<BII")
_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90
#: Bytes of data in a block of ours, as in those of ClickHouse.
BLOCK_BYTES = 2**20


def pack(data: bytes) -> bytes:
    """The data as blocks."""
    from lz4 import block

    packed = []
    for start in range(0, len(data), BLOCK_BYTES):
        piece = data[start : start + BLOCK_BYTES]
        body = block.compress(piece, store_size=False)
        rest = _HEAD.pack(_LZ4, _HEAD.size + len(body), len(piece)) + body
        packed.append(_checksum(rest) + rest)
    return b"".join(packed)


def unpack(data: bytes, limit: int) -> bytes:
    """The data of the blocks, ``limit`` bytes at most. Raises BadRequest or BodyTooLarge."""
    from lz4 import block

    parts: list[bytes] = []
    place = size = 0
    while place < len(data):
        rest = data[place + _CHECKSUM.size :]
        if len(rest) < _HEAD.size:
            raise BadRequest("A compressed block is cut short")
        method, length, plain = _HEAD.unpack_from(rest)
        size += plain
        if size > limit:
            raise BodyTooLarge(f"The unpacked body is larger than {limit} bytes")
        rest = rest[:length]
        if len(rest) < max(length, _HEAD.size) or _checksum(rest) != data[place : place + _CHECKSUM.size]:
            raise BadRequest("A compressed block is cut short, or its checksum is wrong")
        body = rest[_HEAD.size :]
        try:
            if method == _LZ4:
                parts.append(block.decompress(body, uncompressed_size=plain))
            elif method == _ZSTD:
                parts.append(zstd.ZstdDecompressor().decompress(body, plain))
            elif method == _NONE:
                parts.append(body)
            else:
                raise BadRequest(f"The compression method {method:#x} is not known")
        except (block.LZ4BlockError, zstd.ZstdError):
            raise BadRequest("A compressed block can't be unpacked") from None
        place += _CHECKSUM.size + length
    return b"".join(parts)


def _checksum(rest: bytes) -> bytes:
    from clickhouse_cityhash.cityhash import CityHash128

    value = int(CityHash128(rest))
    return _CHECKSUM.pack(value >> 64, value & (1 << 64) - 1)
