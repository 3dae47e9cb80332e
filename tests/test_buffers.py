"""Memory that is used again, and never while anybody holds it."""

import ctypes
import gc
import subprocess
import sys

import pytest
import torch

from pipeline.buffers import Buffers


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64])
def test_a_tensor_has_the_shape_and_type_that_were_asked_for(dtype):
    made = Buffers().take((2, 3, 5), dtype)
    assert (made.shape, made.dtype, made.is_contiguous()) == ((2, 3, 5), dtype, True)
    made.fill_(1)
    assert bool((made == 1).all())


def test_memory_is_used_again_only_when_nobody_holds_a_part_of_it():
    buffers = Buffers()
    first = buffers.take((2, 3), torch.int16)
    place, row = first.data_ptr(), first[1]
    del first
    gc.collect()
    other = buffers.take((2, 3), torch.int16)
    assert other.data_ptr() != place  # a row of it is held still
    del row
    gc.collect()
    assert buffers.take((3, 2), torch.int16).data_ptr() == place


def test_tensors_of_as_many_bytes_share_memory_whatever_their_type():
    buffers = Buffers()
    place = buffers.take((4,), torch.float32).data_ptr()
    gc.collect()
    assert buffers.take((2, 4), torch.int16).data_ptr() == place


def test_memory_that_a_graph_of_gradients_needs_is_not_given_away():
    buffers = Buffers()
    given = buffers.take((4,), torch.float32).fill_(2.0)
    weight = torch.ones(4, requires_grad=True)
    product = (given * weight).sum()
    del given
    gc.collect()
    buffers.take((4,), torch.float32).fill_(9.0)
    product.backward()
    assert weight.grad.tolist() == [2.0] * 4


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc, whose allocator this sets")
@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is set where a GPU computes")
def test_freed_memory_is_kept_and_not_faulted_in_again():
    program = """
import resource, torch
from pipeline.buffers import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(1 << 26, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, found.split())
    assert kept < given_back / 10
