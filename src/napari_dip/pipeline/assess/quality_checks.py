"""Check the quality of a result against bounds, and describe it in plain sentences for the user.

The figures behind the bounds come from `scripts/quality_check_bounds.py`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

from napari_dip.errors.notes import drop_overruled, make_note
from napari_dip.pipeline.assess.artefact_detection import (
    LOCAL_AREA_SIDE,
    MIN_PATTERN_FRACTION,
    MIN_PATTERN_LOSS,
    compute_biased_limit,
)
from napari_dip.pipeline.assess.metrics import RESIDUAL_EDGE_FRACTION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.assess.artefact_detection import ClippedPixels
    from napari_dip.pipeline.assess.metrics import ResidualMetrics, ResultMetrics
    from napari_dip.pipeline.assess.validation_evidence import ConfirmedDetail
    from napari_dip.public_types import TraceComparison

#: Maximum correlation of the residual beyond that of the noise: at most 0.03 in noise
#: (docs/constants.md).
MAX_RESIDUAL_CORRELATION = 0.1
#: Maximum ratio of the residual's variance along edges to that elsewhere: at most 1.06 in noise.
MAX_EDGE_VARIANCE_RATIO = 1.3
#: As `MAX_RESIDUAL_CORRELATION`, for noise of a colour camera: the mean of many exposures has up to
#: 0.21 as a result in nine crops of cc15.
MAX_CAMERA_CORRELATION = 0.25
#: As `MAX_EDGE_VARIANCE_RATIO`, for noise of a colour camera: the mean of many exposures has up to
#: 1.66 as a result in eight of nine crops of cc15, and 2.9 in the ninth.
MAX_CAMERA_EDGE_RATIO = 1.7
#: Standard errors by which the bounds of the residual are raised, which matters for small images.
ALLOWED_STANDARD_ERRORS = 3.0
#: Largest standard deviation of the residual, in units of the noise. For the ground truth, it was
#: 0.93 to 1.03, and 1.8 once where correlated noise was measured as white.
MAX_RESIDUAL_STRENGTH = 1.3
#: Least standard deviation of the residual, in units of the noise; after a filter that removes
#: little noise, it was down to 0.2.
MIN_RESIDUAL_STRENGTH = 0.4
#: Least standard deviation of the residual of a finer result, in units of the noise: 0.02 to 0.45
#: where six tenths or more of the noise stayed in it (docs/constants.md).
MIN_UPSCALED_STRENGTH = 0.7
#: Largest excess correlation of a residual with edges that noise left in a finer result explains:
#: no more in 32 of 35 results with noise, 0.35 or more in five of six without (docs/constants.md).
MAX_NOISE_LEFT_CORRELATION = 0.3
#: RMS residual, relative to the intensity range, up to which an image with unreliable noise counts
#: as unchanged: at most 0.006 in four photographs without noise (docs/constants.md).
MAX_UNCHANGED_RESIDUAL = 0.0075
#: RMS residual behind an operator, relative to the intensity range, from which correlation is a
#: fault whatever the noise: with unreliable noise at most 0.007 in 14 good results whose residuals
#: are correlated, 0.075 or more in five bad ones.
MAX_UNMEASURED_RESIDUAL = 0.03
#: Reliable noise, relative to the intensity range, up to which a weak residual is no warning.
MAX_NEGLIGIBLE_NOISE = 0.015
#: Maximum change of the mean intensity, as a fraction of the mean above the dark level.
MAX_MEAN_CHANGE = 0.005
#: Least change of the mean by the clipping correction, as a fraction, that a note gives as a
#: figure.
MIN_REPORTED_CHANGE = 0.001
#: Least change of the mean by the clipping correction that is a warning. Of 23 made images with
#: known noise, those below kept the true mean within 4 %, those above within 14 %. It was 27 %
#: where photon noise of a real image was measured as equal everywhere (docs/constants.md).
MIN_DOUBTFUL_CLIPPING_CHANGE = 0.1
#: Maximum share of pixels inside saturated areas without a warning: as for other clipped pixels.
MAX_SATURATED_FRACTION = 0.01
#: Minimum share of detail that the measurement confirms.
MIN_CONFIRMED_FRACTION = 0.5
#: Standard errors that are subtracted from the measured share of confirmed detail first.
CONFIRMED_STANDARD_ERRORS = 2.0
#: Upper limit of the confirmed share; larger values occur by chance in images with little detail.
MAX_CONFIRMED_FRACTION = 2.0
#: Standard error of the confirmed share above which an image is too small to tell how much is real.
#: With smaller errors, the shares 0.5 and 1 are four standard errors apart. Three exposures of
#: fields of 64 and 96 pixels had shares of -0.1 to 1.4, with errors of 0.13 to 0.6.
MAX_DECIDING_ERROR = 0.125
#: A confirmed share that lies this many standard errors below 1 is a contradiction, even if the
#: image is too small to tell how much is real.
CONTRADICTING_STANDARD_ERRORS = 3.0
#: Least contrast in units of the noise: at most 0.08 in results of noise alone, 0.09 or more in the
#: darkest FMD fields of 64 pixels (docs/constants.md).
MIN_SIGNAL_TO_NOISE = 0.1
#: Share of confirmed detail below which it would be rounded to 0 %.
MIN_REPORTED_FRACTION = 0.005
#: Fine detail below this share of the image's contrast is not visible, and not checked.
MIN_VISIBLE_DETAIL = 0.1
#: Root mean square of a residual, as a share of the image's range, below which its means and edges
#: do not matter: half a grey level of 8 bits. A noise-free image super-resolved by 2 has 0.0007.
MIN_VISIBLE_RESIDUAL = 0.002
#: Maximum share of the filled pixels that are far from any measured pixel: none in scratches, 0.03
#: in discs 40 pixels wide, in whose middle the fill was worse than one value (docs/constants.md).
MAX_DISTANT_FRACTION = 0.01
#: Least change of the slope of traces that is reported (docs/movies-and-series.md).
MAX_SLOPE_CHANGE = 0.1
#: Least delay of traces in frames that is reported.
MAX_TRACE_DELAY = 0.1
#: Standard errors that both slope and delay of traces must exceed. Results that keep traces stay
#: below.
TRACE_STANDARD_ERRORS = 3.0
#: Codes of what is said first of a channel's contrast and detail, worst first.
_DOUBTS = (
    "contrast-doubtful",
    "detail-doubtful",
    "detail-unchecked",
    "contrast-small",
    "detail-small",
    "detail-confirmed",
)
#: Standard error of a slope above which traces do not tell: two such errors hide a loss of 0.1.
MAX_TRACE_SLOPE_ERROR = 0.05


def assess_quality(metrics: ResultMetrics, early_end_notes: Sequence[Note] = ()) -> dict[str, Any]:
    """Compare metrics with their bounds, and return sentences for the user.

    Parameters
    ----------
    metrics : ResultMetrics
    early_end_notes : sequence of Note
        Warnings about a run that was ended early.

    Returns
    -------
    dict
        In plain JSON types. "sentences" holds all sentences, with warnings first; "warnings" holds
        the warnings only. "codes" holds codes and facts of all notes. "figures" holds the metrics,
        and "bounds" their limits.
    """
    metrics, contrast_notes = _assess_least_confirmed_channel(metrics)
    notes = [
        *_assess_local_means(metrics),
        *early_end_notes,
        *contrast_notes,
        *_assess_holes(metrics),
        *_assess_residual(metrics),
        *_assess_pattern(metrics),
        *_assess_intensity(metrics),
        *(list_trace_notes(metrics.traces) if metrics.has_traces else ()),
        *list_clipping_notes(metrics.lower_clipping, metrics.upper_clipping),
        *_make_clipping_notes(metrics),
        *([make_note("detail-finer")] if metrics.is_upscaled else ()),
    ]
    notes = sorted(drop_overruled(notes), key=lambda note: not note.is_warning)
    return {
        "sentences": list(map(str, notes)),
        "warnings": [str(note) for note in notes if note.is_warning],
        "codes": [note.to_dict() for note in notes],
        "figures": _round_figures(asdict(metrics)),
        "bounds": {
            "excess": _round_to_four_digits(compute_correlation_limit(metrics.residual)),
            "edge_variance_ratio": _round_to_four_digits(
                compute_edge_variance_limit(metrics.residual)
            ),
            "noise_ratio": [MIN_RESIDUAL_STRENGTH, MAX_RESIDUAL_STRENGTH],
            "bias": MAX_MEAN_CHANGE,
            "regression_slope": MIN_CONFIRMED_FRACTION,
            "distant_fraction": MAX_DISTANT_FRACTION,
            "pattern": [MIN_PATTERN_FRACTION, MIN_PATTERN_LOSS],
        },
    }


def compute_correlation_limit(residual: ResidualMetrics | None) -> float:
    """Return the maximum excess of the residual's autocorrelation over that of the noise."""
    error = 1 / sqrt(max(residual.pixel_count, 1)) if residual else 0.0
    is_camera_noise = residual is not None and residual.is_camera_noise
    limit = MAX_CAMERA_CORRELATION if is_camera_noise else MAX_RESIDUAL_CORRELATION
    return limit + ALLOWED_STANDARD_ERRORS * error


