"""What a microscopist should know before relying on a result: plain sentences, from numbers only.

Each bound stands here with its origin. `scripts/trust_bounds.py` measures the figures that they
were chosen by.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.artefact_detection import (
    LOCAL_PART_SIDE,
    MIN_PATTERN_LOSS,
    MIN_PATTERN_SHARE,
    compute_biased_limit,
)
from napari_dip.pipeline.assess.metrics import RESIDUAL_EDGE_SHARE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.assess.artefact_detection import ClippedPixels
    from napari_dip.pipeline.assess.metrics import ResidualMetrics, ResultMetrics
    from napari_dip.pipeline.assess.validation_evidence import ConfirmedDetail

#: Autocorrelation that the residual may have beyond the noise's, and variance along edges that it
#: may have in units of that elsewhere. Of 24 pictures less their truth the variance was 1.06 at
#: most, and the excess 0.03, but for one of 0.36 whose correlated noise was measured as white, and
#: three that did not tell their noise. Of 74 filtered ones in whose residual a tenth or more was
#: structure, the variance along edges was above its bound in 69, the correlation in 16.
MAX_RESIDUAL_CORRELATION, MAX_EDGE_VARIANCE_RATIO = 0.1, 1.3
#: Standard errors that are granted beside these bounds, which small images have.
ALLOWED_STANDARD_ERRORS = 3.0
#: Standard deviation of the residual in units of the noise. Of the truth it was 0.93 to 1.03 (1.8
#: in the one case above); a filter that hardly takes noise out left as little as 0.2.
MAX_RESIDUAL_STRENGTH, MIN_RESIDUAL_STRENGTH = 1.3, 0.4
#: Mean intensity that may be lost or gained, as a share.
MAX_BIAS = 0.005
#: Least change of the mean that is given as a figure.
MIN_REPORTED_CHANGE = 0.001
#: Least share of detail that the measurement must confirm, two standard errors of it taken off.
MIN_CONFIRMED_SHARE, CONFIRMED_STANDARD_ERRORS = 0.5, 2.0
#: Largest share that is believed: more of it is chance, as where a picture shows next to nothing.
MAX_CONFIRMED_SHARE = 2.0
#: Standard error from which on no digit of such a share stands.
MAX_REPORTED_SHARE_ERROR = 0.25
#: Shares below this round to 0 %.
MIN_REPORTED_SHARE = 0.005
#: Fine detail that is weaker than this share of the picture's contrast is not looked at by anyone.
MIN_VISIBLE_DETAIL = 0.1
#: Share of the filled pixels that may lie far from any measured one.
MAX_DISTANT_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something to know, and whether it asks for care."""

    note: Note
    is_warning: bool = False


def check_quality(metrics: ResultMetrics, early: Sequence[Note] = ()) -> dict[str, Any]:
    """Say what the numbers mean.

    Parameters
    ----------
    metrics : ResultMetrics
    early : sequence of Note
        What to warn of where a run was ended before all was done.

    Returns
    -------
    dict
        In plain JSON types: "sentences", all of them, those that ask for care first; "warnings",
        these alone; "codes", codes and facts of all of them; "figures", what they were made from,
        with "bounds".
    """
    remarks = [
        *_check_local_means(metrics),
        *(Remark(note=note, is_warning=True) for note in early),
        *_check_contrast(metrics),
        *_check_holes(metrics),
        *(
            []
            if metrics.filled and metrics.residual is None
            else [_check_residual(metrics.residual)]
        ),
        *_check_pattern(metrics),
        _check_intensity(metrics),
        *(
            Remark(note=note, is_warning=True)
            for note in cut_off_notes(metrics.least, metrics.largest)
        ),
        *_describe_clipping_correction(metrics),
        *_describe_upscaling(metrics),
    ]
    warnings = [remark.note for remark in remarks if remark.is_warning]
    calm = [remark.note for remark in remarks if not remark.is_warning]
    return {
        "sentences": list(map(str, (*warnings, *calm))),
        "warnings": list(map(str, warnings)),
        "codes": [warning.to_dict() for warning in (*warnings, *calm)],
        "figures": _round_figures(asdict(metrics)),
        "bounds": {
            "residual_excess": _round_to_four_digits(compute_correlation_limit(metrics.residual)),
            "residual_at_edges": _round_to_four_digits(
                compute_edge_variance_limit(metrics.residual)
            ),
            "residual_strength": [MIN_RESIDUAL_STRENGTH, MAX_RESIDUAL_STRENGTH],
            "bias": MAX_BIAS,
            "confirmed": MIN_CONFIRMED_SHARE,
            "far": MAX_DISTANT_SHARE,
            "pattern": [MIN_PATTERN_SHARE, MIN_PATTERN_LOSS],
        },
    }


