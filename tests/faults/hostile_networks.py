"""Hostile networks: pickles in their archives, impossible sizes, paths outside the folder."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import tifffile

from bad_inputs import noisy
from faults.attacks import Attack, PicklePayload
from programs import (
    make_convolution,
    make_entries,
    make_small_program,
    make_step,
    refer_to,
    write_archive,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Content = dict[str, bytes]


def make_invert_argv(folder: Path, name: str, layer: str = "body.3") -> list[str]:
    """Build the command that inverts a layer of that network."""
    tifffile.imwrite(folder / "in.tif", noisy())
    arguments = ["--network", str(folder / name), "--layer", layer]
    return ["invert-features", str(folder / "in.tif"), "-o", str(folder / "out.tif"), *arguments]


def change_archive(
    change: Callable[[Content, bytes], object], layer: str = "body.3", **options: Any
) -> Callable[[Path, Path], list[str]]:
    """Change the entries of a good archive; `change` gets a pickle that creates a file."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        content = make_entries(*make_small_program())
        change(content, pickle.dumps(PicklePayload(outside / "executed")))
        write_archive(folder / "net.pt2", content, **options)
        return make_invert_argv(folder, "net.pt2", layer)

    return make_argv


def write_pickle(name: str) -> Callable[[Path, Path], list[str]]:
    """Write a pickle instead of a network."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(PicklePayload(outside / "executed")))
        return make_invert_argv(folder, name)

    return make_argv


def write_pickle_archive(inner: str) -> Callable[[Path, Path], list[str]]:
    """Write an archive of another kind with a pickle."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        write_archive(
            folder / "net.pt2", {inner: pickle.dumps(PicklePayload(outside / "executed"))}
        )
        return make_invert_argv(folder, "net.pt2")

    return make_argv


def change_weight(**lie: Any) -> Callable[[Path, Path], list[str]]:
    """Change the header of a weight."""

    def change(content: Content, mark: bytes) -> None:
        content.update(make_entries(*make_small_program(), changes={"p_first": lie}))
        content["data/weights/weight_0"] = mark if lie.get("use_pickle") else bytes(144)

    return change_archive(change)


def append_steps(*steps: dict[str, Any], layer: str = "head") -> Callable[[Path, Path], list[str]]:
    """Append steps to a good graph."""

    def change(content: Content, mark: bytes) -> None:
        program, drawn = make_small_program()
        content.update(make_entries([*program, *steps], drawn))

    return change_archive(change, layer)


def nest_graph(content: Content, mark: bytes) -> None:
    content["models/model.json"] = b'{"graph_module": ' + b"[" * 2_000_000


def add_object(content: Content, mark: bytes) -> None:
    """Add a pickled object to the inputs of the graph."""
    model = json.loads(content["models/model.json"])
    spec = {"custom_obj": {"arg": {"name": "o", "class_fqn": "x"}, "custom_obj_name": "o"}}
    model["graph_module"]["signature"]["input_specs"].append(spec)
    content["models/model.json"] = json.dumps(model).encode()
    content["data/constants/opaque_obj_0"] = mark


def add_escaping_entries(folder: Path, outside: Path) -> list[str]:
    """Add entries with paths outside the archive."""
    path = write_archive(folder / "net.pt2", make_entries(*make_small_program()))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"../{outside.name}/treasure", b"theirs")
        file.writestr(str(outside / "treasure"), b"theirs")
    return make_invert_argv(folder, "net.pt2")


def write_sparse_file(folder: Path, outside: Path) -> list[str]:
    """Write a sparse file of 8 GB that begins as an archive."""
    with (folder / "net.pt2").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(8 * 10**9)
    return make_invert_argv(folder, "net.pt2")


def write_shadowing_modules(folder: Path, outside: Path) -> list[str]:
    """Write modules into the current folder, which must not be imported."""
    mark = f"import os\nos.mkdir({str(outside / 'executed')!r})\n"
    for name in ("json", "torch", "napari_dip", "zipfile"):
        (folder / f"{name}.py").write_text(mark, encoding="utf-8")
    write_archive(folder / "net.pt2", make_entries(*make_small_program()))
    return make_invert_argv(folder, "net.pt2", "list")


HUGE = make_step(
    "torch.ops.aten.upsample_nearest2d.vec",
    "huge",
    "head",
    input=refer_to("act_1"),
    output_size={"as_ints": [2**20, 2**20]},
    scale_factors={"as_none": True},
)
FILE = make_step(
    "torch.ops.aten.from_file.default", "read", "head", filename={"as_string": os.devnull}
)
FOREIGN = make_step("torch.ops.mine.run.default", "ran", "head", x=refer_to("act_1"))
LOOP = make_convolution("act_2", "p_second", "act_2", "head")

ATTACKS = [
    Attack("pickle called .pt2", write_pickle("net.pt2")),
    Attack("pickle called .pth", write_pickle("net.pth")),
    Attack("TorchScript called .pt2", write_pickle_archive("constants.pkl")),
    Attack("state of a network called .pt2", write_pickle_archive("data.pkl")),
    Attack(
        "network with a pickle as sample input",
        change_archive(
            lambda content, mark: content.update({"data/sample_inputs/model.pt": mark}), "list"
        ),
    ),
    Attack("network with a pickle as weight", change_weight(use_pickle=True)),
    Attack("network with an object of its own", change_archive(add_object)),
    Attack("network whose weight claims 2^40 values", change_weight(sizes=[2**40, 1, 3, 3])),
    Attack(
        "network whose weight repeats one value 2^40 times",
        change_weight(sizes=[2**40, 1, 3, 3], strides=[0, 0, 0, 0]),
    ),
    Attack("network whose layer has 2^40 values a channel", append_steps(HUGE)),
    Attack("network that reads a file", append_steps(FILE)),
    Attack("network with an operator of its own", append_steps(FOREIGN)),
    Attack("network that waits for itself", append_steps(LOOP)),
    Attack("network whose graph is nested two million deep", change_archive(nest_graph)),
    Attack(
        "network whose entries unpack to a thousand times their size",
        change_archive(
            lambda content, mark: content.update({"data/weights/weight_9": bytes(2**28)}),
            compression=zipfile.ZIP_DEFLATED,
        ),
    ),
    Attack("network whose entries lead elsewhere", add_escaping_entries),
    Attack("network of 8 GB", write_sparse_file),
    Attack("modules beside the network", write_shadowing_modules),
]
