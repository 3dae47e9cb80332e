"""A cap on the memory of this process, so that one scan too large for it is refused instead of the whole machine running out."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(memory_mb: int | None) -> Iterator[None]:
    """While the block runs, the process may map ``memory_mb`` beyond what it has mapped now; more is a ``MemoryError``. None is no cap."""
    if memory_mb is None:
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped_bytes() + (memory_mb << 20)
    limits = [wanted, *(limit for limit in (before, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    except OSError as error:  # memory that is mapped says so, not with a MemoryError
        raise MemoryError if error.errno == errno.ENOMEM else error from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def mapped_bytes() -> int:
    """Address space of this process; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[0]) * resource.getpagesize() if path.exists() else 0


def physical_mb() -> int:
    """Memory of this machine."""
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
