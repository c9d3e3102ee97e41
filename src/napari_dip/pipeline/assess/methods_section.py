"""What to write in the methods section about a result, with the papers behind it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import StopReason, read_report_stop
from napari_dip.pipeline.assess.references import (
    CITED_TOPICS,
    list_paper_keys,
    list_references,
    uses_refinement,
)
from napari_dip.pipeline.recipe import RunSettings, recipe_from_dict
from napari_dip.tasks import TASKS, Setting
from napari_dip.tasks.priors.blind_spot import IMAGE_INPUT_PRIORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Report = Mapping[str, Any]

#: What was done, to follow "The image was".
_TASK_PHRASES = {
    "denoise": "denoised",
    "inpaint": "filled in where pixels were missing",
    "super-resolve": "super-resolved",
    "deblur": "deblurred with a known point spread function",
    "blind-deblur": "deblurred with a point spread function estimated from the image itself",
    "guide": "restored with the help of a guide image",
    "invert-features": "restored from the activations of a layer of a network",
}
#: What the network was fed, to follow "The network was fed", and the papers to cite there.
_NETWORK_INPUT_PHRASES = {
    "random-input": ("fixed random noise", ()),
    "random-input-no-skips": ("fixed random noise, without skip connections", ()),
    "blind-spot": ("the image with pixels hidden afresh at each step", ("blind spot", "posterior")),
    "r2r": ("the image with more noise of its own kind added", ("r2r",)),
    "masked-input": ("the image with more of its pixels hidden at each step", ("blind spot",)),
    "masked-input-shapes": (
        "the image with copies of its holes hidden at each step",
        ("blind spot",),
    ),
    "guided": (
        "the guide, and the image with pixels hidden afresh at each step",
        ("guide", "blind spot", "posterior"),
    ),
    "guided-random-input": ("the guide and fixed random noise", ("guide",)),
    "recompression": ("the image compressed once more", ("recompression",)),
    "zssr": ("coarser copies of the image", ("coarser scales",)),
}
#: Priors without a network of their own.
_NETWORK_FREE_PRIORS = {
    "total-variation": "the pixels themselves were, with a penalty on their total variation "
    "{total variation}",
    "pixels": "the pixels themselves were, with no prior",
}
#: How the noise was modelled, to follow "The noise was modelled as".
_NOISE_MODEL_PHRASES = {
    "gaussian": "Gaussian, equally strong everywhere",
    "poisson-gaussian": "Poisson-Gaussian, its variance a line in the intensity",
    "jpeg": "the loss of JPEG compression",
    "salt-and-pepper": "impulses on single pixels beside a detector's noise",
    "stripes": "offsets of whole rows or columns beside a detector's noise",
    "speckle": "speckle, in proportion to the signal",
}
#: How the noise was measured, by the paper to cite.
_ORIGINS = {
    "noise line": ", measured from the image",
    "two shots": ", measured from the difference of two shots",
}
#: Choices of the user that run as a prior of another name.
_VARIANTS = {"guided-random-input": "random-input", "masked-input-shapes": "masked-input"}
#: Settings that the sentences name by themselves.
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
    """Write a paragraph for the methods section, and the references that it cites.

    Parameters
    ----------
    report : mapping
        Of a run, as `Restoration.report` has it.

    Returns
    -------
    str
        Sentences with numbers in brackets; below them the references, one to a line.
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
    text = make_printable(" ".join(filter(None, sentences)))  # a line break would begin a reference
    # numbers run in the order in which the text cites, then what it does not name
    named = dict.fromkeys(
        key for group in re.findall(r"\{([^}]*)\}", text) for key in group.split("|")
    )
    order = [key for key in (*named, *cited) if key in cited]
    numbers = {key: place for place, key in enumerate(dict.fromkeys(order), 1)}
    text = re.sub(
        r" ?\{([^}]*)\}", lambda result: _format_citation(result[1].split("|"), numbers), text
    )
    papers = dict(zip(cited, list_references(report), strict=True))
    lines = [f"[{place}] {papers[key]}" for key, place in numbers.items()]
    rest = [f"{CITED_TOPICS[key]} [{numbers[key]}]" for key in numbers if key not in named]
    if rest:
        text += f" Also used: {'; '.join(rest)}."
    return "\n".join([text, "", *lines]) + "\n"


def _describe_task(report: Report) -> str:
    done = _TASK_PHRASES.get(report["task"], f"restored (task '{report['task']}')")
    recipe = report["recipe"]
    preset = str(recipe.get("preset", RunSettings.model_fields["preset"].default))
    return (
        f"The image was {done} with napari-dip {report['version']} (task "
        f"'{TASKS[report['task']].title}', preset '{preset.capitalize()}', seed "
        f"{report['seed']}), which fits an untrained convolutional network to "
        f"{_describe_fitted_data(report)} "
        "and to no other data (Deep Image Prior {deep image prior})."
    )


