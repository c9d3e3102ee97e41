"""What to write in the methods section about a result, with the papers behind it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.assess.references import PARTS, filtered, papers_of, references_of
from napari_dip.pipeline.recipe import Common, recipe_from_dict
from napari_dip.tasks import TASKS, Setting
from napari_dip.tasks.priors.blind_spot import IMAGE_INPUT_PRIORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Report = Mapping[str, Any]

#: What was done, to follow "The image was".
_DONE = {
    "denoise": "denoised",
    "inpaint": "filled in where pixels were missing",
    "super-resolve": "super-resolved",
    "deblur": "deblurred with a known point spread function",
    "blind-deblur": "deblurred with a point spread function estimated from the image itself",
    "guide": "restored with the help of a guide image",
    "invert-features": "restored from the activations of a layer of a network",
}
#: What the network was fed, to follow "The network was fed", and the papers to cite there.
_FED = {
    "noise": ("fixed random noise", ()),
    "deep": ("fixed random noise, without skip connections", ()),
    "blind-spot": ("the image with pixels hidden afresh at each step", ("blind spot", "posterior")),
    "recorrupted": ("the image with more noise of its own kind added", ("recorrupted",)),
    "image": ("the image with more of its pixels hidden at each step", ("blind spot",)),
    "image-shapes": (
        "the image with copies of its holes hidden at each step",
        ("blind spot",),
    ),
    "guided": (
        "the guide, and the image with pixels hidden afresh at each step",
        ("guide", "blind spot", "posterior"),
    ),
    "guided-noise": ("the guide and fixed random noise", ("guide",)),
    "recompression": ("the image compressed once more", ("recompression",)),
    "coarser-scales": ("coarser copies of the image", ("coarser scales",)),
}
#: Priors without a network of their own.
_FREE = {
    "total-variation": "the pixels themselves were, with a penalty on their total variation "
    "{total variation}",
    "pixels": "the pixels themselves were, with no prior",
}
#: How the noise was modelled, to follow "The noise was modelled as".
_NOISE = {
    "gaussian": "Gaussian, equally strong everywhere",
    "poisson-gaussian": "Poisson-Gaussian, its variance a line in the intensity",
    "jpeg": "the loss of JPEG compression",
    "salt-and-pepper": "impulses on single pixels beside a detector's noise",
    "stripes": "offsets of whole rows or columns beside a detector's noise",
    "speckle": "speckle, in proportion to the signal",
}
#: Settings that the sentences name by themselves.
_TOLD = ("preset", "seed", "prior", "noise", "gain", "read_noise", "device", "max_iterations")


def methods_text(report: Report) -> str:
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
    cited = papers_of(report)
    sentences = (
        _what(report),
        _network(report),
        _noise(report),
        _course(report),
        _last_step(report),
        _others(report),
        _machine(report),
    )
    text = make_printable(" ".join(filter(None, sentences)))  # a line break would begin a reference
    # numbers run in the order in which the text cites, then what it does not name
    named = dict.fromkeys(
        key for group in re.findall(r"\{([^}]*)\}", text) for key in group.split("|")
    )
    order = [key for key in (*named, *cited) if key in cited]
    numbers = {key: place for place, key in enumerate(dict.fromkeys(order), 1)}
    text = re.sub(r" ?\{([^}]*)\}", lambda found: _marks(found[1].split("|"), numbers), text)
    papers = dict(zip(cited, references_of(report), strict=True))
    lines = [f"[{place}] {papers[key]}" for key, place in numbers.items()]
    rest = [f"{PARTS[key]} [{numbers[key]}]" for key in numbers if key not in named]
    if rest:
        text += f" Also used: {'; '.join(rest)}."
    return "\n".join([text, "", *lines]) + "\n"


def _what(report: Report) -> str:
    done = _DONE.get(report["task"], f"restored (task '{report['task']}')")
    recipe = report["recipe"]
    preset = str(recipe.get("preset", Common.model_fields["preset"].default))
    return (
        f"The image was {done} with napari-dip {report['version']} (task "
        f"'{TASKS[report['task']].title}', preset '{preset.capitalize()}', seed "
        f"{report['seed']}), which fits an untrained convolutional network to {_measured(report)} "
        "and to no other data (Deep Image Prior {deep image prior})."
    )


def _measured(report: Report) -> str:
    """Say what was fitted to; a network of a series was fitted to other files, too."""
    series = "file" in report.get("fit", {}).get("shared", {})
    return "images of one series, one network for all," if series else "the measurement itself"


def _network(report: Report) -> str:
    if report["prior"]["chosen"] in _FREE:
        return f"No network was fitted: {_FREE[report['prior']['chosen']]}."
    chosen, why = report["prior"]["chosen"], report["prior"]["why"].partition(";")[0]
    fed, papers = _FED.get(chosen, (f"by the prior '{chosen}'", ()))
    if report["task"] in ("deblur", "blind-deblur") and "Lucy" in papers_of(report):
        fed += " and the first steps of Richardson-Lucy deconvolution"
        papers = (*papers, "Richardson", "Lucy")
    cite = f" {{{'|'.join(papers)}}}" if papers else ""
    chosen_by = " (chosen by hand)" if why == "you chose it" else ""
    return f"The network was fed {fed}{cite}{chosen_by}."


def _noise(report: Report) -> str:
    """Give the model with its figures, in the image's units, and what was hidden."""
    if report["task"] == "invert-features":
        return ""  # no pixel was fitted
    noise, cited = report["noise"], papers_of(report)
    words = f"The noise was modelled as {_NOISE.get(noise['model'], noise['model'])}"
    if noise["model"] == "speckle":
        figures = f"relative standard deviation {_figures(noise.get('relative', [0]))}"
    elif noise["model"] == "gaussian":
        deviations = [max(0.0, one) ** 0.5 for one in noise["intercept"]]
        figures = f"standard deviation {_figures(deviations)}"
    else:
        gain, rest = _figures(noise["gain"]), _figures(noise["intercept"])
        figures = f"variance = gain × intensity + intercept, gain {gain}, intercept {rest}"
    several = "; one figure for each channel" if len(noise["gain"]) > 1 else ""
    if camera := noise.get("camera"):
        std, lags = _figures(camera["std"]), _figures(camera["lags"])
        figures += (
            f"; of luminance and two colour differences {std}, with a correlation of neighbouring "
            f"pixels of {lags}"
        )
    origin = ", given by hand" if noise["model"] in ("gaussian", "poisson-gaussian") else ""
    if "noise line" in cited:
        origin = ", measured from the image {noise line}"
    if "two shots" in cited:
        origin = ", measured from the difference of two shots {two shots}"
    for key in ("jpeg traces", "impulses", "stripes", "speckle"):
        if key in cited:
            origin += f" {{{key}}}"
    sizes = " × ".join(str(side) for side in reversed(noise["hidden_block"]))
    single = all(side == 1 for side in noise["hidden_block"])
    hidden = "single pixels" if single else f"blocks of {sizes} pixels"
    fed = report["prior"]["chosen"] in IMAGE_INPUT_PRIORS
    purpose = "from the network and to judge the fit" if fed else "to judge the fit"
    if report.get("fit", {}).get("last_phase"):
        purpose += " until its last iterations, in which they take part"
    return (
        f"{words} ({figures}, in intensity units of the image{several}){origin}; {hidden} were "
        f"held back {purpose}."
    )