def compute_correlation_limit(residual: ResidualMetrics | None) -> float:
    """Most that the residual's autocorrelation may lie above the noise's."""
    return (
        MAX_RESIDUAL_CORRELATION + ALLOWED_STANDARD_ERRORS / sqrt(max(residual.pixels, 1))
        if residual
        else MAX_RESIDUAL_CORRELATION
    )


def compute_edge_variance_limit(residual: ResidualMetrics | None) -> float:
    """Largest variance of the residual along edges, in units of that where the picture is flat."""
    steep = RESIDUAL_EDGE_SHARE * residual.pixels if residual else 0.0
    return (
        MAX_EDGE_VARIANCE_RATIO + ALLOWED_STANDARD_ERRORS * sqrt(2 / steep)
        if steep
        else MAX_EDGE_VARIANCE_RATIO
    )  # a variance's standard error


def is_doubtful(detail: ConfirmedDetail) -> bool:
    """Whether less than half of a kind of detail is sure to be in the measurement."""
    return _compute_share_lower_bound(detail) < MIN_CONFIRMED_SHARE


def _compute_share_lower_bound(detail: ConfirmedDetail) -> float:
    """Share of a kind of detail that is sure to be in the measurement."""
    return min(detail.share, MAX_CONFIRMED_SHARE) - CONFIRMED_STANDARD_ERRORS * detail.error


def _check_residual(residual: ResidualMetrics | None) -> Remark:
    if residual is None:
        return Remark(note=make_note("residual-unjudged"))
    if residual.is_noise_reliable and residual.excess > compute_correlation_limit(residual):
        excess_text, most = _format_distinct_figures(
            residual.excess, compute_correlation_limit(residual)
        )
        return Remark(
            note=make_note("residual-correlated", found=excess_text, most=most), is_warning=True
        )
    if residual.at_edges > compute_edge_variance_limit(residual):
        return Remark(note=make_note("residual-edges", ratio=residual.at_edges), is_warning=True)
    if not residual.is_noise_reliable:
        return Remark(note=make_note("residual-no-edges"))
    if residual.strength > MAX_RESIDUAL_STRENGTH:
        return Remark(note=make_note("residual-strong", ratio=residual.strength), is_warning=True)
    if residual.strength < MIN_RESIDUAL_STRENGTH:
        return Remark(note=make_note("residual-weak", ratio=residual.strength), is_warning=True)
    return Remark(note=make_note("residual-noise"))


def _check_local_means(metrics: ResultMetrics) -> list[Remark]:
    """Judge the brightness of parts, by no noise that was measured: what a fit was led by."""
    residual = metrics.residual
    if residual is None or residual.far <= compute_biased_limit(residual.parts):
        return []
    facts = {"share": residual.far, "side": LOCAL_PART_SIDE}
    return [Remark(note=make_note("brightness-off", **facts), is_warning=True)]


def _check_pattern(metrics: ResultMetrics) -> list[Remark]:
    pattern = metrics.pattern
    if pattern is None:
        return []
    facts = {"period": pattern.period, "share": pattern.lost}
    return [Remark(note=make_note("pattern-lost", **facts), is_warning=True)]


def _check_intensity(metrics: ResultMetrics) -> Remark:
    bias = max(metrics.bias, metrics.unexplained, key=abs)
    if abs(bias) > MAX_BIAS:
        return Remark(
            note=make_note("mean-off", share=abs(bias), brighter=bias > 0), is_warning=True
        )
    return Remark(note=make_note("mean-kept", share=MAX_BIAS))


