"""Write a paragraph on a result for the methods section of a paper, with the papers to cite.

A run cites the papers of the methods that it used.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.engine.noise import NoiseCaution
from napari_dip.errors.notes import StopReason, parse_report_notes, read_report_stop
from napari_dip.errors.templates import METHODS, make_printable, render
from napari_dip.pipeline.recipe import RunSettings, list_settings, recipe_from_dict
from napari_dip.tasks import TASKS
from napari_dip.tasks.noise_models.camera_correction import CAMERA_MAP_INPUTS
from napari_dip.tasks.noise_models.registry import get_noise_model
from napari_dip.tasks.priors.registry import get_prior_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari_dip.tasks import Setting
    from napari_dip.tasks.priors.prior_spec import PriorSpec

    Report = Mapping[str, Any]

_TEXTS = tomllib.loads(Path(__file__).with_name("papers.toml").read_text(encoding="utf-8"))
#: Papers by key, in the order of lists of references; and those that only experiments cite.
PAPERS: Mapping[str, str] = _TEXTS["papers"]
EXPERIMENT_PAPERS: Mapping[str, str] = _TEXTS["experiments"]
#: Topics of papers, for the sentence on those that no other sentence cites.
PAPER_TOPICS: Mapping[str, str] = _TEXTS["topics"]

#: Template of the phrase on a result that is later than the lowest validation loss.
_LATER_OUTPUT = "output-later"
_BEST_OUTPUT = "output-best"


def list_paper_keys(report: Report) -> tuple[str, ...]:
    """Return the keys in `PAPERS` of the papers to cite, in their order there."""
    noise_model = get_noise_model(report["noise"]["model"])
    cited = {key for key, is_cited in _CITATION_RULES.items() if is_cited(report)}
    cited |= {*get_report_prior_spec(report).papers, *noise_model.papers}
    return tuple(key for key in PAPERS if key in cited)


def get_report_prior_spec(report: Report) -> PriorSpec:
    """Return the row of a run's prior."""
    return get_prior_spec(report["prior"]["key"])


def uses_refinement(report: Report) -> bool:
    """Return whether a run ended with NL-Bayes refinement, alone or within a deconvolution."""
    return bool(report.get("fit", {}).get("refined"))


def _filters_patches(report: Report) -> bool:
    """Return whether similar patches were filtered together, before the fit or after it."""
    return uses_refinement(report) or _filters_first(report)


def _filters_first(report: Report) -> bool:
    """Return whether noise was filtered out before the fit, as in planes that are enlarged."""
    is_plane = report.get("fit", {}).get("axes") == "YX"
    return report["task"] == "super-resolve" and bool(is_plane)


def _uses_blending(report: Report) -> bool:
    """Return whether the filling of holes was blended with smooth ones."""
    is_masked = get_report_prior_spec(report).input_traits.has_masked_pixels
    return is_masked and bool(report.get("fit", {}).get("blended"))


def _averages_border_holes(report: Report) -> bool:
    """Return whether the filling of holes at the border was averaged with a harmonic one."""
    return bool(report.get("fit", {}).get("blended")) and not _uses_blending(report)


def _fills_smoothly(report: Report) -> bool:
    """Return whether holes were filled from restored pixels, as beside wide blind spots."""
    figures = report.get("verdict", {}).get("figures", {})
    has_holes = bool(figures.get("filled_fraction")) and uses_refinement(report)
    is_wide = max(report["noise"].get("blind_spot_size", (1,))) > 1
    return has_holes and is_wide and get_report_prior_spec(report).input_traits.has_masked_pixels


def _uses_guided_deconvolution(report: Report) -> bool:
    return uses_refinement(report) and _is_task("deblur", "blind-deblur")(report)


def get_task_setting(report: Report, name: str) -> Any:
    """Return the value of a setting of a run's task; None if the task has no such setting."""
    return getattr(recipe_from_dict(report["recipe"]).task, name, None)


def _is_task(*names: str) -> Callable[[Report], bool]:
    return lambda report: report["task"] in names


def _uses_measured_noise(report: Report) -> bool:
    """Return whether gain or read noise were measured on the image by a variance model."""
    if not TASKS[report["task"]].spec.explains_pixels or _uses_input("repeated_exposure")(report):
        return False
    user_noise = [get_task_setting(report, name) for name in ("gain", "read_noise")]
    return get_noise_model(report["noise"]["model"]).has_variance_model and None in user_noise


def _is_measured_before_compression(report: Report) -> bool:
    """Return whether JPEG compression hid the noise of a channel."""
    explains_pixels = TASKS[report["task"]].spec.explains_pixels  # others use no noise
    return explains_pixels and NoiseCaution.COMPRESSED in report["noise"].get("caution", ())


