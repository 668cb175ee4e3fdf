"""Compresses and decompresses blocks of output: by the standard library's zstd where Python has one, else by zstandard.

Each block is a frame of its own with a checksum, so `zstd -d` reads a file of them. Imports come with the first call.
"""

from __future__ import annotations

import sys


def compress(data: bytes) -> bytes:
    """One frame with this content."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        parameters = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.checksum_flag: 1}
        return zstd.compress(data, options=parameters)
    import zstandard

    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)


def decompress(frame: bytes, length: int) -> bytes:
    """The content of one frame. Raises ValueError unless it is sound and has this length, whatever the frame says."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        reader = zstd.ZstdDecompressor()
        try:
            data = reader.decompress(frame, max_length=length + 1)
        except zstd.ZstdError as error:
            raise ValueError(str(error)) from None
        if len(data) != length or not reader.eof:
            raise ValueError(f"it has not {length} bytes")
        return data
    import zstandard

    try:
        if zstandard.frame_content_size(frame) != length:
            raise ValueError(f"it has not {length} bytes")
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
