"""Recipes, checkpoints, batches and reports made to do harm."""

from __future__ import annotations

import json
import pickle
import struct
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import tifffile

from bad_inputs import noisy
from faults.attack import SHORT, Attack, Bomb, denoise, pickled
from napari_dip.cli import main
from napari_dip.pipeline.store.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Checkpoint of an unfinished run.
CHECKPOINT = "out.tif.unfinished/checkpoint.safetensors"


def recipe(content: str | bytes | Callable[[], bytes]) -> Any:
    """Denoise a good picture by a recipe that holds this."""

    def make(field: Path, outside: Path) -> list[str]:
        tifffile.imwrite(field / "in.tif", noisy())
        text = content() if callable(content) else content
        text = text.encode() if isinstance(text, str) else text
        text = text.replace(b"{outside}", str(outside).encode())
        (field / "recipe.json").write_bytes(text)
        return denoise(field, "in.tif", "--from-recipe", str(field / "recipe.json"), *SHORT)

    return make


def sparse_recipe(field: Path, outside: Path) -> list[str]:
    argv = recipe("{")(field, outside)
    with (field / "recipe.json").open("r+b") as file:
        file.truncate(8 * 10**9)
    return argv


def linked_recipe(target: str) -> Any:
    def make(field: Path, outside: Path) -> list[str]:
        argv = recipe("{}")(field, outside)
        (field / "recipe.json").unlink()
        (field / "recipe.json").symlink_to(target)
        return argv

    return make


def linked_part(field: Path, outside: Path) -> list[str]:
    """Lay a link where a checkpoint is written on its way, leading outside."""
    tifffile.imwrite(field / "in.tif", noisy())
    for name in ("out.tif.unfinished.part", "out.tif.part"):
        (field / name).symlink_to(outside / "treasure")
    return denoise(field, "in.tif", *SHORT[:2], "--max-iterations", "60", "--quiet")


def linked_checkpoint(field: Path, outside: Path) -> list[str]:
    tifffile.imwrite(field / "in.tif", noisy())
    (field / "out.tif.unfinished").symlink_to(outside / "treasure")
    return denoise(field, "in.tif", *SHORT[:2], "--max-iterations", "60", "--quiet")


def linked_output(field: Path, outside: Path) -> list[str]:
    tifffile.imwrite(field / "in.tif", noisy())
    (field / "out.tif").symlink_to(outside / "treasure")
    return denoise(field, "in.tif", *SHORT)


def checkpoint(content: bytes | Callable[[Path], bytes]) -> Any:
    """Go on from a checkpoint that holds this, in the folder of the very run."""

    def make(field: Path, outside: Path) -> list[str]:
        tifffile.imwrite(field / "in.tif", noisy())
        argv = denoise(field, "in.tif", *SHORT)
        with patch.object(CheckpointStore, "remove", CheckpointStore.write):
            main(argv)  # as if it had been killed at its end
        (field / "out.tif").unlink()
        assert (field / CHECKPOINT).exists()
        (field / CHECKPOINT).write_bytes(content(outside) if callable(content) else content)
        return [*argv, "--resume"]

    return make


def bomb(outside: Path) -> bytes:
    return pickle.dumps(Bomb(outside / "executed"))