def _uses_input(*names: str) -> Callable[[Report], bool]:
    return lambda report: not set(names).isdisjoint(report.get("fit", {}).get("inputs", ()))


def _uses_sure_term(report: Report) -> bool:
    """Return whether a SURE term was used, as for random input with correlated noise."""
    is_correlated = max(report["noise"]["blind_spot_size"], default=1) > 1
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


def _uses_neighbours(report: Report) -> bool:
    """Return whether planes or frames, restored one by one, had neighbours as further inputs."""
    codes = {note["code"] for note in report.get("note_codes", ())}
    planes = dict(zip(report["axes"], report["shape"], strict=True))
    is_series = max(planes.get("T", 1), planes.get("Z", 1)) > 1
    is_series |= any(note["facts"].get("has_frames") for note in report.get("note_codes", ()))
    return bool(
        is_series
        and get_task_setting(report, "neighbouring_frames")
        and get_report_prior_spec(report).input_traits.has_neighbour_frames
        and "frames-share-noise" not in codes
    )


def _fits_volumes(report: Report) -> bool:
    """Return whether planes or frames were fitted together."""
    return not {"T", "Z"}.isdisjoint(report.get("fit", {}).get("axes", ""))


def _filters_neighbours(report: Report) -> bool:
    """Return whether the refinement took similar patches of neighbouring planes or frames, too."""
    return uses_refinement(report) and (_fits_volumes(report) or _uses_neighbours(report))


def _compares_refinement(report: Report) -> bool:
    """Return whether the refinement is kept where its risk is lower: in planes with a guide."""
    return report["task"] == "guide" and not _fits_volumes(report)


def _uses_registration(report: Report) -> bool:
    """Return whether images were registered: the frames of a movie, or a guide."""
    if get_task_setting(report, "align"):
        return True
    return _count_movie_frames(report) > 1 and bool(
        _uses_neighbours(report) or get_task_setting(report, "temporal_smoothing")
    )


def _uses_richardson_lucy(report: Report) -> bool:
    is_chosen = get_task_setting(report, "initial_estimate") != "none"
    return bool(report["task"] == "blind-deblur" or (report["task"] == "deblur" and is_chosen))


def _may_follow_richardson_lucy(report: Report) -> bool:
    """Return whether Richardson-Lucy may guide a deconvolution: of planes with white noise."""
    is_plain = set(report["noise"]["blind_spot_size"]) == {1} and not _uses_field_psf(report)
    return _uses_richardson_lucy(report) and is_plain and get_task_setting(report, "factor") == "1"


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
        report["task"] == "super-resolve" and get_task_setting(report, "downsampling") == "lanczos"
    )


def _uses_smoothing(kind: str) -> Callable[[Report], bool]:
    return lambda report: (
        bool(get_task_setting(report, "smoothing"))
        and get_task_setting(report, "smoothing_kind") == kind
    )


def _uses_computed_psf(*models: str) -> Callable[[Report], bool]:
    return lambda report: (
        report["task"] == "deblur" and get_task_setting(report, "microscope") in models
    )


def _uses_field_psf(report: Report) -> bool:
    """Return whether the PSF changed over the field."""
    return any(note["code"] == "psf-modes" for note in report.get("note_codes", ()))


def _uses_blur_model(*, is_free: bool) -> Callable[[Report], bool]:
    return lambda report: (
        report["task"] == "blind-deblur" and (get_task_setting(report, "blur") == "free") is is_free
    )


