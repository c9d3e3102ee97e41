"""What a microscopist should know before relying on a result: plain sentences, from numbers only.

Each bound stands here with its origin. `scripts/trust_bounds.py` measures the figures that they
were chosen by.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

from napari_dip.pipeline.assess.findings import RESIDUAL_EDGE_SHARE
from napari_dip.pipeline.assess.patterns import LEAST, LOCAL_PART_SIDE, LOST, compute_biased_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.pipeline.assess.evidence import ConfirmedDetail
    from napari_dip.pipeline.assess.findings import ResidualMetrics, ResultMetrics
    from napari_dip.pipeline.assess.patterns import CutOff

#: Autocorrelation that the residual may have beyond the noise's, and variance along edges that it
#: may have in units of that elsewhere. Of 24 pictures less their truth the variance was 1.06 at
#: most, and the excess 0.03, but for one of 0.36 whose correlated noise was measured as white, and
#: three that did not tell their noise. Of 74 filtered ones in whose residual a tenth or more was
#: structure, the variance along edges was above its bound in 69, the correlation in 16.
EXCESS, EDGES = 0.1, 1.3
#: Standard errors that are granted beside these bounds, which small images have.
ERRORS = 3.0
#: Standard deviation of the residual in units of the noise. Of the truth it was 0.93 to 1.03 (1.8
#: in the one case above); a filter that hardly takes noise out left as little as 0.2.
STRONG, WEAK = 1.3, 0.4
#: Mean intensity that may be lost or gained, as a share.
BIAS = 0.005
#: Least change of the mean that is given as a figure.
LEAST_CHANGE = 0.001
#: Least share of detail that the measurement must confirm, two standard errors of it taken off.
CONFIRMED, SURE = 0.5, 2.0
#: Largest share that is believed: more of it is chance, as where a picture shows next to nothing.
MOST_SHARE = 2.0
#: Standard error from which on no digit of such a share stands.
UNTOLD = 0.25
#: Shares below this round to 0 %.
NOTHING = 0.005
#: Fine detail that is weaker than this share of the picture's contrast is not looked at by anyone.
VISIBLE = 0.1
#: Share of the filled pixels that may lie far from any measured one.
FAR = 0.05


@dataclass(frozen=True, slots=True)
class Remark:
    """One sentence, and whether it asks for care."""

    words: str
    warns: bool = False


def verdict(found: ResultMetrics, early: Sequence[str] = ()) -> dict[str, Any]:
    """Say what the numbers mean.

    Parameters
    ----------
    found : Findings
    early : sequence of str
        What to warn of where a run was ended before all was done.

    Returns
    -------
    dict
        In plain JSON types: "sentences", all of them, those that ask for care first; "warnings",
        these alone; "figures", what they were made from, with "bounds".
    """
    remarks = [
        *_of_local_means(found),
        *(Remark(words, warns=True) for words in early),
        *_of_contrast(found),
        *_of_holes(found),
        *([] if found.filled and found.residual is None else [_of_residual(found.residual)]),
        *_of_pattern(found),
        _of_intensity(found),
        *(Remark(words, warns=True) for words in cut_off_words(found.least, found.largest)),
        *_of_cut_noise(found),
        *_of_finer(found),
    ]
    warnings = [one.words for one in remarks if one.warns]
    calm = [one.words for one in remarks if not one.warns]
    return {
        "sentences": [*warnings, *calm],
        "warnings": warnings,
        "figures": _rounded(asdict(found)),
        "bounds": {
            "residual_excess": _digits(excess_allowed(found.residual)),
            "residual_at_edges": _digits(edges_allowed(found.residual)),
            "residual_strength": [WEAK, STRONG],
            "bias": BIAS,
            "confirmed": CONFIRMED,
            "far": FAR,
            "pattern": [LEAST, LOST],
        },
    }


def excess_allowed(residual: ResidualMetrics | None) -> float:
    """Most that the residual's autocorrelation may lie above the noise's."""
    return EXCESS + ERRORS / sqrt(max(residual.pixels, 1)) if residual else EXCESS


def edges_allowed(residual: ResidualMetrics | None) -> float:
    """Largest variance of the residual along edges, in units of that where the picture is flat."""
    steep = RESIDUAL_EDGE_SHARE * residual.pixels if residual else 0.0
    return EDGES + ERRORS * sqrt(2 / steep) if steep else EDGES  # a variance's standard error


def doubtful(found: ConfirmedDetail) -> bool:
    """Whether less than half of a kind of detail is sure to be in the measurement."""
    return _least(found) < CONFIRMED


def _least(found: ConfirmedDetail) -> float:
    """Share of a kind of detail that is sure to be in the measurement."""
    return min(found.share, MOST_SHARE) - SURE * found.error


def _of_residual(residual: ResidualMetrics | None) -> Remark:
    if residual is None:
        return Remark("What was taken out is no noise from pixel to pixel, so it was not judged.")
    if residual.told and residual.excess > excess_allowed(residual):
        found, most = _told_apart(residual.excess, excess_allowed(residual))
        return Remark(
            "The residual still holds structure: its neighbouring pixels are more alike than those "
            f"of the noise (by {found}; up to {most} is well). Lines and spots in it were lost "
            "from the picture.",
            warns=True,
        )
    if residual.at_edges > edges_allowed(residual):
        return Remark(
            "The residual still holds structure: along the edges of the picture its variance is "
            f"{residual.at_edges:.1f} times that elsewhere. Lines and spots in it were lost.",
            warns=True,
        )
    if not residual.told:
        return Remark(
            "The residual holds no edges of the picture. Whether it looks like noise is not known, "
            "since the image does not tell its noise for certain."
        )
    if residual.strength > STRONG:
        return Remark(
            f"The residual is {residual.strength:.1f} times as strong as the measured noise, so "
            "structure may have gone with it. Look at it beside the picture.",
            warns=True,
        )
    if residual.strength < WEAK:
        return Remark(
            f"The residual has {residual.strength:.0%} of the strength of the measured noise: "
            "either much noise was left in the picture, or there is less of it than was measured.",
            warns=True,
        )
    return Remark("The residual looks like noise.")


def _of_local_means(found: ResultMetrics) -> list[Remark]:
    """Judge the brightness of parts, by no noise that was measured: what a fit was led by."""
    residual = found.residual
    if residual is None or residual.far <= compute_biased_limit(residual.parts):
        return []
    return [
        Remark(
            f"Do not use this result: in {residual.far:.0%} of its parts of {LOCAL_PART_SIDE} × "
            f"{LOCAL_PART_SIDE} pixels "
            "its brightness is not that of the input. Run it again with gain and read noise filled "
            "in, since they were probably measured wrong.",
            warns=True,
        )
    ]


def _of_pattern(found: ResultMetrics) -> list[Remark]:
    pattern = found.pattern
    if pattern is None:
        return []
    return [
        Remark(
            f"A fine regular pattern with a period of {pattern.period:.1f} pixels was taken out "
            f"with the noise, {pattern.lost:.0%} of its power. That is well if it is the "
            "detector's. If it is the object's, run again with gain and read noise filled in, "
            "since such a pattern can be measured as noise.",
            warns=True,
        )
    ]


def _of_intensity(found: ResultMetrics) -> Remark:
    bias = max(found.bias, found.unexplained, key=abs)
    if abs(bias) > BIAS:
        more = "brighter" if bias > 0 else "darker"
        return Remark(
            f"On average the result is {abs(bias):.1%} {more} than the input.", warns=True
        )
    return Remark(f"Mean intensity was kept within {BIAS:.1%}.")


def _of_contrast(found: ResultMetrics) -> list[Remark]:
    detail, contrast = found.detail, found.contrast
    if found.filled and found.residual is None:
        return []  # measured pixels came back as they were, and of holes held-out pixels know none
    if detail is None or contrast is None:
        return [
            Remark(
                "Whether its detail is real was not checked, since no pixel was left out to the "
                "end. Texture inside even areas may be invented: compare another seed or preset.",
                warns=True,
            )
        ]
    visible = detail.strength > VISIBLE * contrast.strength
    if doubtful(contrast):
        return [Remark(f"What the picture shows may be invented: {_asked(contrast)}.", warns=True)]
    if visible and doubtful(detail):
        may = "may be invented" if detail.error <= UNTOLD else "could not be confirmed"
        return [Remark(f"Fine detail of the picture {may}: {_asked(detail)}.", warns=True)]
    least = min(contrast, detail, key=lambda one: one.share) if visible else contrast
    what = "fine detail that the picture shows" if least is detail else "picture's contrast"
    words = f"At pixels that the fit never saw, the measurement confirms {_share(least)} of the"
    return [Remark(f"{words} {what}.")]


def _asked(found: ConfirmedDetail) -> str:
    """Say what the held-out pixels answered where they did not confirm."""
    if found.error > UNTOLD:
        return "it is too weak for the pixels that the fit never saw to tell"
    words = f"at pixels that the fit never saw, the measurement confirms {_share(found)} of it"
    if found.share < NOTHING:
        return words
    least = _least(found)
    return f"{words}, but it may be {f'as little as {least:.0%}' if least >= NOTHING else 'none'}"


def _of_holes(found: ResultMetrics) -> list[Remark]:
    if not found.filled:
        return []
    if found.far > FAR:
        return [
            Remark(
                f"{found.far:.0%} of the filled pixels lie far from any measured one: what is "
                "drawn there may be invented. Do not measure in it.",
                warns=True,
            )
        ]
    return [Remark("What fills missing pixels is a guess from what surrounds them.")]


def cut_off_words(least: CutOff, largest: CutOff) -> tuple[str, ...]:
    """Say what was cut off at the ends of the range, which can be known before any work."""
    said = []
    if largest.share:
        said.append(
            f"{_percent(largest.share)} of the pixels are saturated, at {largest.value:g}: what is "
            "brighter stays too dark."
        )
    if least.share:
        said.append(
            f"{_percent(least.share)} of the pixels have the least value, {least.value:g}: unless "
            "the detector counts single photons, what is darker was cut off and stays too bright."
        )
    return tuple(said)


def _of_cut_noise(found: ResultMetrics) -> list[Remark]:
    if not found.reckoned:
        return []
    values = " and ".join(f"{limit:g}" for limit in found.reckoned)
    brighter = found.corrected > 0
    change = f"{abs(found.corrected):.1%} {'brighter' if brighter else 'darker'}"
    if abs(found.corrected) < LEAST_CHANGE:
        change = f"less than {LEAST_CHANGE:.1%} brighter or darker"
    return [
        Remark(
            f"What was cut off of the noise, at {values}, was reckoned back: on average that makes "
            f"the result {change}."
        )
    ]


def _of_finer(found: ResultMetrics) -> list[Remark]:
    if not found.finer:
        return []
    return [
        Remark("Detail finer than the measured pixels is the network's guess; nothing confirms it.")
    ]


def _share(found: ConfirmedDetail) -> str:
    """Put a share into words; where it is hardly known, without a number."""
    if found.error > UNTOLD:
        return "most"
    share = min(max(found.share, 0.0), 1.0)
    return f"about {share:.0%}" if share >= NOTHING else "none"


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.0%}"


def _told_apart(above: float, below: float) -> tuple[str, str]:
    """Two figures with as many digits as it takes to see that they differ, two at least."""
    digits = next((count for count in (2, 3) if f"{above:.{count}f}" != f"{below:.{count}f}"), 4)
    return f"{above:.{digits}f}", f"{below:.{digits}f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_rounded(one) for one in value]
    return _digits(value) if isinstance(value, float) else value


def _digits(value: float) -> float:
    """Four digits; more would only be digits of one image's chance."""
    return float(f"{value:.4g}")
