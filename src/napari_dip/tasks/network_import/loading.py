"""Loading of networks from files in a child process, and normalisation of their input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from napari_dip.errors import (
    FAULTS,
    Refusal,
    RefusedError,
    make_refusal,
    raise_if_refused,
    return_refusal,
)
from napari_dip.errors.templates import make_printable
from napari_dip.io.paths import stat_readable_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.io import AnyArray, Float32Array

#: Name of a layer that asks for the names of all.
LIST_ALL = "list"
#: Why `LIST_ALL` is no value of its setting.
WHY_LISTED = "it asks for the choices"
#: Longest list of layers in the plan, in characters: eight lines of a dock.
_MAX_LIST_LENGTH = 320
#: Maximum memory in bytes of loading and trial run. VGG-19, the largest classic network, has 0.6 GB
#: of weights, of which three copies exist at once.
MAX_LOADING_BYTES = 4 * 2**30
#: Maximum CPU time of loading and trial run in seconds.
MAX_LOADING_SECONDS = 180
#: Exit code of the child process if the network was loaded.
_EXIT_SUCCESS = 0
#: Exit code of the child process if the network was refused.
_EXIT_REFUSAL = 2
#: Exit code of the child process if memory ran out.
_EXIT_OUT_OF_MEMORY = 3
#: Maximum length of a refusal in characters, for the list of layers of a large network.
_MAX_REFUSAL_LENGTH = 20_000
#: Mean and standard deviation of red, green and blue over ImageNet, in a range of 0 to 1, as
#: classification networks of torchvision expect (torchvision.transforms._presets).
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Maximum count of numbers in a text.
_MAX_NUMBERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSource:
    """State where a network comes from.

    Attributes
    ----------
    network : str
        Path of a program of torch.export, or name of an architecture of torchvision.
    weights : str or None
        Path of the architecture's weights.
    """

    network: str
    weights: str | None

    def refuse_files(self) -> Refusal | None:
        """Refuse missing or unsuitable files, without opening them."""
        from napari_dip.io.exported_networks.archive import FOREIGN_FORMATS

        network, weights = self.network.strip(), self.weights
        if not network:
            return make_refusal("network-missing")
        kind = FOREIGN_FORMATS.get(Path(network).suffix.lower())
        if kind is not None:
            return make_refusal("network-type", path=network, kind=kind)
        for path in self.paths:
            status = return_refusal(stat_readable_file)(path)
            if isinstance(status, Refusal):
                return status
        if self.is_program:
            if Path(network).suffix.lower() not in (".pt2", ""):
                why = "its name does not end in .pt2"
                return make_refusal("network-foreign", path=network, why=why)
            named = {"path": make_printable(network), "weights": make_printable(str(weights))}
            return make_refusal("weights-extra", **named) if weights else None
        return None if weights else make_refusal("weights-missing", name=network)

    @property
    def is_program(self) -> bool:
        """Whether the network is a file, not the name of an architecture."""
        return Path(self.network).suffix != "" or os.sep in self.network

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the files that are read."""
        return (self.network,) if self.is_program else tuple(filter(None, (self.weights,)))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImportedNetwork:
    """Network up to one of its layers.

    Attributes
    ----------
    description : mapping
        Steps of the network, as `engine.operators.network_features.FeatureGraph` takes them.
    tensors : mapping of str to ndarray
        Weights and constants.
    channels : int
        Channels of its input.
    shape : tuple of int
        Shape of the activations of one image, without the batch.
    sha256 : str
        Of the file that holds the weights.
    """

    description: Mapping[str, Any]
    tensors: Mapping[str, AnyArray]
    channels: int
    shape: tuple[int, ...]
    sha256: str


def load_network(file: NetworkSource, layer: str, size: tuple[int, ...]) -> ImportedNetwork:
    """Load a network up to a layer, after a trial run on an image of that size.

    A network is cached until its files change.

    Parameters
    ----------
    file : NetworkSource
    layer : str
        Path of a module; `LIST_ALL` returns a refusal with the names of all.
    size : tuple of int
        Size of the image, along Y and X.

    Raises
    ------
    RefusedError
        If the network cannot be used.
    """
    if layer == LIST_ALL:
        layers = list_network_layers(file, size)
        details = ", ".join(f"{make_printable(path)} ({sizes})" for path, sizes in layers)
        facts = {"path": make_printable(file.network), "count": len(layers)}
        raise RefusedError("layer-list", layers=details[:_MAX_REFUSAL_LENGTH], **facts)
    network = _load_network_or_layers(file, layer, size)
    assert not isinstance(network, tuple)
    return network


