"""Compressed streams as plain ones, read to their end, so that every checksum is verified."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from typing import Any

from isal import igzip_lib

MAX_BEHIND = 1 << 20
INPUT = 1 << 16


class Inflated(io.RawIOBase):
    """What a decompressor of one stream makes of a file; behind the stream only zeros may stand."""

    def __init__(self, source: Any, engine: Any) -> None:
        super().__init__()
        self.source, self.engine, self.ahead = source, engine, b""

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self.engine.eof:
            ended = False
            if not self.ahead and getattr(self.engine, "needs_input", True):
                self.ahead = self.source.read(1 << 16)
                ended = not self.ahead
            data = self.engine.decompress(self.ahead, len(into))
            self.ahead = getattr(self.engine, "unconsumed_tail", b"")
            if data:
                into[: len(data)] = data
                return len(data)
            if ended and not self.engine.eof:
                raise EOFError
        rest = self.engine.unused_data + self.source.read(MAX_BEHIND)
        if any(rest) or len(rest) >= MAX_BEHIND:
            raise gzip.BadGzipFile
        return 0


class Gunzipped(io.RawIOBase):
    """What the members of a gzip file hold, one after the other; length and checksum of each are verified. Between and behind them only
    zeros may stand. ISA-L inflates, twice as fast as zlib. Closing it closes ``source``."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source, self.engine, self.ahead, self.members = source, None, b"", 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.source.close()
        super().close()

    def readinto(self, into: Any) -> int:
        while self.engine is not None or self._begin():
            if not self.ahead and self.engine.needs_input:
                self.ahead = self.source.read(INPUT)
                if not self.ahead:
                    raise EOFError
            data, self.ahead = self.engine.decompress(self.ahead, len(into)), b""
            if self.engine.eof:
                self.engine, self.ahead = None, self.engine.unused_data
            if data:
                into[: len(data)] = data
                return len(data)
        return 0

    def _begin(self) -> bool:
        """Whether another member follows."""
        while not (start := self.ahead.lstrip(b"\0") if self.members else self.ahead):
            self.ahead = self.source.read(INPUT)
            if not self.ahead:
                return False
        self.ahead = start + (self.source.read(INPUT) if len(start) < 2 else b"")
        if self.ahead[:2] != b"\x1f\x8b":
            raise gzip.BadGzipFile
        self.engine = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self.members += 1
        return True


def unzipped(stream: Any) -> Inflated:
    """zlib, as MetaImage has it, or gzip."""
    return Inflated(stream, zlib.decompressobj(47))


def unbzipped(stream: Any) -> Inflated:
    return Inflated(stream, bz2.BZ2Decompressor())
