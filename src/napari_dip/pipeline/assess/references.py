"""List the papers to cite for a result, according to the methods that its run used."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.tasks import TASKS
from napari_dip.tasks.noise_models.camera_correction import CAMERA_MAP_INPUTS
from napari_dip.tasks.noise_models.registry import get_noise_model
from napari_dip.tasks.priors.registry import get_prior_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_dip.tasks.priors.prior_spec import PriorSpec

    Report = Mapping[str, Any]

_TEXTS = tomllib.loads(Path(__file__).with_name("papers.toml").read_text(encoding="utf-8"))
#: Papers by key, in the order of lists of references; and those that only experiments cite.
PAPERS: Mapping[str, str] = _TEXTS["papers"]
EXPERIMENT_PAPERS: Mapping[str, str] = _TEXTS["experiments"]
#: Topics of papers that the sentences of the methods section do not always cite.
TOPICS_OF_UNCITED_PAPERS: Mapping[str, str] = _TEXTS["topics"]


def list_paper_keys(report: Report) -> tuple[str, ...]:
    """Return the keys in `PAPERS` of the papers to cite, in their order there."""
    return tuple(
        key for key in PAPERS if _CITATION_RULES.get(key, _is_cited_by_method(key))(report)
    )


def get_report_prior_spec(report: Report) -> PriorSpec:
    """Return the row of a run's prior."""
    return get_prior_spec(report["prior"]["chosen"])


def uses_refinement(report: Report) -> bool:
    """Return whether a run ended with NL-Bayes refinement."""
    return bool(report.get("fit", {}).get("refined"))


def get_task_setting(report: Report, name: str) -> Any:
    """Return the value of a setting of a run's task; None if the task has no such setting."""
    from napari_dip.pipeline.recipe import recipe_from_dict

    return getattr(recipe_from_dict(report["recipe"]).task, name, None)


def _is_cited_by_method(paper: str) -> Callable[[Report], bool]:
    """Return a rule that holds if the prior or the noise model of a run names the paper."""
    return lambda report: (
        paper
        in get_report_prior_spec(report).papers + get_noise_model(report["noise"]["model"]).papers
    )


def _is_task(*names: str) -> Callable[[Report], bool]:
    return lambda report: report["task"] in names


def _uses_measured_noise(report: Report) -> bool:
    """Return whether gain or read noise were measured on the image by a variance model."""
    if not TASKS[report["task"]].spec.explains_pixels or _uses_input("repeated_exposure")(report):
        return False
    user_noise = [get_task_setting(report, name) for name in ("gain", "read_noise")]
    return get_noise_model(report["noise"]["model"]).is_detector and None in user_noise


def _uses_input(*names: str) -> Callable[[Report], bool]:
    return lambda report: not set(names).isdisjoint(report.get("fit", {}).get("inputs", ()))


def _uses_sure_term(report: Report) -> bool:
    """Return whether a SURE term was used, as for random input with correlated noise."""
    is_correlated = any(side > 1 for side in report["noise"]["blind_spot_size"])
    return (
        get_report_prior_spec(report).input_traits.is_random_noise
        and is_correlated
        and report["task"] in ("denoise", "guide")
        and not _uses_input("repeated_exposure")(report)
    )


def _count_movie_frames(report: Report) -> int:
    """Return the number of separately restored frames of a movie; 0 if there are none."""
    if "T" in report.get("fit", {}).get("axes", "T") or "T" not in report["axes"]:
        return 0
    return int(report["shape"][report["axes"].index("T")])


def _uses_temporal_smoothing(report: Report) -> bool:
    return _count_movie_frames(report) > 1 and bool(get_task_setting(report, "temporal_smoothing"))


def _uses_registration(report: Report) -> bool:
    """Return whether images were registered: the frames of a movie, or a guide."""
    if get_task_setting(report, "align"):
        return True
    uses_neighbours = (
        get_task_setting(report, "neighbouring_frames")
        and get_report_prior_spec(report).input_traits.has_neighbour_frames
    )
    return _count_movie_frames(report) > 1 and bool(
        uses_neighbours or get_task_setting(report, "temporal_smoothing")
    )