#: When a run cites a paper, from its report. A paper is also cited if the row of the
#: prior or noise model in `PRIOR_SPECS` or `NOISE_MODELS` names it.
_CITATION_RULES: Mapping[str, Callable[[Report], bool]] = {
    "deep image prior": lambda _: True,
    "guided filter": lambda report: uses_refinement(report) and _compares_refinement(report),
    "nl-bayes": _filters_patches,
    "bm3d": _filters_patches,
    "biharmonic": lambda report: _uses_blending(report) or _fills_smoothly(report),
    "stacking": _uses_blending,
    "colour camera": lambda report: bool(report["noise"].get("camera")) and uses_refinement(report),
    "noise estimation": _uses_measured_noise,
    "jpeg traces": _is_measured_before_compression,
    "sure": _uses_sure_term,
    "total variation": _uses_smoothing("isotropic"),
    "anisotropic total variation": _uses_smoothing("anisotropic"),
    "lanczos": _uses_lanczos,
    "iterative backprojection": _uses_iterative_backprojection,
    "repeated exposure": _uses_input("repeated_exposure"),
    "camera maps": _uses_input(*(camera_map.name for camera_map in CAMERA_MAP_INPUTS)),
    "registration": _uses_registration,
    "temporal smoothing": _uses_temporal_smoothing,
    "sparse gradients": _uses_guided_deconvolution,
    "plug and play": _uses_guided_deconvolution,
    "bp-dip": _is_task("deblur", "blind-deblur"),
    "Richardson": _uses_richardson_lucy,
    "Lucy": _uses_richardson_lucy,
    "hessian penalty": lambda report: (
        _uses_richardson_lucy(report) and (_fits_volumes(report) or _uses_field_psf(report))
    ),
    "field psf": _uses_field_psf,
    "psf model": _uses_computed_psf("widefield", "confocal"),
    "confocal": _uses_computed_psf("confocal"),
    "blur likelihood": _uses_blur_model(is_free=False),
    "l0 gradient": _uses_blur_model(is_free=True),
    "selfdeblur": _uses_blur_model(is_free=True),
    "fourier ring correlation": lambda report: "halves" in report,
    "image splitting": lambda report: report.get("halves", {}).get("by") == "thinning",
    "feature inversion": _is_task("invert-features"),
}


#: Code of the template on how the noise was measured, by the paper to cite.
_ORIGINS = {"noise estimation": "origin-image", "repeated exposure": "origin-exposures"}
#: Code of the template on what else was measured, by the code of its note.
_FURTHER_ORIGINS = {"noise-levelled": "origin-level", "noise-measured-again": "origin-residual"}
_DEVICES = {"cpu": "the CPU", "cuda": "an NVIDIA GPU", "mps": "an Apple GPU"}
#: Settings that other sentences name.
_NAMED_SETTINGS = (
    "preset",
    "seed",
    "prior",
    "noise",
    "gain",
    "read_noise",
    "device",
    "max_iterations",
)


def write_methods_section(report: Report) -> str:
    """Return a paragraph for the methods section, followed by its references.

    Parameters
    ----------
    report : mapping
        Report of the run, as in `Restoration.report`.

    Returns
    -------
    str
        Sentences with citation numbers in brackets, then one reference per line.
    """
    cited = list_paper_keys(report)
    sentences = (
        _describe_task(report),
        _describe_network_input(report),
        _describe_noise_model(report),
        _describe_start(report),
        _describe_iterations(report),
        _describe_refinement(report),
        _describe_other_settings(report),
        _describe_device(report),
        *_describe_notes(report),
    )
    # without line breaks: one would start a reference
    paragraph = make_printable(" ".join(filter(None, sentences)))
    # citations are numbered in the order of the text; papers that it does not cite come last
    text_keys = dict.fromkeys(
        key for group in re.findall(r"\{([^}]*)\}", paragraph) for key in group.split("|")
    )
    order = [key for key in (*text_keys, *cited) if key in cited]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(order), 1)}
    paragraph = re.sub(
        r" ?\{([^}]*)\}", lambda result: _format_citation(result[1].split("|"), numbers), paragraph
    )
    reference_lines = [f"[{number}] {PAPERS[key]}" for key, number in numbers.items()]
    other_topics = [
        f"{PAPER_TOPICS[key]} [{numbers[key]}]" for key in numbers if key not in text_keys
    ]
    if other_topics:
        paragraph += _write("also", topics="; ".join(other_topics))
    return "\n".join([paragraph, "", *reference_lines]) + "\n"


def _write(template_key: str, /, **facts: object) -> str:
    """Fill a template of the methods section."""
    return render(METHODS[template_key], facts)


def _describe_task(report: Report) -> str:
    spec = TASKS[report["task"]].spec
    preset = str(report["recipe"].get("preset", RunSettings.model_fields["preset"].default))
    return _write(
        "task",
        done=spec.methods_phrase,
        version=report["version"],
        title=spec.title,
        preset=preset.capitalize(),
        seed=report["seed"],
        series="network_file" in _get_joint_training(report) and not _has_start(report),
        start=_has_start(report),
    )


def _describe_network_input(report: Report) -> str:
    prior_spec = get_report_prior_spec(report)
    papers = prior_spec.papers
    is_deconvolved = "Lucy" in list_paper_keys(report)
    if is_deconvolved:
        papers = (*papers, "Richardson", "Lucy")
    user_choice = report["recipe"].get("settings", {}).get("prior", "auto")
    return _write(
        "network-input",
        network=prior_spec.has_network,
        phrase=prior_spec.methods_phrase,
        deconvolved=is_deconvolved,
        neighbours=_uses_neighbours(report) and not _fits_volumes(report),
        citation=f" {{{'|'.join(papers)}}}" if papers else "",
        chosen=prior_spec.has_network and user_choice in (prior_spec.key, prior_spec.choice),
    )


