"""Networks made to do harm: pickles in their archives, absurd sizes, names that lead elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import tifffile

from bad_inputs import noisy
from faults.attack import Attack, Bomb
from programs import convolution, entries, packed, small, step, tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Content = dict[str, bytes]


def inverting(field: Path, name: str, layer: str = "body.3") -> list[str]:
    """Type what inverts a layer of that network."""
    tifffile.imwrite(field / "in.tif", noisy())
    arguments = ["--network", str(field / name), "--layer", layer]
    return ["invert-features", str(field / "in.tif"), "-o", str(field / "out.tif"), *arguments]


def archive(
    change: Callable[[Content, bytes], object], layer: str = "body.3", **options: Any
) -> Callable[[Path, Path], list[str]]:
    """Change the entries of a good archive; the change is given a pickle that leaves its mark."""

    def make(field: Path, outside: Path) -> list[str]:
        content = entries(*small())
        change(content, pickle.dumps(Bomb(outside / "executed")))
        packed(field / "net.pt2", content, **options)
        return inverting(field, "net.pt2", layer)

    return make


def bare(name: str) -> Callable[[Path, Path], list[str]]:
    """Put a pickle where a network should be."""

    def make(field: Path, outside: Path) -> list[str]:
        (field / name).write_bytes(pickle.dumps(Bomb(outside / "executed")))
        return inverting(field, name)

    return make


def other_archive(inner: str) -> Callable[[Path, Path], list[str]]:
    """Put a pickle into an archive of another kind."""

    def make(field: Path, outside: Path) -> list[str]:
        packed(field / "net.pt2", {inner: pickle.dumps(Bomb(outside / "executed"))})
        return inverting(field, "net.pt2")

    return make


def with_weight(**lie: Any) -> Callable[[Path, Path], list[str]]:
    """Let a weight claim what is not there."""

    def change(content: Content, mark: bytes) -> None:
        content.update(entries(*small(), changes={"p_first": lie}))
        content["data/weights/weight_0"] = mark if lie.get("use_pickle") else bytes(144)

    return archive(change)


def with_steps(*steps: dict[str, Any], layer: str = "head") -> Callable[[Path, Path], list[str]]:
    """Put more steps behind those of a good graph."""

    def change(content: Content, mark: bytes) -> None:
        program, drawn = small()
        content.update(entries([*program, *steps], drawn))

    return archive(change, layer)


def nested(content: Content, mark: bytes) -> None:
    content["models/model.json"] = b'{"graph_module": ' + b"[" * 2_000_000


def objects(content: Content, mark: bytes) -> None:
    """Say that the graph takes an object, which lies in the archive as a pickle."""
    model = json.loads(content["models/model.json"])
    spec = {"custom_obj": {"arg": {"name": "o", "class_fqn": "x"}, "custom_obj_name": "o"}}
    model["graph_module"]["signature"]["input_specs"].append(spec)
    content["models/model.json"] = json.dumps(model).encode()
    content["data/constants/opaque_obj_0"] = mark


def escaping(field: Path, outside: Path) -> list[str]:
    """Let entries lead out of the archive."""
    path = packed(field / "net.pt2", entries(*small()))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"../{outside.name}/treasure", b"theirs")
        file.writestr(str(outside / "treasure"), b"theirs")
    return inverting(field, "net.pt2")


def sparse(field: Path, outside: Path) -> list[str]:
    """Make a file of 8 GB that begins as an archive does."""
    with (field / "net.pt2").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(8 * 10**9)
    return inverting(field, "net.pt2")


def current_folder(field: Path, outside: Path) -> list[str]:
    """Let modules lie in the folder where the command is typed: the reader must not import them."""
    mark = f"import os\nos.mkdir({str(outside / 'executed')!r})\n"
    for name in ("json", "torch", "napari_dip", "zipfile"):
        (field / f"{name}.py").write_text(mark, encoding="utf-8")
    packed(field / "net.pt2", entries(*small()))
    return inverting(field, "net.pt2", "list")


HUGE = step(
    "torch.ops.aten.upsample_nearest2d.vec",
    "huge",
    "head",
    input=tensor("act_1"),
    output_size={"as_ints": [2**20, 2**20]},
    scale_factors={"as_none": True},
)
FILE = step("torch.ops.aten.from_file.default", "read", "head", filename={"as_string": os.devnull})
FOREIGN = step("torch.ops.mine.run.default", "ran", "head", x=tensor("act_1"))
LOOP = convolution("act_2", "p_second", "act_2", "head")

ATTACKS = [
    Attack("pickle called .pt2", bare("net.pt2")),
    Attack("pickle called .pth", bare("net.pth")),
    Attack("TorchScript called .pt2", other_archive("constants.pkl")),
    Attack("state of a network called .pt2", other_archive("data.pkl")),
    Attack(
        "network with a pickle as sample input",
        archive(
            lambda content, mark: content.update({"data/sample_inputs/model.pt": mark}), "list"
        ),
    ),
    Attack("network with a pickle as weight", with_weight(use_pickle=True)),
    Attack("network with an object of its own", archive(objects)),
    Attack("network whose weight claims 2^40 values", with_weight(sizes=[2**40, 1, 3, 3])),
    Attack(
        "network whose weight repeats one value 2^40 times",
        with_weight(sizes=[2**40, 1, 3, 3], strides=[0, 0, 0, 0]),
    ),
    Attack("network whose layer has 2^40 values a channel", with_steps(HUGE)),
    Attack("network that reads a file", with_steps(FILE)),
    Attack("network with an operator of its own", with_steps(FOREIGN)),
    Attack("network that waits for itself", with_steps(LOOP)),
    Attack("network whose graph is nested two million deep", archive(nested)),
    Attack(
        "network whose entries unpack to a thousand times their size",
        archive(
            lambda content, mark: content.update({"data/weights/weight_9": bytes(2**28)}),
            compression=zipfile.ZIP_DEFLATED,
        ),
    ),
    Attack("network whose entries lead elsewhere", escaping),
    Attack("network of 8 GB", sparse),
    Attack("modules beside the network", current_folder),
]