def compute_edge_variance_limit(residual: ResidualMetrics | None) -> float:
    """Return the maximum ratio of the residual's variance along edges to that in flat areas."""
    edge_pixels = RESIDUAL_EDGE_FRACTION * residual.pixel_count if residual else 0.0
    variance_error = sqrt(2 / edge_pixels) if edge_pixels else 0.0
    is_camera_noise = residual is not None and residual.is_camera_noise
    limit = MAX_CAMERA_EDGE_RATIO if is_camera_noise else MAX_EDGE_VARIANCE_RATIO
    return limit + ALLOWED_STANDARD_ERRORS * variance_error


def is_doubtful(detail: ConfirmedDetail) -> bool:
    """Return whether the measurement confirms too little of a kind of detail."""
    return _compute_fraction_lower_bound(detail) < MIN_CONFIRMED_FRACTION


def _compute_fraction_lower_bound(detail: ConfirmedDetail) -> float:
    """Return the lower confidence bound of the share of detail that the measurement confirms."""
    return (
        min(detail.regression_slope, MAX_CONFIRMED_FRACTION)
        - CONFIRMED_STANDARD_ERRORS * detail.slope_error
    )


def _assess_residual(metrics: ResultMetrics) -> Iterator[Note]:
    residual = metrics.residual
    if residual is None:
        if not metrics.filled_fraction:
            yield make_note("residual-unchecked")
    elif _has_noise_left(metrics, residual):
        # so little was taken out that its structure says nothing
        if not residual.is_noise_reliable:
            yield make_note("residual-weak", ratio=residual.noise_ratio, upscaled=True)
        elif _has_notable_noise(residual):
            yield make_note("noise-left", share=1 - residual.noise_ratio)
    else:
        yield _assess_residual_structure(metrics, residual)


