"""The encoder as a file: weights in safetensors, and a contract beside them that says how to use it.

``encoder.json``: architecture (plug-in and settings), parameters, channels, normalisation, spacing, orientation, recipe, provenance.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.files import digest, read_json, replacing, write_json
from pipeline.plugins import load, only, settings
from pipeline.step import Context, Network
from pipeline.training.checkpoints.weights import read_tensors
from pipeline.training.distributed.sharded import settled, whole

NORMALISATION = (
    "x = clamp((v - low) / (high - low), 0, 1) with v the physical value. CT: low, high = window_hu. MR and PET: low, high = the stated "
    "percentiles of the body's voxels of that scan."
)


def save_encoder(folder: Path, network: Network, contract: dict[str, Any], leads: bool = True) -> None:
    """Writes model.safetensors (encoder and decoder), encoder.json and, last, encoder.safetensors; all ranks call it, one writes."""
    state = {name: value.detach().cpu().contiguous() for name, value in whole(network.state_dict(), leads).items()}
    if not leads:
        return
    encoder = {name: value for name, value in state.items() if name.startswith(tuple(network.encoder_keys()))}
    with replacing(folder / "model.safetensors") as temporary:
        save_file(state, temporary)
    write_json(folder / "encoder.json", {**contract, "encoder_keys": list(network.encoder_keys()), "normalisation": NORMALISATION})
    with replacing(folder / "encoder.safetensors") as temporary:
        save_file(encoder, temporary)


def load_encoder(folder: Path) -> tuple[Network, dict[str, Any]]:
    """The pretrained network of a run's folder, in evaluation mode, and its contract. The decoder is loaded too."""
    contract = read_json(folder / "encoder.json")
    name, values = only(contract["architecture"], "architecture")
    context = Context(num_scans=0, batch=1, num_steps=0, size_vox=tuple(contract["size_vox"]), channels=contract["channels"])
    network = load("networks", name)(settings("networks", name, values), context)
    load_weights(network, folder / "model.safetensors")
    return network.eval(), contract


def load_weights(network: torch.nn.Module, path: Path) -> str:
    """Loads a whole network, strictly; returns the file's sha256."""
    if not path.exists():
        raise ValueError(f"{path}: there are no weights; the run that makes them has not finished")
    state = read_tensors(path)
    own = network.state_dict()
    wrong = sorted(
        name for name in own.keys() | state.keys() if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        raise ValueError(f"{path}: does not fit this network (first differing weight: {wrong[0]}); use the same `network` in both recipes")
    network.load_state_dict(settled(own, state))
    return digest(path)
