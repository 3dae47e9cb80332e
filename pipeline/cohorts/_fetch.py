"""Public files with a known digest: packages as files (never installed), archives by their address.

What lies in the cache is checked again before each use, and a file takes its name there only when its digest is right. A file that was put
there by hand serves as well as a downloaded one.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from pipeline.files import replacing
from pipeline.progress import Progress

PIECE = 1 << 20
PATIENCE_S = 60


@dataclass(frozen=True)
class Package:
    """One file of a Python package; ``licence`` is the package's own, in words fit to be published."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str


def fetch_package(package: Package, cache: Path) -> Path:
    """The package's file in the cache, through pip and the index that pip is set up with.

    pip asks a source distribution for its metadata, which runs its build script; the digest is checked before that.
    """
    path = cache / package.file
    if _right(path, "sha256", package.sha256):
        return path
    cache.mkdir(parents=True, exist_ok=True)
    print(f"sample: downloading {package.file}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as scratch:
        reason = _download(package, Path(scratch))
        found = Path(scratch) / package.file
        if not _right(found, "sha256", package.sha256):
            raise ValueError(
                f"{path}: could not be downloaded ({reason}). Without an index, get {package.file} of the package {package.name} "
                f"{package.version} elsewhere (sha256 {package.sha256}) and put it there; then call again"
            )
        with replacing(path) as temporary:
            shutil.move(found, temporary)
    return path


def _download(package: Package, scratch: Path) -> str:
    """Runs pip; returns the reason if it failed."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    kind = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += [kind, package.name, "--dest", str(scratch), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    errors = [line.partition("ERROR: ")[2] for line in done.stderr.splitlines() if "ERROR: " in line] or done.stderr.splitlines()[-1:]
    return f"pip: {errors[0].strip()}" if errors else f"pip ended with code {done.returncode} and the file has another digest"


def fetch_url(url: str, path: Path, digest: str) -> Path:
    """The file at an address, as ``path``; ``digest`` is such as ``md5:9d24...`` or ``sha256:...``."""
    algorithm, _, wanted = digest.partition(":")
    if _right(path, algorithm, wanted):
        return path
    try:
        with replacing(path) as temporary:
            found = _copy(url, temporary, algorithm)
            if found != wanted:
                raise ValueError(f"{url}: its {algorithm} is {found}, not {wanted}; it was damaged or replaced, so nothing of it is kept")
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise ValueError(
            f"{path}: could not be downloaded ({reason}). Without internet, get {url} elsewhere ({algorithm} {wanted}) and put it there, "
            "or name a folder that holds the data: `--config data=DIR` (snakemake), `--data DIR` (vesalius)"
        ) from error
    return path


def _copy(url: str, path: Path, algorithm: str) -> str:
    """Writes what the address gives; returns its digest."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url}: is no http address")
    known = hashlib.new(algorithm, usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer, path.open("wb") as stream:
        total = int(answer.headers.get("Content-Length") or 0)
        with Progress(f"download {Path(url).name}", max(1, -(-total // PIECE)), unit="MiB") as progress:
            while piece := answer.read(PIECE):
                known.update(piece)
                stream.write(piece)
                progress.advance()
    return known.hexdigest()


def _right(path: Path, algorithm: str, wanted: str) -> bool:
    """Whether a file is there and has the digest."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest() == wanted
