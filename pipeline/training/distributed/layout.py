"""How a learner lies on the devices of its ranks: memory format, compiled kernels, synchronised norms, weights in parts (FSDP2)."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.recipe import Training
from pipeline.step import Features
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.distributed.reducer import Reducer
from pipeline.training.distributed.sharded import is_sharded
from pipeline.training.learner import Learner


def place(learner: Learner, training: Training, ranks: Ranks) -> Learner:
    """Moves a learner, whose weights are set and equal on all ranks, to where it is trained."""
    if training.shard == "full" and training.compile:
        raise ValueError("training.compile: together with training.shard: full it is not tried; choose one of them")
    learner.to(ranks.device)
    networks = [network for network in (learner.network, learner.teacher) if network is not None]
    if ranks.world > 1:
        synchronise_norms(learner, ranks)
    for network in networks:
        if training.channels_last:
            network.to(memory_format=torch.channels_last_3d)
        if training.compile:
            network.compile(dynamic=False)
        if training.shard == "full" and ranks.world > 1:
            shard(network, ranks)
    learner.memory_format = torch.channels_last_3d if training.channels_last else torch.contiguous_format
    trained = [p for p in learner.parameters() if p.requires_grad and not is_sharded(p)]
    body = {p for p in learner.network.parameters() if p.requires_grad and not is_sharded(p)}
    learner.reducer = Reducer(ranks, [p for p in trained if p not in body], [p for p in trained if p in body])
    return learner


def synchronise_norms(learner: Learner, ranks: Ranks) -> None:
    """Batch norm, where a network or head has it, takes its statistics over the batch of all ranks."""
    found = [name for name, module in learner.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if found and ranks.device.type != "cuda":
        raise ValueError(f"{found[0]}: is a batch norm, which PyTorch synchronises between GPUs only; use another norm, or one process")
    nn.SyncBatchNorm.convert_sync_batchnorm(learner)


def shard(network: nn.Module, ranks: Ranks) -> None:
    """FSDP2 (Zhao et al. 2023): weights, gradients and moments in parts; a block's weights are gathered while it computes.

    Blocks are the members of the network's module lists. The forward pass is the network's own, so its one entry keeps the hooks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.utils import _pytree

    if Features not in _pytree.SUPPORTED_NODES:
        _pytree.register_dataclass(Features)  # FSDP2 looks for tensors in what a forward returns
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for blocks in list(network.modules()):
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)  # a teacher has no backward pass after which it would be