def _describe_fitted_data(report: Report) -> str:
    """Say what was fitted to; a network of a series was fitted to other files, too."""
    series = "network_file" in report.get("fit", {}).get("joint_training", {})
    return "images of one series, one network for all," if series else "the measurement itself"


def _describe_network_input(report: Report) -> str:
    if report["prior"]["chosen"] in _NETWORK_FREE_PRIORS:
        return f"No network was fitted: {_NETWORK_FREE_PRIORS[report['prior']['chosen']]}."
    chosen = report["prior"]["chosen"]
    chosen_prior = report["recipe"].get("settings", {}).get("prior", "auto")
    fed, papers = _NETWORK_INPUT_PHRASES.get(chosen, (f"by the prior '{chosen}'", ()))
    if report["task"] in ("deblur", "blind-deblur") and "Lucy" in list_paper_keys(report):
        fed += " and the first steps of Richardson-Lucy deconvolution"
        papers = (*papers, "Richardson", "Lucy")
    cite = f" {{{'|'.join(papers)}}}" if papers else ""
    chosen_by = " (chosen by hand)" if chosen_prior in (chosen, _VARIANTS.get(chosen)) else ""
    return f"The network was fed {fed}{cite}{chosen_by}."


def _describe_noise_model(report: Report) -> str:
    """Give the model with its figures, in the image's units, and what was hidden."""
    if report["task"] == "invert-features":
        return ""  # no pixel was fitted
    noise, cited = report["noise"], list_paper_keys(report)
    text = f"The noise was modelled as {_NOISE_MODEL_PHRASES.get(noise['model'], noise['model'])}"
    if noise["model"] == "speckle":
        figures = f"relative standard deviation {_join_figures(noise.get('relative', [0]))}"
    elif noise["model"] == "gaussian":
        deviations = [max(0.0, item) ** 0.5 for item in noise["intercept"]]
        figures = f"standard deviation {_join_figures(deviations)}"
    else:
        gain, rest = _join_figures(noise["gain"]), _join_figures(noise["intercept"])
        figures = f"variance = gain × intensity + intercept, gain {gain}, intercept {rest}"
    several = "; one figure for each channel" if len(noise["gain"]) > 1 else ""
    if camera := noise.get("camera"):
        std, lags = _join_figures(camera["std"]), _join_figures(camera["lags"])
        figures += (
            f"; of luminance and two colour differences {std}, with a correlation of neighbouring "
            f"pixels of {lags}"
        )
    origin = ", given by hand" if noise["model"] in ("gaussian", "poisson-gaussian") else ""
    for key, phrase in _ORIGINS.items():
        if key in cited:
            origin = f"{phrase} {{{key}}}"
    for key in ("jpeg traces", "impulses", "stripes", "speckle"):
        if key in cited:
            origin += f" {{{key}}}"
    sizes = " × ".join(str(side) for side in reversed(noise["blind_spot_block"]))
    single = all(side == 1 for side in noise["blind_spot_block"])
    hidden = "single pixels" if single else f"blocks of {sizes} pixels"
    fed = report["prior"]["chosen"] in IMAGE_INPUT_PRIORS
    purpose = "from the network and to judge the fit" if fed else "to judge the fit"
    if report.get("fit", {}).get("last_phase"):
        purpose += " until its last iterations, in which they take part"
    return (
        f"{text} ({figures}, in intensity units of the image{several}){origin}; {hidden} were "
        f"held back {purpose}."
    )


def _describe_iterations(report: Report) -> str:
    fit = report.get("fit", {})
    most = fit.get("max_iterations")
    count = fit.get("finished", 1) + fit.get("kept", 0)
    fits = f" in {count} fits" if count > 1 else ""
    each = " each" if count > 1 else ""
    limit = f" of at most {most}{each}" if most else ""
    stop = read_report_stop(report)
    by_hand = stop.reason is StopReason.USER
    reason = "it was ended by hand" if by_hand else _strip_citation_marks(str(stop).rstrip("."))
    network = " → ".join(map(str, fit.get("network", ())))
    shape = f" of {network} channels" if network else ""
    fitted = (
        "The pixels" if report["prior"]["chosen"] in _NETWORK_FREE_PRIORS else f"The network{shape}"
    )
    if "joint_training" in fit:
        return f"{fitted} {_describe_joint_training(fit['joint_training'])}"
    return (
        f"{fitted} took {report['iterations']} "
        f"iterations{fits}{limit}{_describe_last_phase(fit)}; the "
        f"fit ended since {reason}, and {_describe_selected_iteration(report)}."
    )


