"""Reading again what a disk or a network failed to give: three more times, then the file is unreadable."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

from pipeline.scans.quarantine import Refused

PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENXIO})
PAUSES_S = (0.2, 1.0, 3.0)


def patiently(read: Callable[..., Any], *arguments: Any) -> Any:
    """``read(*arguments)``; an error of the disk or network (EIO, ESTALE ...) is waited for, whatever was raised because of it."""
    for pause in PAUSES_S:
        try:
            return read(*arguments)
        except (OSError, Refused) as error:
            if not passing(error):
                raise
        time.sleep(pause)
    return read(*arguments)


def passing(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is one that may be gone the next time."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in PASSING:
            return True
        seen = seen.__cause__ or seen.__context__
    return False
