"""Networks from files: read by a process of its own, which hands over plain steps and tensors.

What a network expects of its picture: its range, and mean and deviation to be taken off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from napari_dip.errors import FAULTS, Refusal, Refused, read_refusal, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import check_readable_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

#: Most memory and time that reading a network and one look through it may take: VGG-19, the
#: largest of the classic ones, has 0.6 GB of weights, which are held three times over.
MAX_LOADING_BYTES, MAX_LOADING_SECONDS = 4 * 2**30, 180
#: What the child says with its exit code.
_EXIT_ANSWER, _EXIT_REFUSAL, _EXIT_OUT_OF_MEMORY = 0, 2, 3
#: Most letters of a refusal that are shown: the list of the layers of a large network.
_MAX_REFUSAL_LENGTH = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
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
        from napari_dip.io.programs.archive import FOREIGN_FORMATS

        network, weights = self.network.strip(), self.weights
        if not network:
            return refusal("network-missing")
        kind = FOREIGN_FORMATS.get(Path(network).suffix.lower())
        if kind is not None:
            return refusal("network-type", path=make_printable(network), kind=kind)
        try:
            for path in self.paths:
                check_readable_file(path)
        except Refused as no:
            return no.refusal
        if self.is_program:
            named = {"path": make_printable(network), "weights": make_printable(str(weights))}
            return refusal("weights-extra", **named) if weights else None
        return None if weights else refusal("weights-missing", name=make_printable(network))

    @property
    def is_program(self) -> bool:
        """Whether the network is a file, not an architecture."""
        return Path(self.network).suffix != "" or os.sep in self.network

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that are read."""
        return (self.network,) if self.is_program else tuple(filter(None, (self.weights,)))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImportedNetwork:
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
    file: NetworkFile, layer: str, size: tuple[int, ...], *, memory: int = MAX_LOADING_BYTES
) -> ImportedNetwork | Refusal:
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
    ImportedNetwork or Refusal
        The same network is read once, as long as its files stay as they are.
    """
    if layer == "list":
        layers = list_network_layers(file, size)
        if isinstance(layers, Refusal):
            return layers
        details = ", ".join(f"{make_printable(path)} ({sizes})" for path, sizes in layers)[
            :_MAX_REFUSAL_LENGTH
        ]
        facts = {"path": make_printable(file.network), "count": len(layers), "layers": details}
        return refusal("layer-list", **facts)
    network = _read_or_refuse(file, layer, size, memory)
    assert not isinstance(network, tuple)
    return network


def list_network_layers(
    file: NetworkFile, size: tuple[int, ...]
) -> tuple[tuple[str, str], ...] | Refusal:
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
    network = _read_or_refuse(file, None, size, MAX_LOADING_BYTES)
    assert not isinstance(network, ImportedNetwork)
    return network


def _read_or_refuse(
    file: NetworkFile, layer: str | None, size: tuple[int, ...], memory: int
) -> ImportedNetwork | tuple[tuple[str, str], ...] | Refusal:
    """Read a network up to a layer, or its layers where none is named, unless that is refused."""
    if no := file.check():
        return no
    try:
        return _load(file, layer, size, memory, _stat_network_files(file))
    except Refused as error:
        return error.refusal


def _stat_network_files(file: NetworkFile) -> tuple[Any, ...]:
    """Tell when the files were last changed, and how long they are."""
    return tuple((status.st_mtime_ns, status.st_size) for status in map(os.stat, file.paths))


@lru_cache(maxsize=4)
def _load(
    file: NetworkFile,
    layer: str | None,
    size: tuple[int, ...],
    memory: int,
    states: tuple[Any, ...],
) -> ImportedNetwork | tuple[tuple[str, str], ...]:
    """Let the child read; what it says no to is raised, and so asked for again the next time."""
    from napari_dip.io.integrity import compute_file_sha256
    from napari_dip.tasks.network_import.child import ANSWER_FILE, LAYERS_FILE, REFUSAL_FILE

    with tempfile.TemporaryDirectory(prefix="napari-dip-") as folder_name:
        folder = Path(folder_name)
        request: dict[str, Any] = {"path": file.network, "weights": file.weights}
        request |= {"layer": layer, "size": size, "memory": memory, "seconds": MAX_LOADING_SECONDS}
        code = _run_child(folder, json.dumps(request))
        if code == _EXIT_ANSWER and layer is None:
            data = json.loads((folder / LAYERS_FILE).read_text(encoding="utf-8"))
            return tuple((str(path), str(sizes)) for path, sizes in data)
        if code == _EXIT_ANSWER:
            return _read_network_answer(
                folder / ANSWER_FILE, compute_file_sha256(Path(file.paths[0]))
            )
        if code == _EXIT_REFUSAL:
            raise Refused(_read_child_refusal(folder / REFUSAL_FILE))
        printable = make_printable(file.network)
        if code == _EXIT_OUT_OF_MEMORY or code < 0:  # a signal: the limit of time or of memory
            limit = f"{memory / 2**30:.1f} GB of memory or {MAX_LOADING_SECONDS} s"
            raise Refused(refusal("network-limits", path=printable, limit=limit))
        why = "its reader could make no sense of it"
        raise Refused(refusal("network-broken", path=printable, why=why))


def _run_child(folder: Path, request: str) -> int:
    """Let the child work; its exit code, below zero where it was ended."""
    # -P: nothing is imported from the folder in which the program happens to run
    text = [sys.executable, "-P", "-m", "napari_dip.tasks.network_import.child", str(folder)]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        return subprocess.run(
            text,
            env={**os.environ, **quiet},
            input=request,
            encoding="utf-8",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=2 * MAX_LOADING_SECONDS,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        ).returncode
    except subprocess.TimeoutExpired:
        return -1


def _read_network_answer(answer: Path, sha256: str) -> ImportedNetwork:
    """Read what the child hands over; it is built, and so checked again, before it is used."""
    # as arrays: torch is loaded later, once no reason is left to say no
    from safetensors import safe_open

    with safe_open(answer, framework="np") as answer_file:
        data = json.loads(answer_file.metadata()["napari_dip"])
        tensors = {name: answer_file.get_tensor(name) for name in answer_file.keys()}
    shape = tuple(data["shape"][1:])
    return ImportedNetwork(
        description=data["network"],
        tensors=tensors,
        channels=int(data["channels"]),
        shape=shape,
        sha256=sha256,
    )


def _read_child_refusal(path: Path) -> Refusal:
    no = read_refusal(json.loads(path.read_text(encoding="utf-8")))
    assert no.code in FAULTS
    assert len(no.message) <= _MAX_REFUSAL_LENGTH
    return no


#: Of red, green and blue in a range of 0 to 1, over the training images of ImageNet, as all
#: classification networks of torchvision expect it (torchvision.transforms._presets).
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Most numbers that a text may hold.
_MAX_NUMBERS = 64


def normalise_numbers(value: object) -> str:
    """Bring one number, or one for each channel, to the text that recipes keep: "0.5" or "0.5,0.4".

    Parameters
    ----------
    value : float, str or sequence of float

    Raises
    ------
    PydanticCustomError
        If it holds anything but finite numbers.
    """
    parts = list(value) if isinstance(value, list | tuple) else str(value).split(",")
    texts = [str(part).strip() for part in parts]
    if texts == [""]:
        return ""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [float("nan")]
    if len(numbers) > _MAX_NUMBERS or not all(abs(number) < 1e6 for number in numbers):
        raise PydanticCustomError("numbers", "Input should be numbers with commas between")
    return ",".join(f"{number:g}" for number in numbers)


NumbersText = Annotated[str, BeforeValidator(normalise_numbers)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """Mean and deviation of what a network expects, in its own range.

    Attributes
    ----------
    mean, deviation : tuple of float
        One for all channels, or one for each.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def check(self, channels: int) -> Refusal | None:
        """Say no where there are not as many as channels, or where one divides by nothing."""
        for field, values in (("mean", self.mean), ("deviation", self.deviation)):
            text = ",".join(f"{value:g}" for value in values)
            facts = {"field": field, "value": text, "hint": "Give one number, or leave it empty."}
            if len(values) not in (1, channels):
                why = f"the network takes {channels} channels"
                return refusal("setting-wrong", why=why, **facts)
            if field == "deviation" and not min(values) > 0:
                return refusal("setting-wrong", why="it should be above 0", **facts)
        return None

    @property
    def description(self) -> str:
        """What is done, for a note."""
        if self.mean == (0.0,) and self.deviation == (1.0,):
            return "nothing else was done to it"
        mean, deviation = (
            ", ".join(f"{value:g}" for value in values) for values in (self.mean, self.deviation)
        )
        return f"{mean} was taken off, and the rest divided by {deviation}"


