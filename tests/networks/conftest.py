"""A network of any name at a small size, and where the features of a network lie."""

import pytest
import torch
from torch import nn

from pipeline.keys import initialise
from pipeline.plugins import load, settings
from pipeline.step import Context

SMALL = {"unet": {"widths": [4, 6, 8]}, "resenc": {"widths": [4, 6, 8], "blocks": [1, 2, 1]}}
NORMS = (nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LayerNorm)


@pytest.fixture
def build():
    """name, channels, settings -> the network with initial weights of seed 0."""

    def make(name, channels=1, **values):
        context = Context(num_scans=10, batch=2, num_steps=10, size_vox=(16, 16, 16), channels=channels)
        network = load("networks", name)(settings("networks", name, {**SMALL.get(name, {}), **values}), context)
        initialise(network, 0)
        return network

    return make


@pytest.fixture
def set_linear():
    """Gives a network equal positive weights and no norms: every feature is then a weighted mean of its receptive field."""

    def change(network):
        for layer in network.modules():
            if isinstance(layer, NORMS):
                layer.forward = lambda x: x
            for parameter in layer.parameters(recurse=False):
                nn.init.constant_(parameter, 0.01 if parameter.ndim > 1 else 0.0)
        return network.double()

    return change


@pytest.fixture
def place_of():
    """Centre of mass of a gradient with respect to one crop, in input voxels."""

    def centre(gradient):
        mass = gradient[0].abs().sum(0)
        indices = torch.meshgrid(*(torch.arange(n, dtype=mass.dtype) for n in mass.shape), indexing="ij")
        return torch.stack([(mass * index).sum() / mass.sum() for index in indices])

    return centre
