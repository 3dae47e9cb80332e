"""Views of a batch on the device: as they are, replayed from a CUDA graph, and how many kernels they launch."""

from dataclasses import replace

import torch

from benchmarks.device._run import VIEWS, Run, keys_of, region_of
from pipeline.step import Ids, to_device
from pipeline.training.graphs import Replayed

LIMIT_S = 30
ALONE = True


def measure(run: Run) -> None:
    rows: dict[str, dict] = {}
    for name, mapping in VIEWS.items():
        view = run.view(mapping)
        region = to_device(region_of(run.size, view.extent_vox(), run.batch), run.device)
        region = replace(region, places=None, ids=Ids(*[keys_of(run.batch, 0, run.device)] * 3))

        def work(region, view=view):
            with torch.no_grad():
                return view.apply(region, view.draw(region.ids.sample, region))

        def show(work=work, region=region):
            return work(region)

        rows[name] = {"batch": run.batch, "ms": run.milliseconds(show, 20)}
        run.note({"views": rows})
        if not run.tiny:
            rows[name] |= {"kernels": kernels(show), "peak_mb": peak(show)}
            try:
                rows[name]["graph_ms"] = graphed(run, work, region)
            except RuntimeError as error:
                rows[name]["graph_failed"] = str(error).splitlines()[0][:200]
                torch.cuda.synchronize()
            run.note({"views": rows})


def kernels(show) -> int:
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
        show()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if str(event.device_type).endswith("CUDA"))


def peak(show) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    show()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20)


def graphed(run: Run, work, region) -> float:
    """With the copies in and out that a run makes as well."""
    refused: list[str] = []
    replayed = Replayed(work, refused.append)
    spent = run.milliseconds(lambda: replayed(region), 20)
    if refused:
        raise RuntimeError(refused[0])
    return spent