def _course(report: Report) -> str:
    fit = report.get("fit", {})
    most = fit.get("iterations_at_most")
    count = fit.get("finished", 1) + fit.get("kept", 0)
    fits = f" in {count} fits" if count > 1 else ""
    each = " each" if count > 1 else ""
    limit = f" of at most {most}{each}" if most else ""
    reason = _plain(report["stop_reason"].rstrip("."))
    reason = {"you kept the picture": "it was ended by hand"}.get(reason, reason)
    network = " → ".join(map(str, fit.get("network", ())))
    shape = f" of {network} channels" if network else ""
    fitted = "The pixels" if report["prior"]["chosen"] in _FREE else f"The network{shape}"
    if "shared" in fit:
        return f"{fitted} {_shared(fit['shared'])}"
    return (
        f"{fitted} took {report['iterations']} iterations{fits}{limit}{_last_phase(fit)}; the "
        f"fit ended since {reason}, and {_taken(report)}."
    )


def _last_phase(fit: Mapping[str, Any]) -> str:
    """Tell the iterations after the judgement from those that were judged."""
    last = fit.get("last_phase")
    if not last:
        return ""
    several = fit.get("finished", 1) + fit.get("kept", 0) > 1
    which = f"{last} of them at the end of the fits" if several else f"the last {last} of them"
    return f", {which.replace('last 1 ', 'last ')} with the held-out pixels as well"


