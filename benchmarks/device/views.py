"""Views of a batch on the device: as they are, replayed from a CUDA graph, and how many kernels they launch."""

import torch

from benchmarks.device._run import VIEWS, Run, keys_of, region_of
from pipeline.step import to_device

LIMIT_S = 60
ALONE = True


def measure(run: Run) -> None:
    rows: dict[str, dict] = {}
    for name, mapping in VIEWS.items():
        view = run.view(mapping)
        region = to_device(region_of(run.size, view.extent_vox(), run.batch), run.device)
        keys = keys_of(run.batch, 0, run.device)

        def show(view=view, region=region, keys=keys):
            with torch.no_grad():
                return view.apply(region, view.draw(keys, region))

        rows[name] = {"batch": run.batch, "ms": run.milliseconds(show, 20)}
        run.note({"views": rows})
        if not run.tiny:
            rows[name] |= {"kernels": kernels(show), "peak_mb": peak(show)}
            try:
                rows[name]["graph_ms"] = graphed(run, show)
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


def graphed(run: Run, show) -> float:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            show()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        show()
    return run.milliseconds(graph.replay, 20)
