"""Hostile recipes, checkpoints, batches and reports."""

from __future__ import annotations

import json
import pickle
import struct
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import tifffile

from bad_inputs import noisy
from faults.attacks import SHORT, Attack, PicklePayload, denoise, use_pickle
from napari_dip.cli import main
from napari_dip.pipeline.store.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Checkpoint of an unfinished run.
CHECKPOINT = "out.tif.unfinished/checkpoint.safetensors"


def use_recipe(content: str | bytes | Callable[[], bytes]) -> Any:
    """Denoise an image by a recipe with this content."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        tifffile.imwrite(folder / "in.tif", noisy())
        text = content() if callable(content) else content
        text = text.encode() if isinstance(text, str) else text
        text = text.replace(b"{outside}", str(outside).encode())
        (folder / "recipe.json").write_bytes(text)
        return denoise(folder, "in.tif", "--from-recipe", str(folder / "recipe.json"), *SHORT)

    return make_argv


def use_sparse_recipe(folder: Path, outside: Path) -> list[str]:
    argv = use_recipe("{")(folder, outside)
    with (folder / "recipe.json").open("r+b") as file:
        file.truncate(8 * 10**9)
    return argv


def link_recipe(target: str) -> Any:
    def make_argv(folder: Path, outside: Path) -> list[str]:
        argv = use_recipe("{}")(folder, outside)
        (folder / "recipe.json").unlink()
        (folder / "recipe.json").symlink_to(target)
        return argv

    return make_argv


def link_working_file(folder: Path, outside: Path) -> list[str]:
    """Link the working file of a checkpoint outside."""
    tifffile.imwrite(folder / "in.tif", noisy())
    for name in ("out.tif.unfinished.part", "out.tif.part"):
        (folder / name).symlink_to(outside / "treasure")
    return denoise(folder, "in.tif", *SHORT[:2], "--max-iterations", "60", "--quiet")


def link_checkpoint(folder: Path, outside: Path) -> list[str]:
    tifffile.imwrite(folder / "in.tif", noisy())
    (folder / "out.tif.unfinished").symlink_to(outside / "treasure")
    return denoise(folder, "in.tif", *SHORT[:2], "--max-iterations", "60", "--quiet")


def link_output(folder: Path, outside: Path) -> list[str]:
    tifffile.imwrite(folder / "in.tif", noisy())
    (folder / "out.tif").symlink_to(outside / "treasure")
    return denoise(folder, "in.tif", *SHORT)


def resume_from(content: bytes | Callable[[Path], bytes]) -> Any:
    """Resume from a checkpoint with this content."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        tifffile.imwrite(folder / "in.tif", noisy())
        argv = denoise(folder, "in.tif", *SHORT)
        with patch.object(CheckpointStore, "remove", CheckpointStore.write):
            main(argv)  # as if it had been killed at its end
        (folder / "out.tif").unlink()
        assert (folder / CHECKPOINT).exists()
        (folder / CHECKPOINT).write_bytes(content(outside) if callable(content) else content)
        return [*argv, "--resume"]

    return make_argv


def make_pickle(outside: Path) -> bytes:
    return pickle.dumps(PicklePayload(outside / "executed"))


def make_safetensors(header: Any, data: bytes = bytes(64), claimed: int | None = None) -> bytes:
    """Write a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def make_overlapping_tensors(outside: Path) -> bytes:
    entry = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 64]}
    return make_safetensors({"a": entry, "b": entry, "__metadata__": {"napari_dip": "{}"}})


def resume_from_sparse(folder: Path, outside: Path) -> list[str]:
    argv = resume_from(b"")(folder, outside)
    header = {"a": {"dtype": "F32", "shape": [2 * 10**9], "data_offsets": [0, 8 * 10**9]}}
    header["__metadata__"] = {"napari_dip": '{"identity": {}}'}
    text = make_safetensors(header, b"")
    with (folder / CHECKPOINT).open("wb") as file:
        file.write(text)
        file.truncate(len(text) + 8 * 10**9)
    return argv


def make_batch_argv(folder: Path, *names: str, resume: bool = False) -> list[str]:
    use_recipe = {"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 1}
    (folder / "recipe.json").write_text(json.dumps(use_recipe))
    inputs = [str(folder / name) for name in names]
    argv = ["batch", str(folder / "recipe.json"), *inputs, "-o", str(folder / "results")]
    return [*argv, "--quiet", *(["--resume"] if resume else [])]


def claim_outside_result(folder: Path, outside: Path) -> list[str]:
    """Write a list of a batch that claims a file outside as its result."""
    tifffile.imwrite(folder / "in.tif", noisy())
    (folder / "results").mkdir()
    use_recipe = {
        "schema": 1,
        "task": "denoise",
        "settings": {},
        "preset": "fast",
        "max_iterations": 1,
    }
    files = {"../../outside/treasure": "../in.tif", "in.tif": "../in.tif"}
    listed = {"schema": 1, "recipe": use_recipe, "files": files, "refused": []}
    (folder / "results" / "batch.json").write_text(json.dumps(listed))
    (folder / "results" / "in.tif").symlink_to(outside / "treasure")
    return make_batch_argv(folder, "in.tif", resume=True)


def link_records(folder: Path, outside: Path) -> list[str]:
    """Link the folder of records outside."""
    tifffile.imwrite(folder / "in.tif", noisy())
    (folder / "results").mkdir()
    (folder / "results" / "records").symlink_to(outside)
    return make_batch_argv(folder, "in.tif")


def run_batch_on(name: str) -> Any:
    """Run a batch on an image of that name."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        tifffile.imwrite(folder / name, noisy())
        return make_batch_argv(folder, name)

    return make_argv