def _assess_residual_structure(metrics: ResultMetrics, residual: ResidualMetrics) -> Note:
    """Return the worst that structure and strength of a residual tell."""
    has_operator = metrics.agreement is not None
    is_visible = residual.relative_rms >= MIN_VISIBLE_RESIDUAL
    is_correlated = residual.excess > compute_correlation_limit(residual)
    # what explains an image to half a grey level explains it, however its residual looks
    is_fault = residual.is_noise_reliable and (is_visible or not has_operator)
    is_fault |= has_operator and residual.relative_rms > MAX_UNMEASURED_RESIDUAL
    if is_correlated and is_fault:
        if has_operator:
            return make_note("residual-unexplained", ratio=1.0, upscaled=metrics.is_upscaled)
        excess_text, limit_text = _format_distinct_figures(
            residual.excess, compute_correlation_limit(residual)
        )
        return make_note("residual-correlated", excess=excess_text, most=limit_text)
    if (
        residual.relative_rms <= MAX_UNCHANGED_RESIDUAL
        and not residual.is_noise_reliable
        and not has_operator  # behind an operator, a small residual is the aim
    ):
        return make_note("input-kept", share=residual.relative_rms, guessed=True)
    loses_edges = residual.edge_variance_ratio > compute_edge_variance_limit(residual)
    if loses_edges and is_visible:
        code = "residual-unexplained" if has_operator else "residual-edges"
        flags = {"upscaled": metrics.is_upscaled, "camera": residual.is_camera_noise}
        return make_note(code, ratio=residual.edge_variance_ratio, **flags)
    if not residual.is_noise_reliable:
        return make_note("residual-no-edges")
    if residual.noise_ratio > MAX_RESIDUAL_STRENGTH:
        return make_note("residual-strong", ratio=residual.noise_ratio)
    if residual.noise_ratio >= MIN_RESIDUAL_STRENGTH:
        return make_note("residual-noise")
    if residual.relative_rms <= MAX_NEGLIGIBLE_NOISE * residual.noise_ratio:
        return make_note("input-kept", share=residual.relative_rms, guessed=False)
    facts = {"ratio": residual.noise_ratio, "upscaled": metrics.is_upscaled}
    return make_note("residual-weak", **facts)


