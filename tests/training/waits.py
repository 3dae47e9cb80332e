"""A check without a GPU of what would make the host wait for one: ``with no_wait(): ...``.

Nothing waits on a CPU or on the meta device. But whatever needs a value or a shape that only the device would know, or copies from
the host or to it, is an error that names the line. PyTorch marks its kernels itself (``torch.Tag``); copies of a tensor that lies where it
is wanted reach no kernel, so they are caught where Python asks for them. ``benchmarks/device/syncs.py`` asks a real GPU.
"""

import traceback
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # they wait if an index is a mask
CHECKING = ("aten::_linalg_check_errors",)  # whether a matrix could be inverted
TO_HOST = ("cpu", "numpy", "tolist")
FROM_HOST = ("tensor", "as_tensor", "from_numpy", "asarray")


class Waits(RuntimeError):
    """Names what waits, and the first line below the check that is not PyTorch's."""

    def __init__(self, what):
        here = [frame for frame in traceback.extract_stack() if frame.filename != __file__ and "/torch/" not in frame.filename]
        super().__init__(f"{Path(here[-1].filename).name}:{here[-1].lineno} {here[-1].line}: {what}")


class Kernels(TorchDispatchMode):
    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        name = kernel.name().partition(".")[0]
        masks = name in INDEXING and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if masks or name in CHECKING or (TAGS & set(kernel.tags) and name not in INDEXING):
            raise Waits(f"{kernel.name()} waits for the device")
        return kernel(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """A device that was read off another tensor is a GPU where there is one; one that is written out is what it says."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name in TO_HOST or (name == "to" and "cpu" in (*args[1:2], kwargs.get("device"))):
            raise Waits(f"{name} copies to the host")
        if name in FROM_HOST:
            raise Waits(f"{name} copies from the host")
        return function(*args, **kwargs)


@contextmanager
def no_wait():
    with Copies(), Kernels():
        yield