def _uses_richardson_lucy(report: Report) -> bool:
    if report["task"] == "deblur":
        return bool(get_task_setting(report, "initial_estimate") != "none")
    return bool(report["task"] == "blind-deblur")


def _uses_iterative_backprojection(report: Report) -> bool:
    """Return whether iterative backprojection was applied to an upscaled image."""
    is_upscaled = report["task"] == "super-resolve" and (
        not get_report_prior_spec(report).input_traits.is_random_noise
        or get_task_setting(report, "initial_estimate") != "none"
    )
    return is_upscaled or _uses_half_resolution(report)


def _uses_half_resolution(report: Report) -> bool:
    return bool(report.get("fit", {}).get("half_resolution"))


def _uses_lanczos(report: Report) -> bool:
    return _uses_half_resolution(report) or (
        report["task"] == "super-resolve" and get_task_setting(report, "model") == "lanczos"
    )


def _uses_smoothing(kind: str) -> Callable[[Report], bool]:
    return lambda report: (
        bool(get_task_setting(report, "smoothing"))
        and get_task_setting(report, "smoothing_kind") == kind
    )


def _uses_computed_psf(*models: str) -> Callable[[Report], bool]:
    return lambda report: report["task"] == "deblur" and get_task_setting(report, "model") in models


def _uses_field_psf(report: Report) -> bool:
    """Return whether the PSF changed over the field."""
    return any(note["code"] == "psf-modes" for note in report.get("note_codes", ()))


def _uses_blur_model(*, free: bool) -> Callable[[Report], bool]:
    return lambda report: (
        report["task"] == "blind-deblur" and (get_task_setting(report, "blur") == "free") is free
    )


#: When a run cites a paper, from its report. Papers of priors and noise models need no rule, since
#: their rows in `PRIOR_SPECS` and `NOISE_MODELS` name them.
_CITATION_RULES: Mapping[str, Callable[[Report], bool]] = {
    "deep image prior": lambda _: True,
    "nl-bayes": uses_refinement,
    "bm3d": uses_refinement,
    "colour camera": lambda report: bool(report["noise"].get("camera")) and uses_refinement(report),
    "noise estimation": _uses_measured_noise,
    "sure": _uses_sure_term,
    "total variation": lambda report: (
        _uses_smoothing("isotropic")(report) or _is_cited_by_method("total variation")(report)
    ),
    "anisotropic total variation": _uses_smoothing("anisotropic"),
    "lanczos": _uses_lanczos,
    "iterative backprojection": _uses_iterative_backprojection,
    "repeated exposure": _uses_input("repeated_exposure"),
    "camera maps": _uses_input(*(camera_map.name for camera_map in CAMERA_MAP_INPUTS)),
    "registration": _uses_registration,
    "temporal smoothing": _uses_temporal_smoothing,
    "bp-dip": _is_task("deblur", "blind-deblur"),
    "Richardson": _uses_richardson_lucy,
    "Lucy": _uses_richardson_lucy,
    "hessian penalty": lambda report: (
        _uses_richardson_lucy(report)
        and (len(report.get("fit", {}).get("axes", "")) > 2 or _uses_field_psf(report))
    ),
    "field psf": _uses_field_psf,
    "psf model": _uses_computed_psf("widefield", "confocal"),
    "confocal": _uses_computed_psf("confocal"),
    "blur likelihood": _uses_blur_model(free=False),
    "l0 gradient": _uses_blur_model(free=True),
    "selfdeblur": _uses_blur_model(free=True),
    "fourier ring correlation": lambda report: "halves" in report,
    "image splitting": lambda report: report.get("halves", {}).get("by") == "thinning",
    "feature inversion": _is_task("invert-features"),
}