def _has_noise_left(metrics: ResultMetrics, residual: ResidualMetrics) -> bool:
    """Return whether an upscaled result holds noise: its residual is too weak to be all of it.

    In an image with noise, spots of noise count among its edges, and the residual is stronger
    there. Structure that was taken for noise also makes neighbouring pixels of it alike.
    """
    if not metrics.is_upscaled or residual.noise_ratio >= MIN_UPSCALED_STRENGTH:
        return False
    if residual.edge_variance_ratio <= compute_edge_variance_limit(residual):
        return residual.is_noise_reliable
    return residual.excess <= MAX_NOISE_LEFT_CORRELATION and _has_notable_noise(residual)


def _has_notable_noise(residual: ResidualMetrics) -> bool:
    """Return whether the measured noise is strong enough to be seen."""
    return residual.relative_rms > MAX_NEGLIGIBLE_NOISE * residual.noise_ratio


def _assess_local_means(metrics: ResultMetrics) -> Iterator[Note]:
    """Check the brightness of small areas, independent of the measured noise."""
    residual = metrics.residual
    if residual is None or residual.relative_rms < MIN_VISIBLE_RESIDUAL:
        return
    if residual.biased_fraction > compute_biased_limit(residual.area_count):
        share, darker = round(residual.biased_fraction, 2), round(residual.darker_fraction, 2)
        yield make_note(
            "brightness-off",
            share=share,
            side=LOCAL_AREA_SIDE,
            darker_share=darker,
            brighter_share=share - darker,  # rounded, so that the two add up
            instant=metrics.is_instant,
            entered=metrics.has_entered_noise,
            cause=_name_operator(metrics),
        )


def _name_operator(metrics: ResultMetrics) -> str:
    """Return what a wrong brightness behind an operator most likely comes from; "": none."""
    if metrics.agreement is None:
        return ""
    return "factor, downsampling and PSF" if metrics.is_upscaled else "the PSF"


def _assess_pattern(metrics: ResultMetrics) -> Iterator[Note]:
    if (pattern := metrics.pattern) is not None:
        yield make_note("pattern-lost", period=pattern.period, share=pattern.removed_fraction)


def _assess_intensity(metrics: ResultMetrics) -> Iterator[Note]:
    if metrics.bias is None:
        return
    # the change of the result, or that before clipping if it is greater; a note of its own tells
    # that of a strong clipping correction
    unexplained = 0.0 if _is_strongly_corrected(metrics) else metrics.unexplained_bias
    bias = max(metrics.bias, unexplained, key=abs)
    if metrics.agreement is not None:
        yield make_note("measurement-explained")
    if abs(metrics.border_change) > MAX_MEAN_CHANGE:  # light came in from outside the image
        change = metrics.border_change
        yield make_note("border-crossed", share=abs(change), brighter=change > 0)
    elif abs(bias) > MAX_MEAN_CHANGE:
        yield make_note("mean-off", share=abs(bias), brighter=bias > 0, plane="")
    elif (plane := metrics.plane) is not None and plane.excess > MAX_MEAN_CHANGE:
        facts = {"share": abs(plane.change), "brighter": plane.change > 0, "plane": plane.name}
        number = plane.channel_number
        yield make_note(
            "mean-off", **facts, **({} if number is None else {"channel_number": number})
        )
    else:
        is_corrected = abs(metrics.clipping_correction) > MAX_MEAN_CHANGE
        facts = {"share": MAX_MEAN_CHANGE, "corrected": is_corrected, "planes": 0.0, "noun": ""}
        if plane is not None:  # the figure is rounded up
            facts |= {"planes": max(MAX_MEAN_CHANGE, ceil(1000 * plane.largest) / 1000)}
            facts["noun"] = plane.noun
        yield make_note("mean-kept", **facts)


