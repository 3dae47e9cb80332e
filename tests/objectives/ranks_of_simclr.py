"""One of two gloo processes: gradients of SimCLR on half a batch each, averaged over the ranks, beside those of one process."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.keys import initialise, noise
from pipeline.objectives.simclr import Simclr
from pipeline.step import Context, Features, Ids, Step


def gradients(rows: slice) -> dict[str, torch.Tensor]:
    """Of a linear stand-in for the encoder and of the projector, on some rows of the batch."""
    context = Context(num_scans=8, batch=8, num_steps=1, size_vox=(8, 8, 8), channels=1, widths=(6,))
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(5, 6), "simclr": Simclr(Simclr.Config(view="pair"), context)})
    initialise(model, 0)
    crops = noise(torch.arange(8), 2, 5)[rows].unbind(1)
    features = tuple(Features(pooled=model["encoder"](crop)) for crop in crops)
    subject = torch.tensor([0, 1, 2, 3, 0, 4, 5, 6])[rows]
    ids = Ids(subject, subject, subject)
    model["simclr"](Step({}, {"pair": features}, {}, ids, None, torch.zeros(0))).value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def main(folder: Path, rank: int) -> None:
    if rank == 0:
        torch.save(gradients(slice(None)), folder / "alone.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    averaged = gradients(slice(4 * rank, 4 * rank + 4))
    for gradient in averaged.values():
        dist.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save(averaged, folder / "both.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads now and then abort an orderly exit


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