def choose_normalisation(choice: str, mean: str, deviation: str, *, program: bool) -> Normalisation:
    """Choose mean and deviation.

    Parameters
    ----------
    choice : {"auto", "imagenet", "none"}
    mean, deviation : str
        Numbers that are to be taken instead, or nothing.
    program : bool
        Whether the network is a program of the user's own.
    """
    usual = (
        IMAGENET if choice == "imagenet" or (choice == "auto" and not program) else ((0.0,), (1.0,))
    )
    means, deviations = (
        tuple(float(part) for part in text.split(",") if part) for text in (mean, deviation)
    )
    return Normalisation(mean=means or usual[0], deviation=deviations or usual[1])


def choose_value_range(
    image: npt.NDArray[np.float32], dtype: str, black: float | None, white: float | None
) -> tuple[float, float]:
    """Choose the values that a network is shown as 0 and 1.

    Parameters
    ----------
    image : ndarray
    dtype : str
        That it came in.
    black, white : float or None
        As the user has it.

    Returns
    -------
    black, white : float
        0 and 255 for images of 8 bits, 0 and 1 for those that lie within, else the extremes.
    """
    least, largest = float(image.min()), float(image.max())
    if dtype == "uint8":
        least, largest = 0.0, 255.0
    elif dtype.startswith("float") and 0 <= least and largest <= 1:
        least, largest = 0.0, 1.0
    low, high = least if black is None else black, largest if white is None else white
    return low, high if high > low else low + 1.0
