"""From the host to the device, one batch ahead: the copy runs beside the step before it."""

from collections.abc import Iterator

import torch

from pipeline.nested import tensors
from pipeline.step import Region, to_device


def on_device(regions: Iterator[Region], device: torch.device) -> Iterator[Region]:
    """The same batches on a device, in their order. On a GPU the next one is copied, on a stream of its own, while the caller computes."""
    if device.type != "cuda":
        yield from (to_device(region, device) for region in regions)
        return
    stream, ahead = torch.cuda.Stream(device), None
    for region in regions:
        with torch.cuda.stream(stream):
            copied = to_device(region, device), stream.record_event()
        if ahead is not None:
            yield _arrived(*ahead)
        ahead = copied
    if ahead is not None:
        yield _arrived(*ahead)


def _arrived(region: Region, copied: torch.cuda.Event) -> Region:
    """The device waits for the copy, the host does not; memory is not given away before the steps that read it are done."""
    current = torch.cuda.current_stream()
    current.wait_event(copied)
    for tensor in tensors(region):
        tensor.record_stream(current)
    return region
