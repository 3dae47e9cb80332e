"""The model that is fine-tuned: one network for every initialisation, a head for the task, and where the weights come from."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.files import digest
from pipeline.keys import initialise, key
from pipeline.plan import Plan
from pipeline.plugins import load, only, settings
from pipeline.step import Context, Network
from pipeline.training.checkpoints.weights import read_tensors
from pipeline.training.encoder import load_weights


class Model(nn.Module):
    """Logits (B, K, D, H, W) float32 of x (B, C, D, H, W)."""

    def __init__(self, network: Network, head: nn.Module, precision: Literal["fp32", "bf16"], channels_last: bool = False) -> None:
        super().__init__()
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network, self.head, self.precision = network.to(memory_format=self.memory_format), head, precision

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            dense = self.network(x.contiguous(memory_format=self.memory_format), want=frozenset({"dense"})).dense
            return self.head(dense).float()

    def encoder_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """(of the encoder, all others)."""
        prefixes = tuple(self.network.encoder_keys())
        inside = [p for name, p in self.network.named_parameters() if name.startswith(prefixes)]
        outside = [p for name, p in self.network.named_parameters() if not name.startswith(prefixes)]
        return inside, [*outside, *self.head.parameters()]

    def freeze_encoder(self) -> None:
        """No gradients, and no running statistics either; lasts until ``train()`` is called."""
        prefixes = tuple(self.network.encoder_keys())
        for name, parameter in self.network.named_parameters():
            if name.startswith(prefixes):
                parameter.requires_grad_(False)
        for name, module in self.network.named_modules():
            if f"{name}.".startswith(prefixes):
                module.eval()


def architecture(plan: Plan) -> dict[str, Any]:
    """The network of every fine-tuning, scratch included: that of the recipes under ``initialisations``, with skip connections.

    Recipes with different networks are a ``ValueError``: scratch could equal only one of them, and a difference would be the network's.
    """
    used = sorted({i["recipe"] for i in plan.study["initialisations"].values() if i["recipe"]}) or sorted(plan.recipes)[:1]
    if not used:
        raise ValueError(f"{plan.study['name']}: recipes: fine-tuning takes its network from a recipe; name at least one")
    networks = {name: _with_skips(plan.recipes[name]["network"]) for name in used}
    for name in used[1:]:
        if networks[name] != networks[used[0]]:
            raise ValueError(
                f"{plan.study['name']}: initialisations: the recipes {used[0]} and {name} have different networks, so no one scratch "
                "equals both; give them one network, or a study each"
            )
    return networks[used[0]]


def build(network: dict[str, Any], kind: Any, context: Context, precision: Literal["fp32", "bf16"], channels_last: bool = False) -> Model:
    """Initial weights depend on the seed and the layer's name only, so every initialisation begins with the same head and decoder."""
    name, values = only(network, "network")
    body = load("networks", name)(settings("networks", name, values), context)
    head = kind.head(body.dense_width)
    initialise(body, key(context.seed, "finetune", "network"))
    initialise(head, key(context.seed, "finetune", "head"))
    return Model(body, head, precision, channels_last)


def weights_path(run_folder: Path, what: Literal["all", "encoder"]) -> Path:
    return run_folder / ("model.safetensors" if what == "all" else "encoder.safetensors")


def load_initial(network: Network, path: Path, what: Literal["all", "encoder"]) -> str:
    """Loads a whole network or its encoder; returns the file's sha256. Missing, unknown or misshapen weights are a ``ValueError``."""
    if what == "all":
        return load_weights(network, path)
    if not path.exists():
        raise ValueError(f"{path}: there are no weights; the run that makes them has not finished")
    state, prefixes = read_tensors(path), tuple(network.encoder_keys())
    own = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    names = sorted(own.keys() | state.keys())
    wrong = [name for name in names if name not in own or name not in state or own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(f"{path}: does not fit this encoder (first differing weight: {wrong[0]}); use the same `network` in both recipes")
    network.load_state_dict(state, strict=False)
    return digest(path)


def _with_skips(network: dict[str, Any]) -> dict[str, Any]:
    name, values = only(network, "network")
    return {name: {**values, "skips": True} if "skips" in values else dict(values)}
