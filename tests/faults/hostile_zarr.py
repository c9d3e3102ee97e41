"""Hostile OME-Zarrs: links and levels outside the folder, huge chunks, pickles."""

from __future__ import annotations

import gzip
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from bad_inputs import noisy
from faults.attacks import SHORT, Attack, denoise
from napari_dip.io.writing import write_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "in.ome.zarr"


def denoise_changed(change: Callable[[Path, Path], object]) -> Callable[[Path, Path], list[str]]:
    """Denoise an OME-Zarr after `change`, which also gets a folder outside."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        path = write_image(folder / NAME, noisy(4, 32, 32), axes="ZYX")
        change(path, outside)
        return denoise(folder, NAME, *SHORT)

    return make_argv


def change_metadata(place: str, change: Callable[[Any], object]) -> Callable[[Path, Path], None]:
    """Change one file of metadata."""

    def rewrite(path: Path, outside: Path) -> None:
        record = json.loads((path / place).read_text(encoding="utf-8"))
        change(record)
        (path / place).write_text(json.dumps(record), encoding="utf-8")

    return rewrite


def list_levels(metadata: Any) -> Any:
    return metadata["attributes"]["ome"]["multiscales"][0]["datasets"]


def find_chunk(path: Path) -> Path:
    return next(path for path in (path / "0" / "c").rglob("*") if path.is_file())


def link_chunk(path: Path, outside: Path) -> None:
    chunk = find_chunk(path)
    chunk.unlink()
    chunk.symlink_to(outside / "treasure")


def link_level(path: Path, outside: Path) -> None:
    """Move the level outside and link it."""
    (path / "0").rename(outside / "level")
    (path / "0").symlink_to(outside / "level")


def link_metadata(target: str, path: Path, outside: Path) -> None:
    (path / "zarr.json").unlink()
    (path / "zarr.json").symlink_to(target.format(outside=outside))


def claim_huge_shape(metadata: Any) -> None:
    metadata["shape"] = [2**40] * 3
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [2**40] * 3


def write_chunk_bomb(path: Path, outside: Path) -> None:
    """Write a chunk of 8 KB that decompresses to 4 GiB."""
    change_metadata("0/zarr.json", set_gzip_codec)(path, outside)
    with gzip.open(find_chunk(path), "wb", 9) as file:
        for _ in range(2**12):
            file.write(bytes(2**20))


def set_gzip_codec(metadata: Any) -> None:
    metadata["codecs"] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "gzip", "configuration": {"level": 9}},
    ]


def nest_metadata(path: Path, outside: Path) -> None:
    (path / "zarr.json").write_text('{"attributes": ' + "[" * 2_000_000, encoding="utf-8")


def write_sparse_metadata(path: Path, outside: Path) -> None:
    with (path / "zarr.json").open("wb") as file:
        file.truncate(8 * 10**9)


ATTACKS = [
    Attack(
        "Zarr with a chunk that is a link outside", denoise_changed(link_chunk), forbidden="mine"
    ),
    Attack("Zarr whose level is a link outside", denoise_changed(link_level)),
    Attack(
        "Zarr whose level is named outside",
        denoise_changed(
            change_metadata(
                "zarr.json", lambda metadata: list_levels(metadata)[0].update(path="../../outside")
            )
        ),
    ),
    Attack(
        "Zarr whose metadata are a link outside",
        denoise_changed(partial(link_metadata, "{outside}/treasure")),
        forbidden="mine",
    ),
    Attack(
        "Zarr whose metadata are an endless device",
        denoise_changed(partial(link_metadata, "/dev/zero")),
    ),
    Attack(
        "Zarr whose metadata lead to themselves",
        denoise_changed(partial(link_metadata, "zarr.json")),
    ),
    Attack("Zarr whose metadata are nested two million deep", denoise_changed(nest_metadata)),
    Attack("Zarr with metadata of 8 GB", denoise_changed(write_sparse_metadata)),
    Attack(
        "Zarr that claims 2^120 voxels in one chunk",
        denoise_changed(change_metadata("0/zarr.json", claim_huge_shape)),
    ),
    Attack("Zarr with a chunk that unpacks to 4 GiB", denoise_changed(write_chunk_bomb)),
    Attack(
        "Zarr with a codec that unpickles",
        denoise_changed(
            change_metadata(
                "0/zarr.json",
                lambda metadata: metadata["codecs"].append(
                    {"name": "numcodecs.pickle", "configuration": {}}
                ),
            )
        ),
    ),
    Attack(
        "Zarr of a million levels",
        denoise_changed(
            change_metadata(
                "zarr.json", lambda metadata: list_levels(metadata).extend([{"path": "0"}] * 10**6)
            )
        ),
    ),
]
