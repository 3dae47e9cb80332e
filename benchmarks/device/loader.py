"""From a store of 256^3 volumes to the device: crops a second, with nothing else to do."""

import time

import torch

from benchmarks.device._run import Run, loop_of, recipe_of, study
from pipeline.step import to_device

LIMIT_S = 40
ALONE = True


def measure(run: Run) -> dict:
    where = study(run)
    store_mb = sum(path.stat().st_size for path in where[0].rglob("*.b2nd")) / 2**20
    run.note({"store_mb_volume": round(store_mb / len(where[1]), 1)})
    for what, kind, per_read in (
        ("models_genesis", "models_genesis", 1),
        ("models_genesis, 4 a read", "models_genesis", 4),
        ("transvw", "transvw", 1),
    ):
        recipe = recipe_of(run, kind, {"unet": {"widths": [4, 8]}}, steps=10**6)
        if per_read > 1:
            recipe = recipe.model_copy(update={"crops": {"random": {"size_vox": run.size, "per_read": per_read}}})
        loop = loop_of(run, recipe, where, run.scratch / what.replace(" ", "_"))
        for region in loop.loader.batches(0, 2 if run.tiny else 8):  # files are opened and proved
            to_device(region, run.device)
        run.wait()
        begun, work, count = time.perf_counter(), time.process_time(), 0
        limit = 0.5 if run.tiny else 2.0 if run.rehearsal else 4.0
        for region in loop.loader.batches(100, 10**6):
            moved = to_device(region, run.device)
            count += len(moved.voxels)
            if time.perf_counter() - begun > limit:
                break
        run.wait()
        seconds, processor = time.perf_counter() - begun, time.process_time() - work
        run.note({
            what: {
                "region_vox": list(region.voxels.shape[2:]), "crops_s": round(count / seconds, 1),
                "crops_s_core": round(count / processor, 1), "cores": round(processor / seconds, 2),
                "pinned": bool(region.voxels.is_pinned()) if torch.cuda.is_available() else None,
            }
        })  # fmt: skip
    return {}
