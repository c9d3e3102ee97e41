"""OME-Zarrs made to do harm: links and levels that lead elsewhere, absurd chunks, pickles."""

from __future__ import annotations

import gzip
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from bad_inputs import noisy
from faults.attack import SHORT, Attack, denoise
from napari_dip.io.writing import write_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "in.ome.zarr"


def spoilt(spoil: Callable[[Path, Path], object]) -> Callable[[Path, Path], list[str]]:
    """Denoise a good OME-Zarr once something was done to it; `spoil` also gets a folder outside."""

    def make(field: Path, outside: Path) -> list[str]:
        whole = write_image(field / NAME, noisy(4, 32, 32), axes="ZYX")
        spoil(whole, outside)
        return denoise(field, NAME, *SHORT)

    return make


def change_metadata(place: str, change: Callable[[Any], object]) -> Callable[[Path, Path], None]:
    """Let a file of metadata say something else."""

    def spoil(whole: Path, outside: Path) -> None:
        record = json.loads((whole / place).read_text(encoding="utf-8"))
        change(record)
        (whole / place).write_text(json.dumps(record), encoding="utf-8")

    return spoil


def levels(metadata: Any) -> Any:
    return metadata["attributes"]["ome"]["multiscales"][0]["datasets"]


def chunk_of(whole: Path) -> Path:
    return next(path for path in (whole / "0" / "c").rglob("*") if path.is_file())


def linked_chunk(whole: Path, outside: Path) -> None:
    chunk = chunk_of(whole)
    chunk.unlink()
    chunk.symlink_to(outside / "treasure")


def linked_level(whole: Path, outside: Path) -> None:
    """Let the level lie outside, whole and sound."""
    (whole / "0").rename(outside / "level")
    (whole / "0").symlink_to(outside / "level")


def linked_metadata(target: str, whole: Path, outside: Path) -> None:
    (whole / "zarr.json").unlink()
    (whole / "zarr.json").symlink_to(target.format(outside=outside))


def absurd(metadata: Any) -> None:
    metadata["shape"] = [2**40] * 3
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [2**40] * 3


def bomb(whole: Path, outside: Path) -> None:
    """Let a chunk of 8 KB unpack to 4 GiB."""
    change_metadata("0/zarr.json", gzipped)(whole, outside)
    with gzip.open(chunk_of(whole), "wb", 9) as file:
        for _ in range(2**12):
            file.write(bytes(2**20))


def gzipped(metadata: Any) -> None:
    metadata["codecs"] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "gzip", "configuration": {"level": 9}},
    ]


def nested(whole: Path, outside: Path) -> None:
    (whole / "zarr.json").write_text('{"attributes": ' + "[" * 2_000_000, encoding="utf-8")


def sparse(whole: Path, outside: Path) -> None:
    with (whole / "zarr.json").open("wb") as file:
        file.truncate(8 * 10**9)


ATTACKS = [
    Attack("Zarr with a chunk that is a link outside", spoilt(linked_chunk), unsaid="mine"),
    Attack("Zarr whose level is a link outside", spoilt(linked_level)),
    Attack(
        "Zarr whose level is named outside",
        spoilt(
            change_metadata(
                "zarr.json", lambda metadata: levels(metadata)[0].update(path="../../outside")
            )
        ),
    ),
    Attack(
        "Zarr whose metadata are a link outside",
        spoilt(partial(linked_metadata, "{outside}/treasure")),
        unsaid="mine",
    ),
    Attack(
        "Zarr whose metadata are an endless device", spoilt(partial(linked_metadata, "/dev/zero"))
    ),
    Attack("Zarr whose metadata lead to themselves", spoilt(partial(linked_metadata, "zarr.json"))),
    Attack("Zarr whose metadata are nested two million deep", spoilt(nested)),
    Attack("Zarr with metadata of 8 GB", spoilt(sparse)),
    Attack(
        "Zarr that claims 2^120 voxels in one chunk", spoilt(change_metadata("0/zarr.json", absurd))
    ),
    Attack("Zarr with a chunk that unpacks to 4 GiB", spoilt(bomb)),
    Attack(
        "Zarr with a codec that unpickles",
        spoilt(
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
        spoilt(
            change_metadata(
                "zarr.json", lambda metadata: levels(metadata).extend([{"path": "0"}] * 10**6)
            )
        ),
    ),
]