def refuse_unlisted(
    field: str, value: str, names: tuple[str, ...], hint: str = ""
) -> Refusal | None:
    """Refuse a value that asks for the layers, or is none of them, and name them.

    Parameters
    ----------
    field : str
        Label of the setting.
    value : str
    names : tuple of str
        Of the layers; the nearest come first in the refusal of another one.
    hint : str
        Where else they are listed.
    """
    if value in names:
        return None
    is_request = value == LIST_ALL
    nearest = names if is_request else get_close_matches(value, names, len(names), cutoff=0)
    listed = shorten(", ".join(nearest), _MAX_LIST_LENGTH, placeholder=" …")
    return make_refusal(
        "setting-wrong",
        field=field,
        value=f"'{value}'",
        why=WHY_LISTED if is_request else "the network has no layer of that name",
        hint=f"Choose one of: {'; '.join(filter(None, (listed, hint)))}.",
    )


def list_network_layers(file: NetworkSource, size: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    """List the layers of a network, in the order of their execution.

    Parameters
    ----------
    file : NetworkSource
    size : tuple of int
        Size of the image, along Y and X.

    Returns
    -------
    tuple of (path, size of the activations)

    Raises
    ------
    RefusedError
        If the network cannot be used.
    """
    network = _load_network_or_layers(file, None, size)
    assert not isinstance(network, ImportedNetwork)
    return network


def _load_network_or_layers(
    file: NetworkSource, layer: str | None, size: tuple[int, ...]
) -> ImportedNetwork | tuple[tuple[str, str], ...]:
    """Return the network up to a layer, or its layers if none is named."""
    raise_if_refused(file.refuse_files())
    # as a cache key
    file_stats = tuple((status.st_mtime_ns, status.st_size) for status in map(os.stat, file.paths))
    return _load_in_child(file, layer, size, file_stats)


@lru_cache(maxsize=4)
def _load_in_child(
    file: NetworkSource, layer: str | None, size: tuple[int, ...], file_stats: tuple[Any, ...]
) -> ImportedNetwork | tuple[tuple[str, str], ...]:
    """Run the child process and read its result; refusals are raised, so they are not cached."""
    from napari_dip.io.paths import compute_file_sha256
    from napari_dip.tasks.network_import.child import LAYERS_FILE, REFUSAL_FILE, RESULT_FILE

    with tempfile.TemporaryDirectory(prefix="napari-dip-") as folder_name:
        folder = Path(folder_name)
        request: dict[str, Any] = {"path": file.network, "weights": file.weights}
        request |= {"layer": layer, "size": size}
        request |= {"memory": MAX_LOADING_BYTES, "seconds": MAX_LOADING_SECONDS}
        code = _run_child(folder, json.dumps(request))
        if code == _EXIT_SUCCESS and layer is None:
            data = json.loads((folder / LAYERS_FILE).read_text(encoding="utf-8"))
            return tuple((str(path), str(sizes)) for path, sizes in data)
        if code == _EXIT_SUCCESS:
            sha256 = compute_file_sha256(Path(file.paths[0]))
            return _read_child_result(folder / RESULT_FILE, sha256)
        if code == _EXIT_REFUSAL:
            raise RefusedError(_read_child_refusal(folder / REFUSAL_FILE))
        printable = make_printable(file.network)
        if code == _EXIT_OUT_OF_MEMORY or code < 0:  # ended by the limit of time or memory
            limit = f"{MAX_LOADING_BYTES / 2**30:.1f} GB of memory or {MAX_LOADING_SECONDS} s"
            raise RefusedError("network-limits", path=printable, limit=limit)
        raise RefusedError("network-failed", path=printable, why=f"its reader ended with {code}")


def _run_child(folder: Path, request: str) -> int:
    """Run the child process; return its exit code, negative if it was ended."""
    # -P: do not import modules from the current folder
    command = [sys.executable, "-P", "-m", "napari_dip.tasks.network_import.child", str(folder)]
    thread_limits = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        return subprocess.run(
            command,
            env={**os.environ, **thread_limits},
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


def _read_child_result(path: Path, sha256: str) -> ImportedNetwork:
    """Read the result of the child process."""
    # as arrays: torch is loaded later, after all checks
    from safetensors import safe_open

    with safe_open(path, framework="np") as result_file:
        data = json.loads(result_file.metadata()["napari_dip"])
        tensors = {name: result_file.get_tensor(name) for name in result_file.keys()}
    return ImportedNetwork(
        description=data["network"],
        tensors=tensors,
        channels=int(data["channels"]),
        shape=tuple(data["shape"][1:]),
        sha256=sha256,
    )


def _read_child_refusal(path: Path) -> Refusal:
    child_refusal = Refusal.read(json.loads(path.read_text(encoding="utf-8")))
    assert child_refusal.code in FAULTS
    assert len(child_refusal.message) <= _MAX_REFUSAL_LENGTH
    return child_refusal


def normalise_numbers(value: object) -> str:
    """Convert one number, or one per channel, to its text in recipes: "0.5" or "0.5,0.4".

    Parameters
    ----------
    value : float, str or sequence of float

    Raises
    ------
    PydanticCustomError
        If it holds anything but finite numbers.
    """
    entries = list(value) if isinstance(value, list | tuple) else str(value).split(",")
    texts = [str(entry).strip() for entry in entries]
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
    """Mean and standard deviation that a network expects, in its input range of 0 to 1.

    Attributes
    ----------
    mean, deviation : tuple of float
        One for all channels, or one for each.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def refuse_values(self, channels: int) -> Refusal | None:
        """Refuse a wrong number of values, and deviations that are not above 0."""
        for field, values in (("mean", self.mean), ("deviation", self.deviation)):
            text = ",".join(f"{value:g}" for value in values)
            facts = {"field": field, "value": text, "hint": "Give one number, or leave it empty."}
            if len(values) not in (1, channels):
                why = f"the network takes {channels} channels"
                return make_refusal("setting-wrong", why=why, **facts)
            if field == "deviation" and not min(values) > 0:
                return make_refusal("setting-wrong", why="it should be above 0", **facts)
        return None

    @property
    def description(self) -> str:
        """What the normalisation does, for a note."""
        if self.mean == (0.0,) and self.deviation == (1.0,):
            return "nothing else was done to it"
        mean, deviation = (
            ", ".join(f"{value:g}" for value in values) for values in (self.mean, self.deviation)
        )
        return f"{mean} was taken off, and the rest divided by {deviation}"


def choose_normalisation(
    choice: str, mean: str, deviation: str, *, is_program: bool
) -> Normalisation:
    """Choose mean and standard deviation.

    Parameters
    ----------
    choice : {"auto", "imagenet", "none"}
    mean, deviation : str
        Numbers to use instead, or empty.
    is_program : bool
        Whether the network is a program file, not an architecture of torchvision.
    """
    uses_imagenet = choice == "imagenet" or (choice == "auto" and not is_program)
    default = IMAGENET if uses_imagenet else ((0.0,), (1.0,))
    means, deviations = (
        tuple(float(number) for number in text.split(",") if number) for text in (mean, deviation)
    )
    return Normalisation(mean=means or default[0], deviation=deviations or default[1])


def choose_value_range(
    image: Float32Array, dtype: str, black: float | None, white: float | None
) -> tuple[float, float]:
    """Choose the values of the image that the network takes as 0 and 1.

    Parameters
    ----------
    image : ndarray
    dtype : str
        Original data type of the image.
    black, white : float or None
        The user's values.

    Returns
    -------
    black, white : float
        By default 0 and 255 for 8-bit images, 0 and 1 for floats within that range, else the
        extremes.
    """
    lowest, highest = float(image.min()), float(image.max())
    if dtype == "uint8":
        lowest, highest = 0.0, 255.0
    elif dtype.startswith("float") and 0 <= lowest and highest <= 1:
        lowest, highest = 0.0, 1.0
    low, high = lowest if black is None else black, highest if white is None else white
    return low, high if high > low else low + 1.0
