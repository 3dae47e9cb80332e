"""The store: one compressed volume a scan, of which a crop reads only the blocks that it touches.

``store/<first two characters of scan_id>/`` holds, for each scan,

- ``<scan_id>.b2nd``: voxels (C, D, H, W) int16, blosc2 LZ4 with bitshuffle, blocks of 16 x 16 x 32 in chunks of at most 64^3 of
  one channel;
- ``<scan_id>.body.b2nd``: (D, H, W) uint8, 1 inside the body;
- ``<scan_id>.<task>.labels.b2nd``: (D, H, W) uint8;
- ``<scan_id>.fingerprint.b2nd``: bytes by which twins are found (``volumes.fingerprint``), if the writer has them;
- ``<scan_id>.json``: shape, spacing_mm, affine, window_low, window_high, slope, inter, what else the writer says, and ``files``: the
  sha256 of each of the files above. It is removed first and written last, so a scan without it is not there.

Equal arrays give equal bytes.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import alone_in, digest, read_json, write_bytes, write_json
from pipeline.volumes.bricks import Bricks
from pipeline.volumes.packing import packed

OPENED = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NEEDED = ("spacing_mm", "affine", "window_low", "window_high", "slope", "inter")


class Store:
    """Volumes by scan id below a folder. Reading is safe from several threads and from forked workers. The first read of a file checks its
    digest."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._arrays: OrderedDict[tuple[str, str], Bricks] = OrderedDict()  # by scan and name
        self._metas: dict[str, dict[str, Any]] = {}
        self._proved: dict[Path, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def write(
        self,
        scan_id: str,
        voxels: np.ndarray,
        body: np.ndarray,
        meta: Mapping[str, Any],
        labels: Mapping[str, np.ndarray] | None = None,
        fingerprint: np.ndarray | None = None,
    ) -> None:
        """voxels (C, D, H, W) int16, body (D, H, W) bool, labels by task (D, H, W) uint8, fingerprint (n,) uint8.

        Replaces whatever was there.
        """
        if voxels.dtype != np.int16 or voxels.ndim != 4 or body.shape != voxels.shape[1:]:
            raise ValueError(f"{scan_id}: voxels must be (C, D, H, W) int16 and body (D, H, W), not {voxels.shape} and {body.shape}")
        missing = [key for key in _NEEDED if key not in meta]
        if missing:
            raise ValueError(f"{scan_id}: its meta lacks {', '.join(missing)}")
        with alone_in(self._meta_path(scan_id).parent):
            self.remove(scan_id)
            try:
                files = {"": self._write_array(scan_id, "", voxels)}
                files["body"] = self._write_array(scan_id, "body", body.astype(np.uint8))
                if fingerprint is not None:
                    files["fingerprint"] = self._write_array(scan_id, "fingerprint", fingerprint)
                for task, values in sorted((labels or {}).items()):
                    files[f"{task}.labels"] = self._write_labels(scan_id, task, values, voxels.shape)
                write_json(self._meta_path(scan_id), {**meta, "shape": list(voxels.shape), "files": files})
            except BaseException:
                self.remove(scan_id)  # a full disk is not filled further with volumes that are not whole
                raise

    def write_labels(self, scan_id: str, task: str, labels: np.ndarray) -> None:
        """labels (D, H, W) uint8 on the grid of the stored volume."""
        with alone_in(self._meta_path(scan_id).parent):
            self._metas.pop(scan_id, None)
            meta = self.meta(scan_id)
            sha = self._write_labels(scan_id, task, labels, meta["shape"])
            write_json(self._meta_path(scan_id), {**meta, "files": {**meta["files"], f"{task}.labels": sha}})
            self._metas.pop(scan_id, None)

    def remove(self, scan_id: str) -> None:
        """Removes every file of a scan, first the one that says it is there; absent is fine."""
        folder = self._meta_path(scan_id).parent
        self._meta_path(scan_id).unlink(missing_ok=True)
        for path in sorted(folder.glob(f"{scan_id}.*")) + sorted(folder.glob(f".{scan_id}.*.tmp")):
            path.unlink(missing_ok=True)
        with self._lock:
            self._metas.pop(scan_id, None)
            for which in [which for which in self._arrays if which[0] == scan_id]:
                del self._arrays[which]

    def __contains__(self, scan_id: str) -> bool:
        return self._meta_path(scan_id).exists()

    def __iter__(self) -> Iterator[str]:
        """Ids of all whole scans, sorted."""
        return iter(sorted(path.stem for path in self.root.glob("??/*.json")))

    def names(self) -> set[str]:
        """Ids that have any file, whole or not, finished or temporary."""
        return {path.name.lstrip(".").partition(".")[0] for path in self.root.glob("??/*")}

    def meta(self, scan_id: str) -> dict[str, Any]:
        """What ``<scan_id>.json`` says; an absent scan is a ``ValueError``."""
        if scan_id not in self._metas:
            path = self._meta_path(scan_id)
            if not path.exists():
                raise ValueError(f"{path}: the store has no such scan; run `vesalius preprocess` again")
            self._metas[scan_id] = read_json(path)
        return self._metas[scan_id]

    def shape(self, scan_id: str) -> tuple[int, int, int, int]:
        """(C, D, H, W)."""
        return tuple(self.meta(scan_id)["shape"])

    def read(self, scan_id: str) -> np.ndarray:
        """(C, D, H, W) int16."""
        return self._open(scan_id, "").whole()

    def body(self, scan_id: str) -> np.ndarray:
        """(D, H, W) bool."""
        return self._open(scan_id, "body").whole().view(bool)

    def tasks(self, scan_id: str) -> tuple[str, ...]:
        """Tasks for which the scan has labels."""
        return tuple(sorted(name.removesuffix(".labels") for name in self.meta(scan_id)["files"] if name.endswith(".labels")))

    def labels(self, scan_id: str, task: str) -> np.ndarray:
        """(D, H, W) uint8."""
        return self._open(scan_id, f"{task}.labels").whole()

    def fingerprint(self, scan_id: str) -> np.ndarray:
        """(n,) uint8."""
        return self._open(scan_id, "fingerprint").whole()

    def crop(
        self,
        scan_id: str,
        low: Sequence[int],
        size: Sequence[int],
        fill: int | Sequence[int] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(C, *size) int16 that begins at index ``low`` (3,); what lies outside is ``fill``, by default each channel's ``window_low``.

        Read into ``out`` if that is given. Decoding runs without Python's lock.
        """
        return _crop(self._open(scan_id, ""), low, size, lambda: self._fill(scan_id, fill), out)

    def crop_labels(self, scan_id: str, task: str, low: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """(*size) uint8; what lies outside is 0."""
        return _crop(self._open(scan_id, f"{task}.labels"), low, size, lambda: np.uint8(0), None)

    def missing(self, scan_id: str) -> list[Path]:
        """Files of a scan that are not where its meta says; nothing is read."""
        return [path for name in self.meta(scan_id)["files"] if not (path := self._path(scan_id, name)).exists()]

    def verify(self, scan_id: str) -> list[str]:
        """What is wrong with the files of a scan, a line each; empty if all is well."""
        try:
            files = self.meta(scan_id)["files"]
        except (ValueError, KeyError) as error:
            return [f"{scan_id}: {error}"]
        problems = []
        for name, expected in sorted(files.items()):
            path = self._path(scan_id, name)
            if not path.exists():
                problems.append(f"{path}: is missing")
            elif digest(path) != expected:
                problems.append(f"{path}: its bytes are not those that were written")
        return problems

    def _fill(self, scan_id: str, fill: int | Sequence[int] | None) -> np.ndarray:
        """(C or 1, 1, 1, 1) int16."""
        value = self.meta(scan_id)["window_low"] if fill is None else fill
        value = np.clip(np.rint(np.atleast_1d(np.asarray(value, dtype=np.float64))), -32768, 32767).astype(np.int16)
        return value[:, None, None, None]

    def _open(self, scan_id: str, name: str) -> Bricks:
        which = scan_id, name
        with self._lock:
            if which in self._arrays:
                self._arrays.move_to_end(which)
                return self._arrays[which]
        path = self._path(scan_id, name)
        self._prove(scan_id, name, path)
        array = Bricks(path)
        with self._lock:
            self._arrays[which] = array
            while len(self._arrays) > OPENED:
                self._arrays.popitem(last=False)
        return array

    def _prove(self, scan_id: str, name: str, path: Path) -> None:
        """Whether a file's bytes are those that were written: asked once by each process and for each file (0.6 GB/s), since LZ4 knows no
        checksum and a flipped bit would only be other voxels."""
        if not path.exists():
            raise ValueError(f"{path}: the store has no such file; run `vesalius preprocess` again")
        state = path.stat()
        now = (state.st_ino, state.st_size, state.st_mtime_ns)
        if self._proved.get(path) == now:
            return
        found = digest(path)
        if found != self.meta(scan_id)["files"].get(name):
            self._metas.pop(scan_id, None)  # another process may have written the scan anew
        if found != self.meta(scan_id)["files"].get(name):
            raise ValueError(f"{path}: its bytes are not those that were written; `vesalius verify --remove`, then preprocess again")
        self._proved[path] = now

    def _write_labels(self, scan_id: str, task: str, labels: np.ndarray, shape: Sequence[int]) -> str:
        if not _NAME.fullmatch(task) or labels.dtype != np.uint8 or labels.shape != tuple(shape[1:]):
            raise ValueError(f"{scan_id}: labels of {task!r} must be uint8 of shape {tuple(shape[1:])}, not {labels.dtype} {labels.shape}")
        return self._write_array(scan_id, f"{task}.labels", labels)

    def _write_array(self, scan_id: str, name: str, array: np.ndarray) -> str:
        data = packed(array)
        write_bytes(self._path(scan_id, name), data)
        with self._lock:
            self._arrays.pop((scan_id, name), None)
        return hashlib.sha256(data).hexdigest()

    def _meta_path(self, scan_id: str) -> Path:
        return self._path(scan_id, "").with_suffix(".json")

    def _path(self, scan_id: str, name: str) -> Path:
        if not _NAME.fullmatch(scan_id):
            raise ValueError(f"scan_id: {scan_id!r} must be lower-case letters and digits")
        return self.root / scan_id[:2] / f"{scan_id}{'.' if name else ''}{name}.b2nd"


def _crop(array: Bricks, low: Sequence[int], size: Sequence[int], fill: Callable[[], np.ndarray], out: np.ndarray | None) -> np.ndarray:
    inner = [(max(0, a), min(n, a + s)) for a, s, n in zip(low, size, array.shape[-3:], strict=True)]
    lead = array.shape[:-3]
    begin, end = ([*first, *(bound[k] for bound in inner)] for k, first in enumerate(((0,) * len(lead), lead)))
    if all((a, b) == (c, c + s) for (a, b), c, s in zip(inner, low, size, strict=True)):
        return array.read(begin, end, out)
    out = np.empty((*lead, *size), dtype=array.dtype) if out is None else out
    out[...] = fill()
    if all(b > a for a, b in inner):
        target = tuple(slice(a - c, b - c) for (a, b), c in zip(inner, low, strict=True))
        out[(..., *target)] = array.read(begin, end)
    return out
