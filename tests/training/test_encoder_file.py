"""The encoder's files: they lead back to the same network, with Vesalius and with the README's lines of plain PyTorch."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.networks.unet import Unet
from pipeline.step import Context
from pipeline.training.encoder import load_encoder, load_weights, save_encoder
from pipeline.training.pretraining import channel_names

CONTRACT = {"architecture": {"unet": {"widths": [16, 32, 64, 128]}}, "size_vox": [16, 16, 16], "channels": 1}


def save(folder, channels):
    torch.manual_seed(0)
    context = Context(num_scans=1, batch=1, num_steps=1, size_vox=(16, 16, 16), channels=channels)
    network = Unet(Unet.Config(widths=(16, 32, 64, 128)), context).eval()
    save_encoder(folder, network, {**CONTRACT, "channels": channels})
    return network


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path, 1), tmp_path


@pytest.mark.parametrize("channels", [1, 2])
def test_the_lines_of_the_readme_give_the_coarsest_level(tmp_path, monkeypatch, channels):
    network = save(tmp_path, channels)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"x": torch.rand(2, channels, 16, 24, 16)}
    with torch.no_grad():
        exec(code.replace("(1, 16, 1)", f"({channels}, 16, 1)"), names)  # as the README says below
        levels = network(names["x"], want=frozenset({"levels"})).levels
    torch.testing.assert_close(names["features"], levels[-1])


def test_the_contract_names_the_channels_in_their_order():
    train = pd.DataFrame({"channels": ['["PT", "CT"]', '["PT", "CT"]']})
    assert channel_names(train, ("PT", "CT")) == ["PT", "CT"]
    assert channel_names(pd.DataFrame({"channels": ['["MR"]', '["CT"]']}), None) == ["CT", "MR"]


def test_load_encoder_gives_the_same_network_with_its_decoder(saved):
    network, folder = saved
    again, contract = load_encoder(folder)
    x, want = torch.rand(1, 1, 16, 16, 16), frozenset({"pooled", "dense"})
    with torch.no_grad():
        expected, found = network(x, want=want), again(x, want=want)
    assert torch.equal(expected.pooled, found.pooled)
    assert torch.equal(expected.dense, found.dense)
    assert contract["encoder_keys"] == ["encoder."]


def test_weights_of_another_network_are_refused_by_name(saved):
    _, folder = saved
    context = Context(num_scans=1, batch=1, num_steps=1, size_vox=(16, 16, 16), channels=1)
    other = Unet(Unet.Config(widths=(8, 32, 64, 128)), context)
    with pytest.raises(ValueError, match="does not fit this network"):
        load_weights(other, folder / "model.safetensors")
    with pytest.raises(ValueError, match="there are no weights"):
        load_weights(other, folder / "nothing.safetensors")