def _check_contrast(metrics: ResultMetrics) -> list[Remark]:
    detail, contrast = metrics.detail, metrics.contrast
    if metrics.filled and metrics.residual is None:
        return []  # measured pixels came back as they were, and of holes held-out pixels know none
    if detail is None or contrast is None:
        return [Remark(note=make_note("detail-unchecked"), is_warning=True)]
    visible = detail.strength > MIN_VISIBLE_DETAIL * contrast.strength
    if is_doubtful(contrast):
        return [Remark(note=make_note("contrast-doubtful", **_confirm(contrast)), is_warning=True)]
    if visible and is_doubtful(detail):
        return [Remark(note=make_note("detail-doubtful", **_confirm(detail)), is_warning=True)]
    least = min(contrast, detail, key=lambda item: item.share) if visible else contrast
    facts = {"share": _describe_share(least), "fine": least is detail}
    return [Remark(note=make_note("detail-confirmed", **facts))]


def _confirm(detail: ConfirmedDetail) -> dict[str, object]:
    """Give what the held-out pixels answered where they did not confirm."""
    least, weak = _compute_share_lower_bound(detail), detail.error > MAX_REPORTED_SHARE_ERROR
    little = least >= MIN_REPORTED_SHARE
    return {
        "weak": weak,
        "share": _describe_share(detail),
        "bounded": not weak and detail.share >= MIN_REPORTED_SHARE,
        "little": little,
        "least": f"{least:.0%}" if little else "none",
    }


def _check_holes(metrics: ResultMetrics) -> list[Remark]:
    if not metrics.filled:
        return []
    if metrics.far > MAX_DISTANT_SHARE:
        return [Remark(note=make_note("holes-far", share=metrics.far), is_warning=True)]
    return [Remark(note=make_note("holes-filled"))]


def cut_off_notes(least: ClippedPixels, largest: ClippedPixels) -> tuple[Note, ...]:
    """Say what was cut off at the ends of the range, which can be known before any work."""
    said = []
    if largest.share:
        facts = {"share": _format_percent(largest.share), "value": largest.value}
        said.append(make_note("pixels-saturated", **facts))
    if least.share:
        facts = {"share": _format_percent(least.share), "value": least.value}
        said.append(make_note("pixels-darkest", **facts))
    return tuple(said)


def _describe_clipping_correction(metrics: ResultMetrics) -> list[Remark]:
    if not metrics.reckoned:
        return []
    values = " and ".join(f"{limit:g}" for limit in metrics.reckoned)
    change = abs(metrics.corrected)
    facts = {
        "values": values,
        "slight": change < MIN_REPORTED_CHANGE,
        "brighter": metrics.corrected > 0,
    }
    return [
        Remark(
            note=make_note("clipping-corrected", share=max(change, MIN_REPORTED_CHANGE), **facts)
        )
    ]


def _describe_upscaling(metrics: ResultMetrics) -> list[Remark]:
    if not metrics.finer:
        return []
    return [Remark(note=make_note("detail-finer"))]


def _describe_share(detail: ConfirmedDetail) -> str:
    """Put a share into words; where it is hardly known, without a number."""
    if detail.error > MAX_REPORTED_SHARE_ERROR:
        return "most"
    share = min(max(detail.share, 0.0), 1.0)
    return f"about {share:.0%}" if share >= MIN_REPORTED_SHARE else "none"


def _format_percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.0%}"


def _format_distinct_figures(above: float, below: float) -> tuple[str, str]:
    """Two figures with as many digits as it takes to see that they differ, two at least."""
    digits = next((count for count in (2, 3) if f"{above:.{count}f}" != f"{below:.{count}f}"), 4)
    return f"{above:.{digits}f}", f"{below:.{digits}f}"


def _round_figures(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_figures(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_round_figures(item) for item in value]
    return _round_to_four_digits(value) if isinstance(value, float) else value


def _round_to_four_digits(value: float) -> float:
    """Four digits; more would only be digits of one image's chance."""
    return float(f"{value:.4g}")
