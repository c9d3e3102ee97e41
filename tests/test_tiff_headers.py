"""Headers of TIFFs that lie about planes, colours and sizes: obeyed, or said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_dip.cli import main
from napari_dip.errors import Refusal, Refused
from napari_dip.io.reading import read_pixels, read_spec
from napari_dip.run.api import restore
from napari_dip.run.machine import this_machine
from napari_dip.run.plan import preflight
from napari_dip.run.recipe import make_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def refused(path: Path, axes: str | None = None) -> str:
    with pytest.raises(Refused) as caught:
        read_pixels(read_spec(path, axes))
    return caught.value.refusal.sentence


def described(path: Path, change: Callable[[str], str], **how: Any) -> np.ndarray:
    """Write ten planes of 20 × 30 pixels, and change what their header says."""
    image = pixels(10, 20, 30)
    kind = {} if how.get("imagej") else {"photometric": "minisblack"}
    tifffile.imwrite(path, image, metadata={"axes": "ZYX"}, **kind, **how)
    with tifffile.TiffFile(path) as file:
        before = file.pages[0].description
    after = change(before)
    assert after != before
    tifffile.tiffcomment(path, after.encode())
    return image


def half(text: str) -> str:
    return text.replace("=10", "=5").replace('"10"', '"5"')


HALVED = "'{}' holds 10 planes, but its header names 5 of them: 5 are left out."


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_that_an_ome_header_leaves_out_are_counted_in_a_note(tmp_path, compression):
    image = described(tmp_path / "a.ome.tif", half, ome=True, compression=compression)
    spec = read_spec(tmp_path / "a.ome.tif")
    assert (spec.axes, spec.shape, spec.notes) == ("ZYX", (5, 20, 30), (HALVED.format(spec.name),))
    np.testing.assert_array_equal(read_pixels(spec), image[:5])


def test_planes_that_an_imagej_header_leaves_out_are_counted_in_a_note(tmp_path):
    described(tmp_path / "a.tif", half, imagej=True)
    spec = read_spec(tmp_path / "a.tif")
    assert (spec.shape, spec.notes) == ((5, 20, 30), (HALVED.format(spec.name),))


def test_planes_that_are_left_out_are_told_by_the_plan_the_terminal_and_the_report(
    tmp_path, capsys
):
    path = tmp_path / "a.ome.tif"
    described(path, half, ome=True)
    note = HALVED.format(path.name)
    plan = preflight(make_recipe("denoise", preset="fast"), read_spec(path), this_machine())
    assert not isinstance(plan, Refusal) and note in plan.notes
    assert main(["plan", "denoise", str(path)]) == 0
    assert note in capsys.readouterr().out.splitlines()
    result = restore(path, make_recipe("denoise", preset="fast", max_iterations=2))
    assert note in result.report["notes"]


@pytest.mark.parametrize("tag", ["", '<TiffData FirstZ="20" IFD="0" PlaneCount="10"/>'])
def test_planes_that_an_ome_header_does_not_place_are_taken_in_order_with_a_note(tmp_path, tag):
    image = described(
        tmp_path / "a.ome.tif", lambda xml: re.sub("<TiffData[^>]*/>", tag, xml), ome=True
    )
    spec = read_spec(tmp_path / "a.ome.tif")
    assert spec.shape == (10, 20, 30) and spec.guessed
    assert "all 10 are taken, in the order in which they are stored" in spec.notes[0]
    np.testing.assert_array_equal(read_pixels(spec), image)


def test_a_page_that_an_ome_header_names_twice_is_told(tmp_path):
    tags = "".join(f'<TiffData FirstZ="{z}" IFD="{z // 2}" PlaneCount="1"/>' for z in range(10))
    described(tmp_path / "a.ome.tif", lambda xml: re.sub("<TiffData[^>]*/>", tags, xml), ome=True)
    left_out, twice = read_spec(tmp_path / "a.ome.tif").notes
    assert left_out == HALVED.format("a.ome.tif")
    assert twice == "The header of 'a.ome.tif' names 5 of its planes more than once."


@pytest.mark.parametrize(
    ("how", "before", "after", "words"),
    [
        ({"ome": True}, '"10"', '"12"', "speaks of 12 planes, but 10 are found"),
        ({"ome": True}, 'PlaneCount="10"', 'PlaneCount="5"', "of 10 planes, but 5 are found"),
        ({"imagej": True, "compression": "zlib"}, "=10", "=12", "of 12 planes, but 10 are found"),
        ({"imagej": True, "compression": "zlib"}, "=10", "=5", "of 5 planes, but 10 are found"),
    ],
)
def test_planes_that_are_promised_but_missing_are_counted_in_the_refusal(
    tmp_path, how, before, after, words
):
    described(tmp_path / "a.tif", lambda text: text.replace(before, after), **how)
    assert words in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("count", ["4", "5"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_shape_that_does_not_fit_the_pages_is_told(tmp_path, compression, count):
    described(tmp_path / "a.tif", lambda text: text.replace("10", count), compression=compression)
    spec = read_spec(tmp_path / "a.tif")
    assert spec.shape == (10, 20, 30) and "does not fit them: all 10" in spec.notes[0]


def test_an_honest_header_needs_no_note(tmp_path):
    for number, how in enumerate([{"ome": True}, {"imagej": True}, {"compression": "zlib"}]):
        kind = {} if how.get("imagej") else {"photometric": "minisblack"}
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, pixels(10, 20, 30), metadata={"axes": "ZYX"}, **kind, **how)
        assert read_spec(path).notes == ()
