"""Write a paragraph on a result for the methods section of a paper, with its references."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from napari_dip.errors.notes import StopReason, read_report_stop
from napari_dip.errors.templates import make_printable
from napari_dip.pipeline.assess.references import (
    PAPERS,
    TOPICS_OF_UNCITED_PAPERS,
    get_report_prior_spec,
    list_paper_keys,
    uses_refinement,
)
from napari_dip.pipeline.recipe import RunSettings, recipe_from_dict
from napari_dip.tasks import TASKS, Setting
from napari_dip.tasks.noise_models.registry import get_noise_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Report = Mapping[str, Any]

#: Completions of "The image was", by task.
_TASK_PHRASES = {
    "denoise": "denoised",
    "inpaint": "filled in where pixels were missing",
    "super-resolve": "super-resolved",
    "deblur": "deblurred with a known point spread function",
    "blind-deblur": "deblurred with a point spread function estimated from the image itself",
    "guide": "restored with the help of a guide image",
    "invert-features": "restored from the activations of a layer of a network",
}
#: Phrases on how the noise was measured, by the paper to cite.
_ORIGINS = {
    "noise estimation": ", measured from the image",
    "repeated exposure": ", measured from the difference of two shots",
}
#: Settings that have a sentence of their own.
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
        _describe_iterations(report),
        _describe_refinement(report),
        _describe_other_settings(report),
        _describe_device(report),
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
        f"{TOPICS_OF_UNCITED_PAPERS[key]} [{numbers[key]}]"
        for key in numbers
        if key not in text_keys
    ]
    if other_topics:
        paragraph += f" Also used: {'; '.join(other_topics)}."
    return "\n".join([paragraph, "", *reference_lines]) + "\n"


def _describe_task(report: Report) -> str:
    task_phrase = _TASK_PHRASES.get(report["task"], f"restored (task '{report['task']}')")
    recipe = report["recipe"]
    preset = str(recipe.get("preset", RunSettings.model_fields["preset"].default))
    return (
        f"The image was {task_phrase} with napari-dip {report['version']} (task "
        f"'{TASKS[report['task']].spec.title}', preset '{preset.capitalize()}', seed "
        f"{report['seed']}), which fits an untrained convolutional network to "
        f"{_describe_fitted_data(report)} "
        "and to no other data (Deep Image Prior {deep image prior})."
    )


def _describe_fitted_data(report: Report) -> str:
    """Return what the network was fitted to: this image, or several images of a series."""
    is_series = "network_file" in report.get("fit", {}).get("joint_training", {})
    return "images of one series, one network for all," if is_series else "the measurement itself"


def _describe_network_input(report: Report) -> str:
    prior_spec = get_report_prior_spec(report)
    phrase, papers = prior_spec.phrase, prior_spec.papers
    if report["task"] in ("deblur", "blind-deblur") and "Lucy" in list_paper_keys(report):
        phrase += " and the first steps of Richardson-Lucy deconvolution"
        papers = (*papers, "Richardson", "Lucy")
    citation = f" {{{'|'.join(papers)}}}" if papers else ""
    if not prior_spec.has_network:
        return f"No network was fitted: {phrase}{citation}."
    user_choice = report["recipe"].get("settings", {}).get("prior", "auto")
    chosen_by = " (chosen by hand)" if user_choice in (prior_spec.key, prior_spec.value) else ""
    return f"The network was fed {phrase}{citation}{chosen_by}."


def _describe_noise_model(report: Report) -> str:
    """Return a sentence on noise model, its parameters in image units, and validation pixels."""
    if report["task"] == "invert-features":
        return ""  # no pixel was fitted
    noise, cited = report["noise"], list_paper_keys(report)
    noise_model = get_noise_model(noise["model"])
    model = f"The noise was modelled as {noise_model.phrase}"
    if noise["model"] == "speckle":
        figures = f"relative standard deviation {_join_figures(noise.get('relative', [0]))}"
    elif noise["model"] == "gaussian":
        stds = [max(0.0, variance) ** 0.5 for variance in noise["intercept"]]
        figures = f"standard deviation {_join_figures(stds)}"
    else:
        gain, intercept = _join_figures(noise["gain"]), _join_figures(noise["intercept"])
        figures = f"variance = gain × intensity + intercept, gain {gain}, intercept {intercept}"
    per_channel = "; one figure for each channel" if len(noise["gain"]) > 1 else ""
    if camera := noise.get("camera"):
        std, lags = _join_figures(camera["std"]), _join_figures(camera["lags"])
        figures += (
            f"; of luminance and two colour differences {std}, with a correlation of neighbouring "
            f"pixels of {lags}"
        )
    origin = ", given by hand" if noise_model.is_detector else ""
    for key, phrase in _ORIGINS.items():
        if key in cited:
            origin = f"{phrase} {{{key}}}"
    origin += "".join(f" {{{key}}}" for key in noise_model.papers)
    sizes = " × ".join(str(side) for side in reversed(noise["blind_spot_size"]))
    is_single_pixel = all(side == 1 for side in noise["blind_spot_size"])
    hidden = "single pixels" if is_single_pixel else f"blocks of {sizes} pixels"
    shape = str(report["recipe"].get("settings", {}).get("blind_spot_shape", ""))
    if "0" in shape:
        hidden = f"{shape.count('1')} of each {sizes} pixels, in a shape given by hand,"
    has_masked_input = get_report_prior_spec(report).network_input.is_masked
    purpose = "from the network and to judge the fit" if has_masked_input else "to judge the fit"
    if report.get("fit", {}).get("last_phase"):
        purpose += " until its last iterations, in which they take part"
    return (
        f"{model} ({figures}, in intensity units of the image{per_channel}){origin}; {hidden} were "
        f"held back {purpose}."
    )


def _describe_iterations(report: Report) -> str:
    fit = report.get("fit", {})
    max_iterations = fit.get("max_iterations")
    count = fit.get("finished", 1) + fit.get("kept", 0)
    fits = f" in {count} fits" if count > 1 else ""
    each_suffix = " each" if count > 1 else ""
    limit = f" of at most {max_iterations}{each_suffix}" if max_iterations else ""
    stop_text = read_report_stop(report).describe_impersonally().rstrip(".")
    network = " → ".join(map(str, fit.get("network", ())))
    shape = f" of {network} channels" if network else ""
    fitted = f"The network{shape}" if get_report_prior_spec(report).has_network else "The pixels"
    if "joint_training" in fit:
        return f"{fitted} {_describe_joint_training(fit['joint_training'])}"
    return (
        f"{fitted} took {report['iterations']} "
        f"iterations{fits}{limit}{_describe_last_phase(fit)}; the "
        f"fit ended since {_strip_citation_marks(stop_text)}, and "
        f"{_describe_selected_iteration(report)}."
    )


def _describe_last_phase(fit: Mapping[str, Any]) -> str:
    """Return a phrase on the iterations of the refit; "" if there was none."""
    refit_iterations = fit.get("last_phase")
    if not refit_iterations:
        return ""
    has_several_fits = fit.get("finished", 1) + fit.get("kept", 0) > 1
    ending = "the last of them" if refit_iterations == 1 else f"the last {refit_iterations} of them"
    phrase = f"{refit_iterations} of them at the end of the fits" if has_several_fits else ending
    return f", {phrase} with the validation pixels as well"


def _describe_selected_iteration(report: Report) -> str:
    """Return a phrase on the iteration that the image was taken from.

    It is not always that of the lowest validation loss. A later iteration is preferred if its loss
    is hardly higher.
    """
    best, losses = report["best_iteration"], dict(report.get("validation_loss", ()))
    lowest_loss = min((loss for loss in losses.values() if loss is not None), default=None)
    by_hand = read_report_stop(report).reason in (StopReason.USER, StopReason.HISTORY)
    by_hand = by_hand or bool(report.get("fit", {}).get("kept"))
    if report.get("fit", {}).get("last_phase") and not by_hand:
        return "the output after these last iterations was taken"
    if by_hand or lowest_loss is None or (losses.get(best) or lowest_loss) <= lowest_loss:
        return f"the output of iteration {best} was taken"
    return f"the output of iteration {best} was taken, the last of several that hardly differ"


def _describe_joint_training(training: Mapping[str, Any]) -> str:
    """Return a sentence on joint training, and on the gain of fine-tuning."""
    parts = "one part" if training["members"] == 1 else f"{training['members']} parts"
    clause = (
        f"was fitted to {parts} of the data together, in {training['iterations']} iterations, and "
        "then "
        f"applied to each of {training['inference']} (frames, planes or tiles, and channels)"
    )
    if "network_file" in training:
        name = _strip_citation_marks(training["network_file"])
        clause = (
            f"was fitted to {training['members']} images of the series together ('{name}', SHA-256 "
            f"{training['sha256']}), in {training['iterations']} iterations, and then applied to "
            "this one"
        )
    if "probes" not in training:
        return f"{clause}."
    outcome = "each was fine-tuned" if training["fine_tuned"] else "none was fine-tuned"
    return (
        f"{clause}; since fine-tuning, tried on {training['probes']}, changed the "
        f"log-likelihood of validation pixels by {training['gain']:.2g} ± {training['error']:.2g} "
        "a pixel, "
        f"{outcome}."
    )


def _describe_refinement(report: Report) -> str:
    sentences = []
    if report["noise"].get("camera") and uses_refinement(report):
        return (
            "It was fitted at half its size {lanczos}. In the end luminance and colours were "
            "filtered together, at three sizes {colour camera}, by similar patches and "
            "guided in part by the network's image {nl-bayes|bm3d}."
        )
    if report.get("fit", {}).get("half_resolution"):
        sentences.append(
            "Since the image is oversampled, it was fitted at half its size and upscaled again "
            "{lanczos|iterative backprojection}."
        )
    if uses_refinement(report):
        sentences.append(
            "In the end similar patches were filtered together, guided by the network's "
            "image {nl-bayes|bm3d}."
        )
    return " ".join(sentences)


def _describe_other_settings(report: Report) -> str:
    """Return a sentence on settings that differ from their defaults, labelled as in the dock."""
    recipe = recipe_from_dict(report["recipe"])
    task_settings = recipe.task.to_dict()
    run_settings = recipe.run_settings.model_dump(exclude_defaults=True)
    descriptions = []
    for kind, values in ((type(recipe.task), task_settings), (RunSettings, run_settings)):
        for name, value in values.items():
            if name not in _NAMED_SETTINGS:
                setting = _get_setting_metadata(kind, name)
                label_and_value = f"{setting.label}: {_format_setting_value(value, setting)}"
                descriptions.append(
                    _strip_citation_marks(setting.report_template.format(value) or label_and_value)
                )
    return f"Settings other than the defaults: {'; '.join(descriptions)}." if descriptions else ""


def _describe_device(report: Report) -> str:
    device = {"cpu": "the CPU", "cuda": "an NVIDIA GPU", "mps": "an Apple GPU"}
    device_name = device.get(report["device"], report["device"])
    count = f"{report['threads']} thread{'s' if report['threads'] != 1 else ''}"
    threads = f" with {count}" if report["device"] == "cpu" else ""
    return f"It was computed with PyTorch {report['torch']} on {device_name}{threads}."


def _get_setting_metadata(kind: Any, name: str) -> Setting:
    marks = kind.__pydantic_fields__[name].metadata
    return next(mark for mark in marks if isinstance(mark, Setting))


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
