"""Networks from files: read by a process of its own, which hands over plain steps and tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import FAULTS, Refusal, Refused, refusal
from napari_dip.io.paths import printable, readable_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

#: Most memory and time that reading a network and one look through it may take: VGG-19, the
#: largest of the classic ones, has 0.6 GB of weights, which are held three times over.
MOST_BYTES, MOST_SECONDS = 4 * 2**30, 180
#: What the child says with its exit code.
_ANSWERED, _REFUSED, _NO_MEMORY = 0, 2, 3
#: Most letters of a refusal that are shown: the list of the layers of a large network.
_LONGEST = 20_000


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """Where a network comes from.

    Attributes
    ----------
    network : str
        Path of a program of torch.export, or name of an architecture of torchvision.
    weights : str or None
        Path of the architecture's weights.
    """

    network: str
    weights: str | None

    def check(self) -> Refusal | None:
        """Say no to what is missing or of a wrong kind, without opening it."""
        from napari_dip.io.program_archive import FOREIGN

        network, weights = self.network.strip(), self.weights
        if not network:
            return refusal("network-missing")
        kind = FOREIGN.get(Path(network).suffix.lower())
        if kind is not None:
            return refusal("network-type", path=printable(network), kind=kind)
        try:
            for path in self.paths:
                readable_file(path)
        except Refused as no:
            return no.refusal
        if self.is_program:
            named = {"path": printable(network), "weights": printable(str(weights))}
            return refusal("weights-extra", **named) if weights else None
        return None if weights else refusal("weights-missing", name=printable(network))

    @property
    def is_program(self) -> bool:
        """Whether the network is a file, not an architecture."""
        return Path(self.network).suffix != "" or os.sep in self.network

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that are read."""
        return (self.network,) if self.is_program else tuple(filter(None, (self.weights,)))


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network up to one of its layers.

    Attributes
    ----------
    description : mapping
        Of its steps, as `engine.feature_graph.FeatureGraph` takes it.
    tensors : mapping of str to ndarray
        Its weights.
    channels : int
        That its picture has.
    shape : tuple of int
        Of the activations of one image, without the batch.
    sha256 : str
        Of the file that the weights come from.
    """

    description: Mapping[str, Any]
    tensors: Mapping[str, npt.NDArray[Any]]
    channels: int
    shape: tuple[int, ...]
    sha256: str


def load_network(
    file: NetworkFile, layer: str, size: tuple[int, ...], *, memory: int = MOST_BYTES
) -> Network | Refusal:
    """Read a network up to a layer, and look at a picture of that size through it.

    Parameters
    ----------
    file : NetworkFile
    layer : str
        Path of a module; "list" is refused with the names of all.
    size : tuple of int
        Of the image, along Y and X.
    memory : int
        Most bytes that the child may take.

    Returns
    -------
    Network or Refusal
        The same network is read once, as long as its files stay as they are.
    """
    if layer == "list":
        layers = layers_of(file, size)
        if isinstance(layers, Refusal):
            return layers
        told = ", ".join(f"{printable(path)} ({sizes})" for path, sizes in layers)[:_LONGEST]
        facts = {"path": printable(file.network), "count": len(layers), "layers": told}
        return refusal("layer-list", **facts)
    found = _read(file, layer, size, memory)
    assert not isinstance(found, tuple)
    return found


def layers_of(file: NetworkFile, size: tuple[int, ...]) -> tuple[tuple[str, str], ...] | Refusal:
    """List the layers of a network, in the order in which they answer.

    Parameters
    ----------
    file : NetworkFile
    size : tuple of int
        Of the image, along Y and X.

    Returns
    -------
    tuple of (path, size of its answer) or Refusal
    """
    found = _read(file, None, size, MOST_BYTES)
    assert not isinstance(found, Network)
    return found


def _read(
    file: NetworkFile, layer: str | None, size: tuple[int, ...], memory: int
) -> Network | tuple[tuple[str, str], ...] | Refusal:
    """Read a network up to a layer, or its layers where none is named, unless that is refused."""
    if no := file.check():
        return no
    try:
        return _load(file, layer, size, memory, _states(file))
    except Refused as error:
        return error.refusal


def _states(file: NetworkFile) -> tuple[Any, ...]:
    """Tell when the files were last changed, and how long they are."""
    return tuple((status.st_mtime_ns, status.st_size) for status in map(os.stat, file.paths))


@lru_cache(maxsize=4)
def _load(
    file: NetworkFile,
    layer: str | None,
    size: tuple[int, ...],
    memory: int,
    states: tuple[Any, ...],
) -> Network | tuple[tuple[str, str], ...]:
    """Let the child read; what it says no to is raised, and so asked for again the next time."""
    from napari_dip.io.digest import file_sha256
    from napari_dip.tasks.network_child import ANSWER, LAYERS, REFUSAL

    with tempfile.TemporaryDirectory(prefix="napari-dip-") as made:
        folder = Path(made)
        request: dict[str, Any] = {"path": file.network, "weights": file.weights}
        request |= {"layer": layer, "size": size, "memory": memory, "seconds": MOST_SECONDS}
        code = _child(folder, json.dumps(request))
        if code == _ANSWERED and layer is None:
            told = json.loads((folder / LAYERS).read_text(encoding="utf-8"))
            return tuple((str(path), str(sizes)) for path, sizes in told)
        if code == _ANSWERED:
            return _network(folder / ANSWER, file_sha256(Path(file.paths[0])))
        if code == _REFUSED:
            raise Refused(_refusal(folder / REFUSAL))
        shown = printable(file.network)
        if code == _NO_MEMORY or code < 0:  # a signal: the limit of time or of memory
            limit = f"{memory / 2**30:.1f} GB of memory or {MOST_SECONDS} s"
            raise Refused(refusal("network-limits", path=shown, limit=limit))
        why = "its reader could make no sense of it"
        raise Refused(refusal("network-broken", path=shown, why=why))


def _child(folder: Path, request: str) -> int:
    """Let the child work; its exit code, below zero where it was ended."""
    # -P: nothing is imported from the folder in which the program happens to run
    words = [sys.executable, "-P", "-m", "napari_dip.tasks.network_child", str(folder)]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        return subprocess.run(
            words,
            env={**os.environ, **quiet},
            input=request,
            encoding="utf-8",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=2 * MOST_SECONDS,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        ).returncode
    except subprocess.TimeoutExpired:
        return -1


def _network(answer: Path, sha256: str) -> Network:
    """Read what the child hands over; it is built, and so checked again, before it is used."""
    # as arrays: torch is loaded later, once no reason is left to say no
    from safetensors import safe_open

    with safe_open(answer, framework="np") as found:
        told = json.loads(found.metadata()["napari_dip"])
        tensors = {name: found.get_tensor(name) for name in found.keys()}
    shape = tuple(told["shape"][1:])
    return Network(told["network"], tensors, int(told["channels"]), shape, sha256)


def _refusal(path: Path) -> Refusal:
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["code"] in FAULTS
    words = (printable(str(told[key]))[:_LONGEST] for key in ("sentence", "remedy"))
    return Refusal(told["code"], *words)
