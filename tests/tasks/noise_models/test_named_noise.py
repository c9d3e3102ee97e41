"""Salt and pepper, stripes and speckle are detected, removed by their models, and reported."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from napari_dip.errors import RefusedError
from napari_dip.pipeline.assess.card import Verdict, make_card
from napari_dip.pipeline.recipe import recipe_from_json
from napari_dip.samples import MITOCHONDRIA, NUCLEI_MOVIE, TWO_CHANNELS
from napari_dip.tasks.noise_models.impulses import find_impulses, replace_by_random_neighbours
from napari_dip.tasks.noise_models.registry import list_high_impulses, list_noise_hints
from napari_dip.tasks.noise_models.stripes import find_line_offsets

SIDE = 64
QUICK = {"preset": "fast", "max_iterations": 20, "device": "cpu"}


def load_moon() -> np.ndarray:
    return data.moon()[200 : 200 + SIDE, 200 : 200 + SIDE].astype(np.float64)


def add_noise(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    return truth + np.random.default_rng(seed).normal(0, 5, truth.shape)


def add_impulses(truth: np.ndarray, share: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hit = rng.random(truth.shape) < share
    values = np.where(
        hit, np.where(rng.random(truth.shape) < 0.5, 0, 255), np.rint(add_noise(truth))
    )
    return np.clip(values, 0, 255).astype(np.uint8), hit


def add_stripes(
    truth: np.ndarray, deviation: float, axis: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.random.default_rng(2).normal(0, deviation, truth.shape[axis])
    shape = (-1, 1) if axis == 0 else (1, -1)
    return (add_noise(truth) + offsets.reshape(shape)).astype(np.float32), offsets - offsets.mean()


def add_speckle(truth: np.ndarray, looks: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (truth * rng.gamma(looks, 1 / looks, truth.shape)).astype(np.float32)


def measure_error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(((image - truth) ** 2).mean())


# --- impulses


def add_hot_pixels(image: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    hit = rng.random(image.shape) < share
    return np.where(hit, image + rng.uniform(250, 500, image.shape), image), hit


def make_correlated_image() -> tuple[np.ndarray, np.ndarray]:
    """A photograph with noise that correlates by 0.6 between neighbours, as in widefield images."""
    truth = gaussian_filter(data.camera()[100:196, 180:276].astype(float), 2)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=truth.shape), 0.7)
    return truth + 15 * noise / noise.std(), truth


def test_hot_pixels_beside_correlated_noise_are_filled_in_without_it() -> None:
    image, truth = make_correlated_image()
    spoilt, _ = add_hot_pixels(image, 0.005)
    result = dip.denoise(
        spoilt.astype(np.float32), preset="instant", noise="salt-and-pepper", device="cpu"
    )
    assert min(result.report["noise"]["blind_spot_size"]) >= 3
    assert result.report["prior"]["key"] == "blind-spot"
    assert "share noise" in result.report["prior"]["reason"]
    assert measure_error(result.image, truth) < 0.45 * measure_error(image, truth)


@pytest.mark.parametrize(("share", "is_told"), [(0.001, True), (0.0001, True), (0.000012, False)])
def test_a_few_hot_pixels_are_told_and_a_single_one_is_not(share, is_told) -> None:
    image = data.camera()[100:356, 150:406].astype(float) + 20 * np.random.default_rng(0).normal(
        size=(256, 256)
    )
    spoilt, _ = add_hot_pixels(image, share)
    spoilt = spoilt.astype(np.float32)
    codes = [hint.code for hint in list_noise_hints(spoilt[None])]
    assert codes == ["impulses-likely"] * is_told
    card = make_card(dip.denoise(spoilt, preset="instant", max_iterations=2).report)
    assert ("impulses-likely" in {note.code for note in card.all_warnings}) == is_told
    assert card.verdict is not Verdict.FINE or not is_told
    assert list_noise_hints(image.astype(np.float32)[None]) == ()


def make_even_shot(side: int = 96) -> np.ndarray:
    """Even cells of 10 photons by a camera with a gain of 2, read noise of 3 and an offset."""
    rng = np.random.default_rng(0)
    light = gaussian_filter(rng.normal(size=(side, side)), 3)
    photons = rng.poisson(np.clip(8 + 2 * light / light.std(), 0.5, None))
    return (2.0 * photons + rng.normal(0, 3, light.shape) + 100).round()


@pytest.mark.parametrize(("count", "height", "is_told"), [(5, 60, True), (2, 60, False)])
def test_few_hot_pixels_are_told_where_they_are_higher_than_the_image(
    count, height, is_told
) -> None:
    shot = make_even_shot().astype(np.float32)
    places = np.random.default_rng(1).integers(4, 92, (2, count))
    shot[tuple(places)] += height
    assert [hint.code for hint in list_noise_hints(shot[None])] == ["impulses-likely"] * is_told


def test_spots_as_sharp_as_a_lens_makes_them_are_no_hot_pixels() -> None:
    sources = np.zeros((96, 96))
    sources[12::24, 12::24] = 2000
    spots = gaussian_filter(sources, 0.7)  # pixels larger than Nyquist asks for
    assert list_noise_hints((make_even_shot() + spots).astype(np.float32)[None]) == ()


def list_card_codes(result) -> set[str]:
    """The codes of the warnings on the card of a result."""
    return {note.code for note in make_card(result.report).all_warnings}


def test_high_impulses_are_told_by_other_tasks_unless_a_mask_marks_them() -> None:
    clean = data.camera()[100:196, 150:246].astype(np.float32)
    spoilt, hit = add_hot_pixels(clean, 0.005)
    spoilt = spoilt.astype(np.float32)
    hole = np.zeros(clean.shape, bool)
    hole[40:43, 20:80] = True
    quick = {"preset": "instant", "max_iterations": 2, "device": "cpu"}
    results = [
        dip.super_resolve(spoilt, **quick),
        dip.inpaint(spoilt, hole, **quick),
        dip.deblur(spoilt, gaussian_sigma=1.5, **quick),
        dip.guide(spoilt, clean, **quick),
    ]
    assert all("impulses-likely" in list_card_codes(result) for result in results)
    marked = dip.inpaint(spoilt, hole | hit, **quick)
    clean_results = [dip.super_resolve(clean, **quick), dip.inpaint(clean, hole, **quick), marked]
    assert not any("impulses-likely" in list_card_codes(result) for result in clean_results)


def test_sharp_structure_without_noise_is_no_high_impulse() -> None:
    coarse = data.camera()[::4, ::4].astype(np.float32)
    assert [hint.code for hint in list_noise_hints(coarse[None])] == ["impulses-likely"]
    assert list_high_impulses(coarse[None], None) == ()


def test_single_photons_on_black_are_no_impulses_but_salt_on_black_is() -> None:
    rng = np.random.default_rng(0)
    spots = gaussian_filter(np.float64(rng.random((192, 192)) < 0.002), 4)
    rate = 0.005 + 0.4 * spots / spots.max()
    # a photomultiplier's pulses have any height
    photons = np.clip(rng.gamma(rng.poisson(rate), 60.0), 0, 255).round().astype(np.float32)
    measured = dip.measure_noise(photons)
    assert measured.channels[0].gain > 40  # 0 without the photons that look like impulses
    assert list_noise_hints(photons[None]) == ()
    dark = rng.normal(100 * spots / spots.max() - 1, 2).clip(0)
    salted, _ = add_hot_pixels(dark, 0.01)
    hints = list_noise_hints(salted.astype(np.float32)[None])
    assert [hint.code for hint in hints] == ["impulses-likely"]


def test_salt_on_a_background_that_was_cut_off_is_told() -> None:
    """Texture just above black seems to be impulses as well, and gathers as photons do."""
    rng = np.random.default_rng(0)
    cut_off = np.clip(data.camera()[:256, :256] - 60.0 + rng.normal(0, 3, (256, 256)), 0, 255)
    salted = np.where(rng.random(cut_off.shape) < 0.1, 255, np.rint(cut_off)).astype(np.float32)
    assert [hint.code for hint in list_noise_hints(salted[None])] == ["impulses-likely"]


@pytest.mark.parametrize(("spoil", "share"), [(add_hot_pixels, 0.3), (add_impulses, 0.05)])
def test_dense_impulses_and_white_noise_are_filled_in_from_close_neighbours(spoil, share) -> None:
    image = make_correlated_image()[share < 0.1]
    spoilt, _ = spoil(image, share)
    report = dip.denoise(
        spoilt.astype(np.float32),
        noise="salt-and-pepper",
        preset="instant",
        max_iterations=2,
        device="cpu",
    ).report
    assert report["noise"]["blind_spot_size"] == [1, 1]
    assert report["prior"]["key"] == "masked-input"


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
def test_nearly_all_salt_and_pepper_is_found_and_hardly_anything_else(share: float) -> None:
    measured, hit = add_impulses(load_moon(), share)
    mask = find_impulses(measured)
    assert (mask & hit).sum() > 0.99 * hit.sum()
    assert (mask & ~hit).mean() < 0.002


def test_impulses_of_any_value_are_found_where_they_lie_far_off() -> None:
    truth, rng = load_moon(), np.random.default_rng(4)
    hit = rng.random(truth.shape) < 0.05
    measured = np.where(hit, rng.integers(0, 256, truth.shape), np.rint(add_noise(truth)))
    mask = find_impulses(measured)
    far = hit & (np.abs(measured - truth) > 40)
    assert (mask & far).sum() > 0.95 * far.sum()
    assert not (mask & ~hit).any()


def test_lines_one_pixel_wide_and_saturated_spots_are_no_impulses() -> None:
    image = add_noise(np.full((64, 64), 60.0))
    image[20], image[:, 30], image[40:44, 40:44] = 250, 250, 255
    np.fill_diagonal(image, 250)
    assert find_impulses(np.rint(image))[1:-1, 1:-1].sum() == 0


@pytest.mark.parametrize("photons", [0.05, 0.5, 2, 20])
def test_photon_noise_is_no_salt(photons: float) -> None:
    counts = np.random.default_rng(5).poisson(photons, (128, 128))
    assert find_impulses(counts).sum() <= 3


def test_the_unit_of_the_image_does_not_change_what_is_found() -> None:
    measured = add_impulses(load_moon(), 0.1)[0].astype(np.float64)
    np.testing.assert_array_equal(find_impulses(measured), find_impulses(1e-4 * measured - 3))


def test_pixels_drawn_anew_keep_the_variance_of_the_noise() -> None:
    noise = np.random.default_rng(6).normal(0, 1, (1, 128, 128)).astype(np.float32)
    mask = np.random.default_rng(7).random(noise.shape) > 0.3
    holed = np.where(mask, noise, 100)
    drawn = replace_by_random_neighbours(holed.astype(np.float32), mask)
    assert drawn.var() == pytest.approx(1, rel=0.05)
    assert abs((drawn[:, 1:] * drawn[:, :-1]).mean()) < 0.05
    np.testing.assert_array_equal(drawn[mask], noise[mask])


@pytest.mark.long
def test_impulses_are_counted_in_the_report_and_filled_in_from_around() -> None:
    truth = load_moon()
    measured, hit = add_impulses(truth, 0.1)
    result = dip.denoise(measured, noise="salt-and-pepper", **QUICK)
    plain = dip.denoise(measured, **QUICK)
    count = int(find_impulses(measured).sum())
    assert result.report["noise"]["model"] == "salt-and-pepper"
    assert any(note.startswith(f"{count} pixels") for note in result.report["notes"])
    assert measure_error(result.image, truth) < 0.2 * measure_error(plain.image, truth)
    assert np.abs(result.image - truth)[hit].max() < 40  # no specks
    assert result.report["noise"]["intercept"][0] < 2 * 25  # that of the noise beside them


@pytest.mark.long
def test_without_impulses_the_image_is_restored_as_ever() -> None:
    measured = add_noise(load_moon(), seed=1)
    result = dip.denoise(measured, noise="salt-and-pepper", **QUICK)
    assert result.report["prior"]["key"] == "blind-spot"
    assert "no impulses" in result.report["prior"]["reason"]
    plain = dip.denoise(measured, prior="blind-spot", **QUICK)
    np.testing.assert_array_equal(result.image, plain.image)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
def test_other_priors_do_not_learn_impulses_either(prior: str) -> None:
    truth = load_moon()
    measured, hit = add_impulses(truth, 0.1)
    settings = {**QUICK, "noise": "salt-and-pepper", "prior": prior}
    result = dip.denoise(measured, **settings)
    assert np.abs(result.image - truth)[hit].mean() < 25  # the impulses lie 110 off
    assert result.report["prior"]["key"] == prior


@pytest.mark.long
def test_frames_with_impulses_are_restored_one_by_one() -> None:
    movie = np.stack([add_impulses(load_moon()[:48, :48], 0.05, seed)[0] for seed in (1, 2)])
    settings = {**QUICK, "noise": "salt-and-pepper", "max_iterations": 4}
    result = dip.denoise(movie, axes="TYX", **settings)
    assert result.image.shape == movie.shape


# --- stripes


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("deviation", [3, 10, 30])
def test_offsets_of_lines_are_found_in_their_direction(deviation: float, axis: int) -> None:
    measured, offsets = add_stripes(load_moon(), deviation, axis)
    estimate = find_line_offsets(measured)
    assert estimate is not None
    assert estimate.axis == axis - 2
    assert estimate.std == pytest.approx(deviation, rel=0.3)
    assert np.std(estimate.offsets - offsets) < 0.5 * deviation
    assert abs(estimate.offsets.mean()) < 1e-9


def load_clean_images() -> list[np.ndarray]:
    stack = tifffile.imread(NUCLEI_MOVIE)
    return [
        data.camera(),
        data.coins(),
        data.brick(),
        data.moon(),
        data.page(),
        tifffile.imread(MITOCHONDRIA)[0],
        tifffile.imread(MITOCHONDRIA)[1],
        tifffile.imread(TWO_CHANNELS)[0],
        stack[0],
        np.add.outer(np.linspace(0, 200, SIDE), np.zeros(SIDE)) + add_noise(np.zeros((SIDE, SIDE))),
        np.random.default_rng(8).poisson(3, (SIDE, SIDE)),
        add_speckle(load_moon(), 1),
    ]


@pytest.mark.parametrize("image", load_clean_images(), ids=str)
def test_images_without_such_noise_get_no_hint(image: np.ndarray) -> None:
    assert list_noise_hints(image.astype(np.float32)[None]) == ()


def test_an_edge_along_the_rows_is_not_eaten() -> None:
    truth = np.where(np.arange(SIDE) < SIDE // 2, 50.0, 150.0)[:, None] * np.ones(SIDE)
    measured, offsets = add_stripes(truth, 4)
    estimate = find_line_offsets(measured)
    assert estimate is not None
    kept = estimate.offsets[SIDE // 2 :].mean() - estimate.offsets[: SIDE // 2].mean()
    wanted = offsets[SIDE // 2 :].mean() - offsets[: SIDE // 2].mean()
    assert abs(kept - wanted) < 4  # of an edge of 100


def test_a_bar_across_the_whole_image_is_not_taken_for_a_stripe() -> None:
    truth = load_moon()
    truth[30:36] += 60
    estimate = find_line_offsets(add_stripes(truth, 4)[0])
    assert estimate is not None
    assert np.abs(estimate.offsets[30:36]).max() < 20


def test_lines_that_are_partly_unknown_are_found_as_well() -> None:
    measured, offsets = add_stripes(load_moon(), 10)
    measured[10:40, 20:50] = np.nan
    estimate = find_line_offsets(measured)
    assert estimate is not None
    assert np.std(estimate.offsets - offsets) < 4.5


@pytest.mark.long
def test_stripes_are_taken_out_and_their_offsets_handed_over() -> None:
    truth = load_moon()
    measured, offsets = add_stripes(truth, 12)
    result = dip.denoise(measured, noise="stripes", **QUICK)
    plain = dip.denoise(measured, **QUICK)
    assert result.report["noise"]["model"] == "stripes"
    assert any("Rows were found" in note for note in result.report["notes"])
    lines = result.learned_parameters["line_offsets"]
    assert lines.shape == (SIDE,)
    assert np.corrcoef(lines, offsets)[0, 1] > 0.95
    assert measure_error(result.image, truth) < 0.5 * measure_error(plain.image, truth)
    rows = (measured - result.image - lines[:, None]).mean(1)
    assert rows.std() < 0.2 * 12


def test_offsets_come_back_for_each_channel_and_plane() -> None:
    truth = load_moon()[:48, :48]
    both = np.stack([add_stripes(truth, 12)[0], 2 * add_stripes(truth.T, 12)[0]])
    result = dip.denoise(both, axes="CYX", noise="stripes", **QUICK)
    assert result.learned_parameters["line_offsets"].shape == (2, 48)
    assert (
        result.learned_parameters["line_offsets"][1].std()
        > 1.5 * result.learned_parameters["line_offsets"][0].std()
    )


def test_without_stripes_a_note_says_so() -> None:
    result = dip.denoise(add_noise(load_moon()), noise="stripes", **{**QUICK, "max_iterations": 3})
    assert any("none were removed" in note for note in result.report["notes"])
    assert "line_offsets" not in result.learned_parameters


# --- speckle


@pytest.mark.parametrize("looks", [1, 4, 50])
def test_the_strength_of_speckle_is_measured(looks: float) -> None:
    measured = add_speckle(load_moon(), looks)
    result = dip.denoise(measured, noise="speckle", **{**QUICK, "max_iterations": 3})
    assert result.report["noise"]["model"] == "speckle"
    assert result.report["noise"]["relative_deviation"][0] == pytest.approx(looks**-0.5, rel=0.15)


@pytest.mark.long
def test_speckle_is_taken_away_without_shifting_the_mean() -> None:
    truth = data.camera()[96 : 96 + SIDE, 160 : 160 + SIDE].astype(np.float64)
    measured = add_speckle(truth, 4)
    result = dip.denoise(measured, noise="speckle", **{**QUICK, "max_iterations": 60})
    assert measure_error(result.image, truth) < 0.4 * measure_error(measured, truth)
    assert result.image.mean() == pytest.approx(measured.mean(), rel=1e-3)
    dark, bright = truth < np.quantile(truth, 0.3), truth > np.quantile(truth, 0.7)
    for part in (dark, bright):
        assert result.image[part].mean() == pytest.approx(truth[part].mean(), rel=0.2)
    assert result.uncertainty[bright].mean() > result.uncertainty[dark].mean()


# --- hints, recipes and refusals


def test_the_automatic_model_hints_at_impulses_and_keeps_its_own_way() -> None:
    result = dip.denoise(add_impulses(load_moon(), 0.05)[0], **{**QUICK, "max_iterations": 3})
    assert any("--noise salt-and-pepper" in note for note in result.report["notes"])
    assert result.report["noise"]["model"] in ("gaussian", "poisson-gaussian")


def test_the_automatic_model_hints_at_stripes() -> None:
    result = dip.denoise(add_stripes(load_moon(), 10, axis=1)[0], **{**QUICK, "max_iterations": 3})
    assert any(note.startswith("Columns") for note in result.report["notes"])


def draw_texture() -> np.ndarray:
    """Spots of all sizes everywhere, so that the image's own steps prevail over offsets."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(2)
    return sum(
        400 * spots / np.abs(spots).max()
        for spots in (gaussian_filter(rng.normal(size=(SIDE, SIDE)), wide) for wide in (2, 4, 8))
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_line_offsets_on_structure_are_suspected_and_reported(axis: int) -> None:
    from napari_dip.pipeline.calibrate.channel_noise import measure_single_exposure
    from napari_dip.tasks.base import NoiseSettings

    rng = np.random.default_rng(1)
    offsets = rng.normal(0, 30, (SIDE, 1) if axis == 0 else (1, SIDE))
    image = (draw_texture() + offsets + rng.normal(0, 10, (SIDE, SIDE))).astype(np.float32)
    (hint,) = list_noise_hints(image[None])
    assert str(hint).startswith("Rows" if axis == 0 else "Columns")
    estimate = measure_single_exposure(image[None], None, 0.0, NoiseSettings())
    assert estimate.unreliable_reason or estimate.caution == "line-offsets"


def test_structure_alone_gives_no_hint_at_offsets() -> None:
    image = draw_texture() + np.random.default_rng(1).normal(0, 10, (SIDE, SIDE))
    assert list_noise_hints(image.astype(np.float32)[None]) == ()


@pytest.mark.parametrize("noise", ["salt-and-pepper", "stripes", "speckle"])
def test_a_recipe_keeps_the_name_of_the_noise(noise: str) -> None:
    recipe = dip.make_recipe("denoise", noise=noise)
    assert recipe_from_json(recipe.to_json()).task.noise == noise


@pytest.mark.parametrize(
    ("image", "options", "code"),
    [
        (
            add_noise(load_moon()),
            {"noise": "speckle", "repeated_exposure": add_noise(load_moon(), 1)},
            "noise-repeated-exposure",
        ),
        (add_noise(load_moon()) - 100, {"noise": "speckle"}, "speckle-negative"),
        (
            np.stack([load_moon()] * 4),
            {"noise": "salt-and-pepper", "axes": "ZYX", "stacks": "volume"},
            "impulses-volume",
        ),
        (
            np.where(load_moon() > 120, np.nan, load_moon()),
            {"noise": "salt-and-pepper"},
            "pixels-nan",
        ),
        (np.full((SIDE, SIDE), 7.0), {"noise": "salt-and-pepper"}, "pixels-constant"),
    ],
)
def test_what_cannot_be_restored_so_is_refused(
    image: np.ndarray, options: dict[str, object], code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        dip.denoise(image, **QUICK, **options)
    assert caught.value.reason.code == code


@pytest.mark.parametrize(("factor", "is_reported"), [(1, False), (2, False), (3, True), (5, True)])
def test_pixels_that_are_repeated_are_reported_with_their_number(factor, is_reported) -> None:
    image, _ = make_correlated_image()
    repeated = np.kron(image, np.ones((factor, factor)))[1:97, 2:97].astype(np.float32)
    notes = [hint for hint in list_noise_hints(repeated[None]) if hint.code == "pixels-repeated"]
    assert [note.facts["factor"] for note in notes] == [factor] * is_reported