def _describe_noise_model(report: Report) -> str:
    """Return a sentence on noise model, its parameters in image units, and validation pixels."""
    if not TASKS[report["task"]].spec.explains_pixels:
        return ""
    noise, cited = report["noise"], list_paper_keys(report)
    noise_model = get_noise_model(noise["model"])
    origin = _write("origin-user") if noise_model.has_variance_model else ""
    for key, template_key in _ORIGINS.items():
        if key in cited:
            origin = _write(template_key)
    if _is_measured_before_compression(report):
        origin = _write("origin-compressed", origin=origin)
    note_codes = {note["code"] for note in report.get("note_codes", ())}
    for note_code, template_key in _FURTHER_ORIGINS.items():
        if note_code in note_codes:
            origin = _write(template_key, origin=origin)
    figures = {
        name: _join_figures(values) for name, values in noise_model.list_figures(noise).items()
    }
    camera = {
        name: _join_figures(noise["camera"][name])
        for name in noise.get("camera") or ()
        if name in ("std", "correlations")
    }
    return _write(
        "noise",
        phrase=noise_model.methods_phrase,
        figures=_write(noise_model.figures_template_key, **figures),
        camera=_write("figures-camera", **camera) if camera else "",
        several=len(noise["gain"]) > 1,
        origin=origin + "".join(f" {{{key}}}" for key in noise_model.papers),
        hidden=_describe_blind_spot(report),
        masked=get_report_prior_spec(report).input_traits.has_masked_pixels,
        refit=report.get("fit", {}).get("refit_iterations"),
    )


def _describe_blind_spot(report: Report) -> str:
    size = report["noise"]["blind_spot_size"]
    shape = str(report["recipe"].get("settings", {}).get("blind_spot_shape", ""))
    template_key = "hidden-single" if all(side == 1 for side in size) else "hidden-blocks"
    template_key = "hidden-shape" if "0" in shape else template_key
    return _write(template_key, size=" × ".join(map(str, size[::-1])), count=shape.count("1"))


def _describe_iterations(report: Report) -> str:
    fit, count = report.get("fit", {}), count_fits(report)
    limit = fit.get("max_iterations")
    fitted = _write(
        "fitted",
        network=get_report_prior_spec(report).has_network,
        shape=" → ".join(map(str, fit.get("widths", ()))),
    )
    if "joint_training" in fit and not _has_start(report):
        return _describe_joint_training(fitted, fit["joint_training"])
    stop_text = read_report_stop(report).describe_impersonally().rstrip(".")
    return _write(
        "iterations",
        fitted=fitted,
        iterations=report["iterations"],
        several=count > 1,
        count=count,
        limit=limit,
        limit_each=limit and count > 1,
        refit=_describe_refit(fit.get("refit_iterations"), count),
        stop=_strip_citation_marks(stop_text),
        unused=fit.get("unused_fit_count", 0),
        output=_describe_selected_iteration(report),
    )


def count_fits(report: Report) -> int:
    """Return the number of fits in a result: of channels, planes, frames, tiles and restarts."""
    fit = report.get("fit", {})
    stopped_count = fit.get("stopped_fit_count", 0) - fit.get("unused_fit_count", 0)
    return int(fit.get("finished_fit_count", 1) + stopped_count)


def _describe_refit(iterations: int | None, fit_count: int) -> str:
    """Return a phrase on the iterations of the refit; "" if there was none."""
    template_key = "refit-several" if fit_count > 1 else "refit-one" if iterations == 1 else "refit"
    return _write(template_key, count=iterations) if iterations else ""


def describe_result_iteration(report: Report) -> str:
    """Return a phrase on the iteration of the result, or "" if the stop reason tells it.

    It is told where it is later than that of the lowest validation loss, and where all iterations
    were used but the last was not the best.
    """
    if count_fits(report) != 1 or not report.get("validation_loss"):
        return ""
    text = _choose_output_text(report)
    is_earlier = (
        text == _BEST_OUTPUT
        and read_report_stop(report).reason is StopReason.ITERATIONS
        and report["best_iteration"] < report["iterations"]
    )
    return _describe_selected_iteration(report) if is_earlier or text == _LATER_OUTPUT else ""


def _describe_selected_iteration(report: Report) -> str:
    """Return a phrase on the iteration that the image was taken from."""
    return _write(_choose_output_text(report), best=report["best_iteration"])


