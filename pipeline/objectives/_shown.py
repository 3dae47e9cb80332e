"""What a step shows of one view instance, with a clear refusal where an objective cannot use it."""

from torch import Tensor

from pipeline.step import Features, Step, ViewBatch


def shown(step: Step, view: str, objective: str) -> tuple[ViewBatch, Features]:
    """The one batch of a view and the student's features of it."""
    return batch_of(step, view, objective), step.student[view][0]


def batch_of(step: Step, view: str, objective: str) -> ViewBatch:
    """The one batch of a view."""
    batches = step.views[view]
    if len(batches) != 1:
        raise ValueError(
            f"objectives.{objective}.view: {view!r} gives {len(batches)} crops a sample, not one; use a view such as `corrupt`"
        )
    return batches[0]


def target_of(batch: ViewBatch, view: str, objective: str) -> Tensor:
    """(B, C, D, H, W) float32: what should be restored."""
    if batch.target is None:
        raise ValueError(f"objectives.{objective}.view: {view!r} has nothing to restore; use a view such as `corrupt` or `masked`")
    return batch.target.float()


def pooled_pair(features: tuple[Features, ...], view: str, objective: str) -> tuple[Tensor, Tensor]:
    """The pooled features of the two crops that a contrast compares."""
    if len(features) != 2:
        raise ValueError(
            f"objectives.{objective}.view: {view!r} gives {len(features)} crops a sample, not two; use a view such as `augment`"
        )
    return features[0].pooled, features[1].pooled


def contrast(given: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation within crops of what is given back over that of the target, 0 where all is one grey; and the target's, summed over
    the crops, which is what this figure counts."""
    own, wanted = (_deviations(volumes.detach().float().flatten(1)).sum() for volumes in (given, target))
    wanted = wanted.clamp(min=1e-6)
    return own / wanted, wanted


def _deviations(rows: Tensor) -> Tensor:
    """(B, N) in [0, 1] -> (B,) standard deviations; ``Tensor.std`` takes several times as long on a CPU."""
    return (rows.square().mean(1) - rows.mean(1).square()).clamp(min=0).sqrt()


def mean_over(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of (B, C, D, H, W) values under (B, D, H, W) weights; 0 where nothing has weight."""
    weights = weights[:, None].to(values.dtype)
    return (values * weights).sum() / (weights.sum() * values.shape[1]).clamp(min=1e-6)