def list_trace_notes(traces: TraceComparison | None) -> tuple[Note, ...]:
    """Return notes on slope and delay of the traces of a movie; None: they do not tell."""
    if traces is None:
        return (make_note("traces-untold"),)
    notes = []
    if abs(traces.slope - 1) > max(
        MAX_SLOPE_CHANGE, TRACE_STANDARD_ERRORS * traces.slope_uncertainty
    ):
        notes.append(
            make_note("traces-scaled", share=traces.slope, error=2 * traces.slope_uncertainty)
        )
    if abs(traces.delay) > max(MAX_TRACE_DELAY, TRACE_STANDARD_ERRORS * traces.delay_uncertainty):
        facts = {"late": traces.delay > 0, "error": 2 * traces.delay_uncertainty}
        notes.append(make_note("traces-late", delay=abs(traces.delay), **facts))
    if not notes:
        is_significant = traces.slope_uncertainty <= MAX_TRACE_SLOPE_ERROR
        notes.append(make_note("traces-kept" if is_significant else "traces-untold"))
    return tuple(notes)


def _assess_least_confirmed_channel(
    metrics: ResultMetrics,
) -> tuple[ResultMetrics, tuple[Note, ...]]:
    """Return notes on the contrast of the least confirmed channel, and the metrics with its own."""
    assessed = []
    for channel in metrics.channels:
        single = replace(metrics, detail=channel.detail, contrast=channel.contrast)
        number = {"channel_number": channel.channel_number}
        notes = (replace(n, facts={**n.facts, **number}) for n in _assess_contrast(single))
        assessed.append((single, tuple(notes)))
    if not any(notes for _, notes in assessed):
        return metrics, tuple(_assess_contrast(metrics))

    def rank(item: tuple[ResultMetrics, tuple[Note, ...]]) -> tuple[int, bool, float]:
        contrast, note = item[0].contrast, item[1][0]
        assert contrast is not None
        is_unsure = bool(note.facts.get("unsure"))
        return _DOUBTS.index(note.code), is_unsure, _compute_fraction_lower_bound(contrast)

    return min(assessed, key=rank)


def _assess_contrast(metrics: ResultMetrics) -> Iterator[Note]:
    detail, contrast = metrics.detail, metrics.contrast
    if metrics.filled_fraction and metrics.residual is None:
        return  # measured pixels are unchanged, and holes contain no validation pixels
    if detail is None or contrast is None:
        yield make_note("detail-unchecked")
        return
    is_visible = detail.detail_std > MIN_VISIBLE_DETAIL * contrast.detail_std
    is_decided = detail.slope_error <= MAX_DECIDING_ERROR
    if _is_contrast_doubtful(contrast):
        yield _make_doubt(metrics, "contrast-doubtful", contrast)
        return
    if contrast.slope_error > MAX_DECIDING_ERROR:
        yield make_note("contrast-small")
        return
    if is_visible and is_decided and is_doubtful(detail):
        yield _make_doubt(metrics, "detail-doubtful", detail)
        return
    if is_visible and not is_decided:
        yield make_note("detail-small")
    # nothing confirms detail that is finer than the measured pixels
    has_fine_detail = is_visible and is_decided and not metrics.is_upscaled
    kinds = [contrast, *([detail] if has_fine_detail else [])]
    least_confirmed = min(kinds, key=lambda kind: kind.regression_slope)
    fraction_text = _describe_fraction(least_confirmed)
    yield make_note("detail-confirmed", share=fraction_text, fine=least_confirmed is detail)


def _make_doubt(metrics: ResultMetrics, code: str, detail: ConfirmedDetail) -> Note:
    """Return that detail is doubtful; unchecked, if a refit on these pixels may have mended it."""
    if metrics.is_refitted:
        return make_note("detail-unchecked")
    lower_bound = _compute_fraction_lower_bound(detail)
    upper_bound = detail.regression_slope + CONFIRMED_STANDARD_ERRORS * detail.slope_error
    is_uncertain = detail.slope_error > MAX_DECIDING_ERROR
    has_bound = lower_bound >= MIN_REPORTED_FRACTION
    return make_note(
        code,
        weak=is_uncertain,
        unsure=is_uncertain or upper_bound >= MIN_CONFIRMED_FRACTION,
        share=_describe_fraction(detail),
        bounded=not is_uncertain and detail.regression_slope >= MIN_REPORTED_FRACTION,
        little=has_bound,
        least=f"{lower_bound:.0%}" if has_bound else "none",
    )