def tensors(header: Any, data: bytes = bytes(64), claimed: int | None = None) -> bytes:
    """Write a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def overlapping(outside: Path) -> bytes:
    entry = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 64]}
    return tensors({"a": entry, "b": entry, "__metadata__": {"napari_dip": "{}"}})


def sparse_checkpoint(field: Path, outside: Path) -> list[str]:
    argv = checkpoint(b"")(field, outside)
    header = {"a": {"dtype": "F32", "shape": [2 * 10**9], "data_offsets": [0, 8 * 10**9]}}
    header["__metadata__"] = {"napari_dip": '{"identity": {}}'}
    text = tensors(header, b"")
    with (field / CHECKPOINT).open("wb") as file:
        file.write(text)
        file.truncate(len(text) + 8 * 10**9)
    return argv


def batch(field: Path, *names: str, resume: bool = False) -> list[str]:
    recipe = {"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 1}
    (field / "recipe.json").write_text(json.dumps(recipe))
    inputs = [str(field / name) for name in names]
    argv = ["batch", str(field / "recipe.json"), *inputs, "-o", str(field / "results")]
    return [*argv, "--quiet", *(["--resume"] if resume else [])]


def escaping_list(field: Path, outside: Path) -> list[str]:
    """Let the list of a batch claim a file outside as its own result."""
    tifffile.imwrite(field / "in.tif", noisy())
    (field / "results").mkdir()
    recipe = {"schema": 1, "task": "denoise", "settings": {}, "preset": "fast", "max_iterations": 1}
    files = {"../../outside/treasure": "../in.tif", "in.tif": "../in.tif"}
    listed = {"schema": 1, "recipe": recipe, "files": files, "refused": []}
    (field / "results" / "batch.json").write_text(json.dumps(listed))
    (field / "results" / "in.tif").symlink_to(outside / "treasure")
    return batch(field, "in.tif", resume=True)


def linked_receipts(field: Path, outside: Path) -> list[str]:
    """Let the folder of receipts lead outside."""
    tifffile.imwrite(field / "in.tif", noisy())
    (field / "results").mkdir()
    (field / "results" / "records").symlink_to(outside)
    return batch(field, "in.tif")


def named(name: str) -> Any:
    """Run a batch on a picture of that name."""

    def make(field: Path, outside: Path) -> list[str]:
        tifffile.imwrite(field / name, noisy())
        return batch(field, name)

    return make


def page_without(text: str, name: str) -> Callable[[Path], str]:
    def check_page(field: Path) -> str:
        page = (field / "results" / name).read_text(encoding="utf-8")
        return f"{name} holds {text}" if text in page else ""

    return check_page


def write_methods_of(text: Any) -> Any:
    """Ask for the methods of a picture whose description holds this."""

    def make(field: Path, outside: Path) -> list[str]:
        content = (text() if callable(text) else text).replace("{outside}", str(outside))
        options = {"metadata": {"napari_dip": content}, "photometric": "minisblack"}
        tifffile.imwrite(field / "in.tif", noisy(), **options)
        return ["methods", str(field / "in.tif")]

    return make


def huge_report(field: Path, outside: Path) -> list[str]:
    with (field / "report.json").open("wb") as file:
        file.truncate(8 * 10**9)
    return ["methods", str(field / "report.json")]


def deep(text: str) -> Callable[[], bytes]:
    return lambda: (text * 2_000_000).encode()


def object_recipe() -> str:
    task = {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["touch x"]]}
    return json.dumps({"schema": 1, "task": "denoise", "settings": task})


def giant() -> bytes:
    head = b'{"schema": 1, "task": "denoise", "settings": {"x": "'
    return head + b"a" * 50_000_000 + b'"}}'


STEP = '{"schema": 1, "task": "denoise", "%s": %s}'

ATTACKS = [
    Attack("pickle as recipe", pickled("recipe.json", "--from-recipe", "{field}/recipe.json")),
    Attack("pickle as checkpoint", checkpoint(bomb)),
    Attack(
        "torch archive as checkpoint",
        checkpoint(lambda outside: b"PK\x03\x04" + bomb(outside)),
    ),
    Attack("checkpoint with a header of 2^62 bytes", checkpoint(tensors({}, claimed=2**62))),
    Attack(
        "checkpoint whose tensors overlap and claim 2^40 values",
        checkpoint(overlapping),
    ),
    Attack("checkpoint of 8 GB", sparse_checkpoint),
    Attack(
        "checkpoint whose header is nested deep",
        checkpoint(lambda _: tensors({"__metadata__": {"napari_dip": "[" * 1_000_000}}, b"")),
    ),
    Attack(
        "checkpoint that is a list",
        checkpoint(lambda _: tensors({"__metadata__": {"napari_dip": "[1, 2]"}}, b"")),
    ),
    Attack("recipe of 8 GB", sparse_recipe),
    Attack("recipe of 50 MB in one text", recipe(giant)),
    Attack("recipe nested two million deep", recipe(deep("["))),
    Attack(
        "recipe with a number of ten million digits",
        recipe(lambda: (STEP % ("seed", "9" * 10_000_000)).encode()),
    ),
    Attack("recipe that leads to itself", linked_recipe("recipe.json")),
    Attack("recipe that is an endless device", linked_recipe("/dev/zero")),
    Attack("recipe with objects to make", recipe(object_recipe)),
    Attack(
        "recipe whose task is a path", recipe('{"schema": 1, "task": "../../outside/treasure"}')
    ),
    Attack("recipe whose seed is not a number", recipe(STEP % ("seed", "NaN"))),
    Attack("recipe with a device of its own", recipe(STEP % ("device", '"cuda:0; rm -rf /"'))),
    Attack("link where the checkpoint is written", linked_part, (0,)),
    Attack("link where the checkpoint lies", linked_checkpoint, (0,)),
    Attack("link where the result goes", linked_output),
    Attack("list of a batch that claims a file outside", escaping_list, (1, 2)),
    Attack("receipts that lie outside", linked_receipts, (1, 2)),
    Attack(
        "name that is HTML",
        named("<img src=x onerror=alert(1)>.tif"),
        (0,),
        check=page_without("<img src=x", "batch.html"),
    ),
    Attack(
        "name that is a formula",
        named("=cmd|' C calc'!A0.tif"),
        (0,),
        check=page_without(",=cmd", "batch.csv"),
    ),
    Attack(
        "name with signs for the terminal", named("a\x1b]0;owned\x07\n.tif"), (0,), unsaid="\x1b"
    ),
    Attack("methods of a picture with nested JSON", write_methods_of("[" * 200_000)),
    Attack(
        "methods of a picture whose report is made up",
        write_methods_of(
            json.dumps({"recipe": {"schema": 1, "task": "../x"}, "report": {"task": "x"}})
        ),
    ),
    Attack("report of 8 GB", huge_report),
]
