"""Archives from outside: every member is looked at before the first is written, and only wanted ones are.

Refused with a ``ValueError``, whole: links, devices and pipes, absolute names, names with ``..``, two members of one name, members that
claim or give more bytes than the limit.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.files import replacing

PIECE = 1 << 20
MAX_BYTES = 1 << 30
MAX_MEMBERS = 100_000
MAX_CONTENTS = 16 << 20
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError)


def unpack(archive: Path, into: Path, wanted: Callable[[str], str | None], max_bytes: int = MAX_BYTES) -> list[Path]:
    """Writes each member for which ``wanted(name)`` gives a path below ``into``. Returns the paths, sorted."""
    written = []
    for target, read in members(archive, wanted, max_bytes):
        with replacing(into / target) as temporary, read() as source, temporary.open("wb") as stream:
            _copy(archive, source, stream, max_bytes)
        written.append(into / target)
    return sorted(written)


def members(archive: Path, wanted: Callable[[str], str | None], max_bytes: int = MAX_BYTES) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(path that ``wanted`` gave, function that opens the member) of each wanted member, after all were checked."""
    with _opened(archive) as (names, open_member):
        targets: dict[str, str] = {}
        total = 0
        for name, size, plain in names:
            _check(archive, name, plain)
            total += size
            target = wanted(name)
            if target is None:
                continue
            _check(archive, target, True)
            if target in targets.values():
                raise ValueError(f"{archive}: holds two files named {target!r}; it is not unpacked")
            targets[name] = target
        if total > max_bytes:
            raise ValueError(f"{archive}: unpacks to {total} bytes, more than the limit of {max_bytes}; it is not unpacked")
        for name, target in targets.items():
            yield target, lambda name=name: open_member(name)


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[tuple[str, int, bool]], Callable[[str], Any]]]:
    """([(name, size, whether it is a plain file or nothing but a folder)], opener)."""
    try:
        if zipfile.is_zipfile(archive):
            _check_contents(archive)
            with zipfile.ZipFile(archive) as zipped:
                if len(zipped.filelist) > MAX_MEMBERS:
                    raise ValueError(f"{archive}: holds more than {MAX_MEMBERS} files; it is not unpacked")
                yield [(info.filename, info.file_size, _plain_zip(info)) for info in zipped.infolist() if not info.is_dir()], zipped.open
        else:
            with tarfile.open(archive) as tarred:
                infos = _limited(archive, tarred)
                by_name = {info.name: info for info in infos}
                yield [(i.name, i.size, i.isreg()) for i in infos if not i.isdir()], lambda name: tarred.extractfile(by_name[name])
    except DAMAGED as error:
        raise ValueError(f"{archive}: is damaged ({error}); remove it, then call again") from error


def _check_contents(archive: Path) -> None:
    """The list of a zip's members is read whole when it is opened; how long it is stands behind it, read as ``zipfile`` reads it."""
    with archive.open("rb") as stream:
        record = zipfile._EndRecData(stream)
    if record and record[5] > MAX_CONTENTS:
        raise ValueError(f"{archive}: lists its files in {record[5]} bytes, more than {MAX_CONTENTS}; it is not unpacked")


def _limited(archive: Path, tarred: tarfile.TarFile) -> list[tarfile.TarInfo]:
    found = []
    for info in tarred:
        found.append(info)
        if len(found) > MAX_MEMBERS:
            raise ValueError(f"{archive}: holds more than {MAX_MEMBERS} files; it is not unpacked")
    return found


def _plain_zip(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return kind in (0, stat.S_IFREG) and not info.flag_bits & 1


def _check(archive: Path, name: str, plain: bool) -> None:
    parts = PurePosixPath(name).parts
    if not plain:
        raise ValueError(f"{archive}: {name!r} is a link, a device or encrypted, so nothing is unpacked")
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or parts[0].endswith(":"):
        raise ValueError(f"{archive}: the name {name!r} leads out of the folder, so nothing is unpacked")


def _copy(archive: Path, source: IO[bytes], stream: IO[bytes], max_bytes: int) -> None:
    total = 0
    try:
        while piece := source.read(PIECE):
            total += len(piece)
            if total > max_bytes:
                raise ValueError(f"{archive}: a file in it gives more than {max_bytes} bytes; it is not unpacked")
            stream.write(piece)
    except (*DAMAGED, zlib.error) as error:
        raise ValueError(f"{archive}: is damaged ({error}); remove it, then call again") from error