def _is_contrast_doubtful(contrast: ConfirmedDetail) -> bool:
    """Return whether too little of the contrast is confirmed, or there is none but of noise."""
    if contrast.slope_error <= MAX_DECIDING_ERROR:
        return is_doubtful(contrast)
    missing = 1 - contrast.regression_slope
    return (
        contrast.signal_to_noise < MIN_SIGNAL_TO_NOISE
        or missing > CONTRADICTING_STANDARD_ERRORS * contrast.slope_error
    )


def _assess_holes(metrics: ResultMetrics) -> Iterator[Note]:
    if metrics.distant_fraction > MAX_DISTANT_FRACTION:
        yield make_note("holes-far", share=metrics.distant_fraction)
    if (fill := metrics.smooth_fill) is not None:
        facts = {"width": fill.width, "share": fill.detail_ratio, "widest": fill.widest}
        yield make_note("holes-smooth", **facts)
    elif metrics.filled_fraction and metrics.distant_fraction <= MAX_DISTANT_FRACTION:
        yield make_note("holes-filled")


def list_clipping_notes(lower_limit: ClippedPixels, upper_limit: ClippedPixels) -> tuple[Note, ...]:
    """Return notes on clipped pixels at both ends of the range, also used before a run."""
    return tuple(
        make_note(
            code,
            share=f"{limit.fraction:.2%}" if limit.fraction < 0.01 else f"{limit.fraction:.0%}",
            value=limit.value,
            fraction=_round_to_four_digits(limit.fraction),
            **({} if limit.channel_number is None else {"channel_number": limit.channel_number}),
        )
        for code, limit in (("pixels-saturated", upper_limit), ("pixels-darkest", lower_limit))
        if limit.fraction
    )


def _is_strongly_corrected(metrics: ResultMetrics) -> bool:
    """Return whether the clipping correction changes the mean by more than noise surely tells."""
    change = abs(metrics.clipping_correction)
    return bool(metrics.corrected_limits) and change >= MIN_DOUBTFUL_CLIPPING_CHANGE


def _make_clipping_notes(metrics: ResultMetrics) -> Iterator[Note]:
    change = abs(metrics.clipping_correction)
    if metrics.corrected_limits:
        yield make_note(
            "clipping-strong" if _is_strongly_corrected(metrics) else "clipping-corrected",
            values=" and ".join(f"{limit:g}" for limit in metrics.corrected_limits),
            slight=change < MIN_REPORTED_CHANGE,
            brighter=metrics.clipping_correction > 0,
            share=max(change, MIN_REPORTED_CHANGE),
            entered=metrics.has_entered_noise,
        )
    is_corrected = metrics.upper_clipping.value in metrics.corrected_limits
    if is_corrected and metrics.saturated_fraction > MAX_SATURATED_FRACTION:
        value = metrics.upper_clipping.value
        yield make_note("saturated-areas", share=metrics.saturated_fraction, value=value)


def _describe_fraction(detail: ConfirmedDetail) -> str:
    """Return a share as text."""
    fraction = min(max(detail.regression_slope, 0.0), 1.0)
    return f"about {fraction:.0%}" if fraction >= MIN_REPORTED_FRACTION else "none"


def _format_distinct_figures(first: float, second: float) -> tuple[str, str]:
    """Format two figures with as many decimals as they need to differ, at least two."""
    digits = next((count for count in (2, 3) if f"{first:.{count}f}" != f"{second:.{count}f}"), 4)
    return f"{first:.{digits}f}", f"{second:.{digits}f}"


def _round_figures(value: Any) -> Any:
    """Round all figures."""
    if isinstance(value, dict):
        return {key: _round_figures(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_round_figures(item) for item in value]
    return _round_to_four_digits(value) if isinstance(value, float) else value


def _round_to_four_digits(value: float) -> float:
    """Round to four digits; further ones have no statistical meaning."""
    return float(f"{value:.4g}")