def find_in_page(text: str, name: str) -> Callable[[Path], str]:
    def check_page(folder: Path) -> str:
        page = (folder / "results" / name).read_text(encoding="utf-8")
        return f"{name} holds {text}" if text in page else ""

    return check_page


def write_methods_of(text: Any) -> Any:
    """Print the methods of an image with this description."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        content = (text() if callable(text) else text).replace("{outside}", str(outside))
        options = {"metadata": {"napari_dip": content}, "photometric": "minisblack"}
        tifffile.imwrite(folder / "in.tif", noisy(), **options)
        return ["methods", str(folder / "in.tif")]

    return make_argv


def describe_huge_report(folder: Path, outside: Path) -> list[str]:
    with (folder / "report.json").open("wb") as file:
        file.truncate(8 * 10**9)
    return ["methods", str(folder / "report.json")]


def nest(text: str) -> Callable[[], bytes]:
    return lambda: (text * 2_000_000).encode()


def make_object_recipe() -> str:
    task = {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["touch x"]]}
    return json.dumps({"schema": 1, "task": "denoise", "settings": task})


def make_long_text() -> bytes:
    head = b'{"schema": 1, "task": "denoise", "settings": {"x": "'
    return head + b"a" * 50_000_000 + b'"}}'


STEP = '{"schema": 1, "task": "denoise", "%s": %s}'

ATTACKS = [
    Attack("pickle as recipe", use_pickle("recipe.json", "--from-recipe", "{folder}/recipe.json")),
    Attack("pickle as checkpoint", resume_from(make_pickle)),
    Attack(
        "torch archive as checkpoint",
        resume_from(lambda outside: b"PK\x03\x04" + make_pickle(outside)),
    ),
    Attack(
        "checkpoint with a header of 2^62 bytes", resume_from(make_safetensors({}, claimed=2**62))
    ),
    Attack(
        "checkpoint whose tensors overlap and claim 2^40 values",
        resume_from(make_overlapping_tensors),
    ),
    Attack("checkpoint of 8 GB", resume_from_sparse),
    Attack(
        "checkpoint whose header is nested deep",
        resume_from(
            lambda _: make_safetensors({"__metadata__": {"napari_dip": "[" * 1_000_000}}, b"")
        ),
    ),
    Attack(
        "checkpoint that is a list",
        resume_from(lambda _: make_safetensors({"__metadata__": {"napari_dip": "[1, 2]"}}, b"")),
    ),
    Attack("recipe of 8 GB", use_sparse_recipe),
    Attack("recipe of 50 MB in one text", use_recipe(make_long_text)),
    Attack("recipe nested two million deep", use_recipe(nest("["))),
    Attack(
        "recipe with a number of ten million digits",
        use_recipe(lambda: (STEP % ("seed", "9" * 10_000_000)).encode()),
    ),
    Attack("recipe that leads to itself", link_recipe("recipe.json")),
    Attack("recipe that is an endless device", link_recipe("/dev/zero")),
    Attack("recipe with objects to make", use_recipe(make_object_recipe)),
    Attack(
        "recipe whose task is a path", use_recipe('{"schema": 1, "task": "../../outside/treasure"}')
    ),
    Attack("recipe whose seed is not a number", use_recipe(STEP % ("seed", "NaN"))),
    Attack("recipe with a device of its own", use_recipe(STEP % ("device", '"cuda:0; rm -rf /"'))),
    Attack("link where the checkpoint is written", link_working_file, (0,)),
    Attack("link where the checkpoint lies", link_checkpoint, (0,)),
    Attack("link where the result goes", link_output),
    Attack("list of a batch that claims a file outside", claim_outside_result, (1, 2)),
    Attack("receipts that lie outside", link_records, (1, 2)),
    Attack(
        "name that is HTML",
        run_batch_on("<img src=x onerror=alert(1)>.tif"),
        (0,),
        find_damage=find_in_page("<img src=x", "batch.html"),
    ),
    Attack(
        "name that is a formula",
        run_batch_on("=cmd|' C calc'!A0.tif"),
        (0,),
        find_damage=find_in_page('"=cmd', "batch.csv"),
    ),
    Attack(
        "name with signs for the terminal",
        run_batch_on("a\x1b]0;owned\x07\n.tif"),
        (0,),
        forbidden="\x1b",
    ),
    Attack("methods of an image with nested JSON", write_methods_of("[" * 200_000)),
    Attack(
        "methods of an image whose report is made up",
        write_methods_of(
            json.dumps({"recipe": {"schema": 1, "task": "../x"}, "report": {"task": "x"}})
        ),
    ),
    Attack("report of 8 GB", describe_huge_report),
]
