"""An architecture of torchvision with weights from a safetensors file, made into a program.

The architecture is code of the torchvision that is installed; the file holds numbers only.
"""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable, readable_file, why_not

if TYPE_CHECKING:
    from pathlib import Path

#: How many names a refusal of a wrong one suggests.
_NEAREST = 5


def exported(name: str, weights: str, size: tuple[int, int], place: Path) -> None:
    """Build an architecture, fill it with weights, and save it as a program of torch.export.

    Parameters
    ----------
    name : str
        Such as "vgg16".
    weights : str
        Path of a safetensors file with the state of that architecture.
    size : tuple of int
        Of the image, along Y and X.
    place : Path
        Where to save the program.

    Raises
    ------
    Refused
        If torchvision is not there, has no such network, or the weights are of another.
    """
    try:
        from torchvision import models
    except Exception as error:  # one that was built for another torch raises what it likes
        facts = {"name": printable(name)[:100], "why": why_not(error)[:300]}
        raise Refused(refusal("torchvision-missing", **facts)) from None
    known = models.list_models(module=models)
    if name not in known:
        near = get_close_matches(name, known, _NEAREST, cutoff=0)
        facts = {"name": printable(name)[:100], "near": ", ".join(near)}
        raise Refused(refusal("architecture-unknown", **facts))
    import torch

    state = _state(name, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how some architectures draw their first weights
        network = _built(models, name, state, weights)
        example = torch.zeros(1, 3, *size)
        try:
            program = torch.export.export(network, (example,))
        except Exception as error:  # whatever an architecture makes of an odd size
            facts = {"path": name, "why": why_not(error)[:300], "expected": "224 × 224, say"}
            height, width = size
            no = refusal("network-size", height=height, width=width, **facts)
            raise Refused(no) from None
        torch.export.save(program, place)


def _state(name: str, weights: str) -> dict[str, Any]:
    """Read the weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, _ = readable_file(weights)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        facts = {"path": printable(str(path)), "name": name, "why": why_not(error)[:300]}
        raise Refused(refusal("weights-unfit", **facts)) from None


def _built(models: Any, name: str, state: dict[str, Any], weights: str) -> Any:
    """Build the architecture with as many classes as the weights are for, and fill it."""
    import torch

    with torch.device("meta"):  # sizes only: the weights come from the file
        network = models.get_model(name, weights=None)
        last = list(network.state_dict())[-1]
        if last in state and state[last].shape != network.state_dict()[last].shape:
            network = models.get_model(name, weights=None, num_classes=len(state[last]))
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        words = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        facts = {"path": printable(weights), "name": name, "why": printable(words)[:300]}
        raise Refused(refusal("weights-unfit", **facts)) from None
    return network.eval()