def _taken(report: Report) -> str:
    """Say which iteration the picture is of; a later one is taken if it was hardly worse."""
    best, losses = report["best_iteration"], dict(report.get("held_out", ()))
    least = min((loss for loss in losses.values() if loss is not None), default=None)
    by_hand = report["stop_reason"].startswith("you kept") or report.get("fit", {}).get("kept")
    if report.get("fit", {}).get("last_phase") and not by_hand:
        return "the picture after these last ones was taken"
    if by_hand or least is None or (losses.get(best) or least) <= least:
        return f"its picture of iteration {best} was taken"
    return f"of iterations that hardly differ the last, {best}, was taken"


def _shared(told: Mapping[str, Any]) -> str:
    """Say to what one network was fitted, and what held-out pixels said of going on."""
    many = "one part" if told["members"] == 1 else f"{told['members']} parts"
    words = (
        f"was fitted to {many} of the data together, in {told['iterations']} iterations, and then "
        f"shown each of {told['shown']} (frames, planes or tiles, and channels)"
    )
    if "file" in told:
        name = _plain(told["file"])
        words = (
            f"was fitted to {told['members']} images of the series together ('{name}', SHA-256 "
            f"{told['sha256']}), in {told['iterations']} iterations, and then shown this "
            "one"
        )
    if "trials" not in told:
        return f"{words}."
    went = "each went on" if told["went_on"] else "none went on"
    return (
        f"{words}; since going on with each by itself, tried on {told['trials']}, changed the "
        f"log-likelihood of held-out pixels by {told['gain']:.2g} ± {told['error']:.2g} a pixel, "
        f"{went}."
    )


def _last_step(report: Report) -> str:
    said = []
    if report["noise"].get("camera") and filtered(report):
        return (
            "It was fitted at half its size {halved}. In the end luminance and colours were "
            "filtered together, at three sizes {camera}, by patches that look alike and guided in "
            "part by the network's picture {collaborative}."
        )
    if report.get("fit", {}).get("halved"):
        said.append(
            "Since the image is oversampled, it was fitted at half its size and enlarged again "
            "{halved|explaining}."
        )
    if filtered(report):
        said.append(
            "In the end patches that look alike were filtered together, guided by the network's "
            "picture {collaborative}."
        )
    return " ".join(said)


def _others(report: Report) -> str:
    """Name the settings that were changed, as the dock shows them."""
    recipe = recipe_from_dict(report["recipe"])
    own = recipe.task.to_dict()
    common = recipe.common.model_dump(exclude_defaults=True)
    words = []
    for kind, values in ((type(recipe.task), own), (Common, common)):
        for name, value in values.items():
            if name not in _TOLD:
                shown = _shown(kind, name)
                plain = f"{shown.label}: {_value(value, shown)}"
                words.append(_plain(shown.written.format(value) or plain))
    return f"Settings other than the defaults: {'; '.join(words)}." if words else ""


def _machine(report: Report) -> str:
    device = {"cpu": "the processor", "cuda": "an NVIDIA graphics card", "mps": "Apple graphics"}
    place = device.get(report["device"], report["device"])
    count = f"{report['threads']} thread{'s' if report['threads'] != 1 else ''}"
    threads = f" with {count}" if report["device"] == "cpu" else ""
    return f"It was computed with PyTorch {report['torch']} on {place}{threads}."


def _shown(kind: Any, name: str) -> Setting:
    marks = kind.__pydantic_fields__[name].metadata
    return next(mark for mark in marks if isinstance(mark, Setting))


def _value(value: Any, shown: Setting) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str((shown.choices or {}).get(value, value))


def _plain(text: str) -> str:
    """Take out what marks a paper, from words that were not written here."""
    return text.replace("{", "(").replace("}", ")")


def _figures(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _marks(keys: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Turn keys of papers into " [1, 2]", those that are not cited left out."""
    found = sorted({numbers[key] for key in keys if key in numbers})
    return f" [{', '.join(map(str, found))}]" if found else ""