def _choose_output_text(report: Report) -> str:
    """Return the key of the phrase on the iteration that the image was taken from.

    It is not always that of the lowest validation loss. A later iteration is preferred if its loss
    is hardly higher.
    """
    best, losses = report["best_iteration"], dict(report.get("validation_loss", ()))
    lowest_loss = min((loss for loss in losses.values() if loss is not None), default=None)
    is_manual = read_report_stop(report).reason in (StopReason.USER, StopReason.HISTORY)
    is_manual = is_manual or bool(report.get("fit", {}).get("stopped_fit_count"))
    if report.get("fit", {}).get("refit_iterations") and not is_manual:
        return "output-refit"
    is_best = is_manual or lowest_loss is None or (losses.get(best) or lowest_loss) <= lowest_loss
    return _BEST_OUTPUT if is_best else _LATER_OUTPUT


def _describe_joint_training(fitted: str, training: Mapping[str, Any]) -> str:
    """Return a sentence on joint training, and on the gain of fine-tuning."""
    facts = {
        **training,
        "fitted": fitted,
        "several": training["region_count"] != 1,
        "name": _strip_citation_marks(training.get("network_file", "")),
        "probes": _write("probes", **training) if "probe_count" in training else "",
    }
    return _write("series" if "network_file" in training else "joint", **facts)


def _describe_start(report: Report) -> str:
    """Return a sentence on the network of another image that the fit began with, or ""."""
    if not _has_start(report):
        return ""
    training = _get_joint_training(report)
    name = _strip_citation_marks(training["network_file"])
    return _write("start", name=name, sha256=training["sha256"])


def _get_joint_training(report: Report) -> dict[str, Any]:
    return dict(report.get("fit", {}).get("joint_training", {}))


def _has_start(report: Report) -> bool:
    """Whether the fit began with the network of another image."""
    training = _get_joint_training(report)
    return "network_file" in training and not training["inference"]


def _describe_refinement(report: Report) -> str:
    if report["noise"].get("camera") and uses_refinement(report):
        return _write("refinement-camera")
    if _uses_guided_deconvolution(report):
        keys = ["deconvolved"] + ["deconvolved-rival"] * _may_follow_richardson_lucy(report)
        return " ".join(map(_write, keys))
    rows = {
        "filtered-first": _filters_first(report),
        "half-resolution": _uses_half_resolution(report),
        "refinement": uses_refinement(report) and not _compares_refinement(report),
        "refinement-if-nearer": uses_refinement(report) and _compares_refinement(report),
        "refinement-neighbours": _filters_neighbours(report),
        "filled-smoothly": _fills_smoothly(report),
        "blended": _uses_blending(report),
        "blended-border": _averages_border_holes(report),
    }
    return " ".join(_write(key) for key, is_used in rows.items() if is_used)


def _describe_other_settings(report: Report) -> str:
    """Return a sentence on settings that differ from their defaults, labelled as in the dock."""
    recipe = recipe_from_dict(report["recipe"])
    run_settings = recipe.run_settings.model_dump(exclude_defaults=True)
    fields, descriptions = list_settings(recipe.task.spec.name), []
    for name, value in {**recipe.task.to_dict(), **run_settings}.items():  # without defaults
        if name not in _NAMED_SETTINGS:
            setting = fields[name].setting
            label_and_value = f"{setting.label}: {_format_setting_value(value, setting)}"
            description = setting.report_template.format(value) or label_and_value
            descriptions.append(_strip_citation_marks(description))
    return _write("settings", settings="; ".join(descriptions)) if descriptions else ""


def _describe_device(report: Report) -> str:
    device, threads = report["device"], report["threads"]
    return _write(
        "device",
        torch=report["torch"],
        device=_DEVICES.get(device, device),
        cpu=device == "cpu",
        threads=threads,
        threads_plural=device == "cpu" and threads != 1,
    )


def _describe_notes(report: Report) -> Iterator[str]:
    """Describe an input that was a result, and a region that was merged into an earlier image."""
    for note in parse_report_notes(report):
        if note.code in ("input-restored", "region-merged"):
            yield _write(note.code, **note.facts)


def _format_setting_value(value: Any, setting: Setting) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str((setting.choices or {}).get(value, value))


def _strip_citation_marks(text: str) -> str:
    """Replace braces, which mark citations, in text from other sources."""
    return text.replace("{", "(").replace("}", ")")


def _join_figures(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _format_citation(keys: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Format keys of papers as " [1, 2]"; keys without a number are left out."""
    citations = sorted({numbers[key] for key in keys if key in numbers})
    return f" [{', '.join(map(str, citations))}]" if citations else ""
