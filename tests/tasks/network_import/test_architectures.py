"""Architectures of torchvision are exported by the child process, with weights from a file."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from napari_dip.errors import RefusedError
from napari_dip.tasks.network_import.loading import NetworkSource, list_network_layers, load_network

#: What stands in for torchvision: two architectures in two small modules.
PACKAGE = """
import torch


def list_models(module=None):
    return ["small", "fragile"]


def get_model(name, weights=None, num_classes=10):
    if name == "fragile":
        raise ZeroDivisionError("no head")
    layers = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
    head = torch.nn.Flatten(), torch.nn.Linear(4, num_classes)
    return torch.nn.Sequential(*layers, *head)
"""


@pytest.fixture
def torchvision(tmp_path, monkeypatch):
    """Put a small torchvision where the child process looks for it."""
    models = tmp_path / "packages" / "torchvision" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    (models / "__init__.py").write_text(PACKAGE, encoding="utf-8")
    paths = [str(models.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def weights(tmp_path):
    """Save the state of that architecture for seven classes, not ten."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "4.weight": (7, 4), "4.bias": (7,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(state, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def read_refusal(name, weights, layer="0"):
    with pytest.raises(RefusedError) as caught:
        load_network(NetworkSource(network=name, weights=str(weights)), layer, (16, 16))
    return caught.value.reason


def test_a_layer_of_an_architecture_gets_the_weights_of_the_file(torchvision, weights):
    source = NetworkSource(network="small", weights=str(weights))
    network = load_network(source, "0", (16, 24))
    assert (network.channels, network.shape) == (3, (4, 16, 24))
    assert sorted(array.shape for array in network.tensors.values()) == [(4,), (4, 3, 3, 3)]
    layers = dict(list_network_layers(source, (16, 24)))
    assert layers["1"] == "4 × 16 × 24" and layers["4"] == "7"


def test_an_unknown_architecture_is_refused_with_the_nearest(torchvision, weights):
    reason = read_refusal("smal", weights)
    assert reason.code == "architecture-unknown" and "small" in reason.remedy


def test_a_pickle_is_no_file_of_weights(torchvision, tmp_path):
    (tmp_path / "state.pth").write_bytes(pickle.dumps({"0.weight": 1}))
    assert read_refusal("small", tmp_path / "state.pth").code == "weights-unfit"


def test_weights_of_another_architecture_are_refused_with_what_is_missing(torchvision, tmp_path):
    save_file({"0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.safetensors")
    reason = read_refusal("small", tmp_path / "other.safetensors")
    assert reason.code == "weights-unfit" and "0.bias" in reason.sentence


def test_an_architecture_without_torchvision_names_what_is_missing(weights, tmp_path, monkeypatch):
    broken = tmp_path / "packages" / "torchvision.py"
    broken.parent.mkdir()
    broken.write_text("raise ImportError('no build for this torch')", encoding="utf-8")
    paths = [str(broken.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    reason = read_refusal("small", weights)
    assert reason.code == "torchvision-missing" and "no build" in reason.sentence


def test_an_error_that_nobody_foresaw_does_not_blame_the_file(torchvision, weights):
    reason = read_refusal("fragile", weights)
    assert reason.code == "network-failed" and "ZeroDivisionError: no head" in reason.sentence