def _describe_last_phase(fit: Mapping[str, Any]) -> str:
    """Tell the iterations after the judgement from those that were judged."""
    last = fit.get("last_phase")
    if not last:
        return ""
    several = fit.get("finished", 1) + fit.get("kept", 0) > 1
    ends = "the last of them" if last == 1 else f"the last {last} of them"
    which = f"{last} of them at the end of the fits" if several else ends
    return f", {which} with the held-out pixels as well"


def _describe_selected_iteration(report: Report) -> str:
    """Say which iteration the picture is of; a later one is taken if it was hardly worse."""
    best, losses = report["best_iteration"], dict(report.get("validation_loss", ()))
    least = min((loss for loss in losses.values() if loss is not None), default=None)
    by_hand = read_report_stop(report).reason in (StopReason.USER, StopReason.HISTORY)
    by_hand = by_hand or bool(report.get("fit", {}).get("kept"))
    if report.get("fit", {}).get("last_phase") and not by_hand:
        return "the picture after these last ones was taken"
    if by_hand or least is None or (losses.get(best) or least) <= least:
        return f"its picture of iteration {best} was taken"
    return f"of iterations that hardly differ the last, {best}, was taken"


def _describe_joint_training(training: Mapping[str, Any]) -> str:
    """Say to what one network was fitted, and what held-out pixels said of going on."""
    many = "one part" if training["members"] == 1 else f"{training['members']} parts"
    text = (
        f"was fitted to {many} of the data together, in {training['iterations']} iterations, and "
        "then "
        f"shown each of {training['inference']} (frames, planes or tiles, and channels)"
    )
    if "network_file" in training:
        name = _strip_citation_marks(training["network_file"])
        text = (
            f"was fitted to {training['members']} images of the series together ('{name}', SHA-256 "
            f"{training['sha256']}), in {training['iterations']} iterations, and then shown this "
            "one"
        )
    if "trials" not in training:
        return f"{text}."
    went = "each went on" if training["fine_tuned"] else "none went on"
    return (
        f"{text}; since going on with each by itself, tried on {training['trials']}, changed the "
        f"log-likelihood of held-out pixels by {training['gain']:.2g} ± {training['error']:.2g} a "
        "pixel, "
        f"{went}."
    )


def _describe_refinement(report: Report) -> str:
    said = []
    if report["noise"].get("camera") and uses_refinement(report):
        return (
            "It was fitted at half its size {halved}. In the end luminance and colours were "
            "filtered together, at three sizes {camera}, by patches that look alike and guided in "
            "part by the network's picture {collaborative}."
        )
    if report.get("fit", {}).get("half_resolution"):
        said.append(
            "Since the image is oversampled, it was fitted at half its size and enlarged again "
            "{halved|explaining}."
        )
    if uses_refinement(report):
        said.append(
            "In the end patches that look alike were filtered together, guided by the network's "
            "picture {collaborative}."
        )
    return " ".join(said)


def _describe_other_settings(report: Report) -> str:
    """Name the settings that were changed, as the dock shows them."""
    recipe = recipe_from_dict(report["recipe"])
    own = recipe.task.to_dict()
    common = recipe.run_settings.model_dump(exclude_defaults=True)
    descriptions = []
    for kind, values in ((type(recipe.task), own), (RunSettings, common)):
        for name, value in values.items():
            if name not in _NAMED_SETTINGS:
                setting = _get_setting_metadata(kind, name)
                plain = f"{setting.label}: {_format_setting_value(value, setting)}"
                descriptions.append(_strip_citation_marks(setting.written.format(value) or plain))
    return f"Settings other than the defaults: {'; '.join(descriptions)}." if descriptions else ""


def _describe_device(report: Report) -> str:
    device = {"cpu": "the CPU", "cuda": "an NVIDIA GPU", "mps": "an Apple GPU"}
    place = device.get(report["device"], report["device"])
    count = f"{report['threads']} thread{'s' if report['threads'] != 1 else ''}"
    threads = f" with {count}" if report["device"] == "cpu" else ""
    return f"It was computed with PyTorch {report['torch']} on {place}{threads}."


def _get_setting_metadata(kind: Any, name: str) -> Setting:
    marks = kind.__pydantic_fields__[name].metadata
    return next(mark for mark in marks if isinstance(mark, Setting))


def _format_setting_value(value: Any, setting: Setting) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str((setting.choices or {}).get(value, value))


def _strip_citation_marks(text: str) -> str:
    """Take out what marks a paper, from words that were not written here."""
    return text.replace("{", "(").replace("}", ")")


def _join_figures(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _format_citation(keys: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Turn keys of papers into " [1, 2]", those that are not cited left out."""
    citations = sorted({numbers[key] for key in keys if key in numbers})
    return f" [{', '.join(map(str, citations))}]" if citations else ""
