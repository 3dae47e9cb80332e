"""A volume read in a child process. Its voxels come back through memory that both processes map, so that nothing is copied; its words
(warnings that may quote the file) are thrown away."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.memory import mapped_bytes
from pipeline.volumes.volume import Volume

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
Read = Callable[[tuple[str, ...], Allocate], Volume]


@dataclass(frozen=True)
class Limits:
    """Of a child process: memory beyond what it starts with, processor time, and time on the clock."""

    memory_mb: int = 8000
    processor_s: int = 600
    clock_s: float = 900.0


class Shared:
    """Memory that a parent and its child map. Each allocation replaces the one before."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.handle = os.memfd_create("voxels")
        else:
            with tempfile.TemporaryFile() as stream:
                self.handle = os.dup(stream.fileno())
        self.map: mmap.mmap | None = None

    def allocate(self, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        kind = np.dtype(kind)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        os.ftruncate(self.handle, size)
        self.map = mmap.mmap(self.handle, size)
        return np.frombuffer(self.map, kind).reshape(shape)

    def layout(self, voxels: np.ndarray) -> tuple[str, tuple[int, ...], int, tuple[int, ...]]:
        """(type, shape, offset, strides) of an array in this memory; one that lies elsewhere is copied into it."""
        if self.map is None or not np.may_share_memory(voxels, whole := np.frombuffer(self.map, np.uint8)):
            copy = self.allocate(voxels.shape, voxels.dtype)
            copy[...] = voxels
            return self.layout(copy)
        offset = voxels.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        return voxels.dtype.str, voxels.shape, offset, voxels.strides

    def array(self, kind: str, shape: tuple[int, ...], offset: int, strides: tuple[int, ...]) -> np.ndarray:
        """The array that a child described."""
        mapped = mmap.mmap(self.handle, os.fstat(self.handle).st_size)
        return np.ndarray(shape, np.dtype(kind), mapped, offset, strides)

    def close(self) -> None:
        os.close(self.handle)


def in_child(read: Read, paths: tuple[str, ...], limits: Limits) -> Volume:
    """What ``read`` returns; raises ``Refused``, also for a child that died or took too long."""
    shared = Shared()
    try:
        layout, shape, affine = told_by_child(partial(_read_into, read, paths, shared), limits)
        return Volume(shared.array(*layout), Grid(shape, affine))
    finally:
        shared.close()


def _read_into(read: Read, paths: tuple[str, ...], shared: Shared) -> tuple[Any, ...]:
    volume = read(paths, shared.allocate)
    return shared.layout(volume.voxels), volume.grid.shape, np.array(volume.grid.affine)


def told_by_child(ask: Callable[[], Any], limits: Limits) -> Any:
    """What ``ask`` returns in a child process, something small; raises ``Refused`` as ``in_child`` does."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(ask, limits, there), daemon=True)
    try:
        child.start()
        there.close()
        answer = _heard(here, limits.clock_s)
        child.kill()  # nothing may write to the voxels from here on
        child.join()
        if answer is None:
            raise Refused(Code.TIME_OUT if child.exitcode == -signal.SIGXCPU else Code.DECODER)
        if isinstance(answer, Refused):
            raise answer
        return answer
    finally:
        if child.pid is not None:
            child.kill()
            child.join()
        here.close()


def _heard(here: Connection, clock_s: float) -> Any:
    """The child's answer; None from one that died without a word."""
    if not here.poll(clock_s):
        raise Refused(Code.TIME_OUT)
    try:
        return here.recv()
    except EOFError:
        return None


def _run(ask: Callable[[], Any], limits: Limits, there: Connection) -> None:
    """In the child: limits first, then the untrusted file."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + (limits.memory_mb << 20), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.processor_s, limits.processor_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = ask()
    except Refused as refused:
        answer = refused
    except MemoryError:
        answer = Refused(Code.TOO_LARGE)
    except Exception:  # the parent must hear a reason, whatever a decoder raised
        answer = Refused(Code.CORRUPT)
    there.send(answer)
    there.close()
