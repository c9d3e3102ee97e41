"""Make the card of a result from its report: verdict, worst warnings, figures, and all details.

The docks, the command line, the batch and the HTML pages show this card, and nothing else, so that
they say the same. It can be made from the report of any earlier run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from napari_dip.errors.notes import (
    TEXT_CODE,
    drop_overruled,
    make_note,
    parse_notes,
    parse_report_notes,
)
from napari_dip.errors.templates import (
    FIGURES,
    HEADLINES,
    REASONS,
    VERDICT_REASONS,
    render,
)
from napari_dip.pipeline.assess.metrics import MIN_LOST_CAMERA_EDGE_RATIO, MIN_LOST_EDGE_RATIO
from napari_dip.pipeline.assess.quality_checks import MIN_REPORTED_CHANGE
from napari_dip.tasks.guide import PREFERRED_PRIOR, Guide
from napari_dip.tasks.priors.registry import AUTOMATIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from napari_dip.errors.notes import Note

#: Colours of the verdicts, which are legible on light and on dark ground.
VERDICT_COLOURS = {"fine": "#2e9e5b", "look-closer": "#c98500", "do-not-use": "#d9463b"}
#: Number of warnings on a card; all others are details.
MAX_CARD_WARNINGS = 2
#: Share of clipped pixels from which the verdict depends on them: below, means change by less than
#: the 0.5 % of `MAX_MEAN_CHANGE` even where clipped structures are half as bright again.
MIN_NOTABLE_CLIPPED_FRACTION = 0.01
#: Standard error of the confirmed share of detail above which no figure of it is given.
MAX_DETAIL_ERROR = 0.1
#: Space within a figure, at which no line ends: before a unit, and around ±.
NO_BREAK = "\u00a0"

#: Codes of notes that the image is too small or too noisy for a check, worst first.
_UNDECIDED = ("contrast-small", "detail-small")
#: Codes of notes that nothing tells whether the PSF is right.
_UNCONFIRMED_PSFS = ("psf-unchecked", "psf-estimated")
#: Codes of notes that something other than the detail could not be checked.
_UNCHECKED = {"residual-unchecked", "residual-no-edges", "input-kept"}
#: Names of the samples of a colour image.
_COLOURS = ("Red", "Green", "Blue")
#: Beginnings of the codes of what a run found out.
_FINDINGS = ("blur-", "guide-u", "holes-filled", "detail-finer")


class Verdict(StrEnum):
    """Whether a result can be used."""

    FINE = "fine"
    LOOK_CLOSER = "look-closer"
    DO_NOT_USE = "do-not-use"


#: Verdicts with which a figure is stated, if not with all. A failed fit has another error than its
#: estimate, and where structure is missing, the limit of spots is unknown.
_FIGURE_VERDICTS = {"noise": (Verdict.FINE, Verdict.LOOK_CLOSER), "spot": (Verdict.FINE,)}
#: Code of a note beside which a figure is left out: it states the same, or that nobody knows.
_STATED_BY = {"mean": "mean-off", "detail": "contrast-small"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFigure:
    """A figure of a card, as text.

    Attributes
    ----------
    name : str
        Key in `napari_dip.errors.templates.FIGURES`.
    before, after : str
        Value of the input, or "" if it has none, and of the result.
    """

    name: str
    before: str = ""
    after: str

    def __str__(self) -> str:
        """Return the label with the values."""
        values = f": input {self.before}, result {self.after}" if self.before else f" {self.after}"
        return f"{FIGURES[self.name]}{values}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultCard:
    """What to know about a result, in the order in which it is shown.

    Attributes
    ----------
    verdict : Verdict
    headline : str
    reason : str
        The reason of the headline; "" for a result that is fine.
    warnings : tuple of Note
        The worst, at most `MAX_CARD_WARNINGS`.
    findings : tuple of Note
        What the run found out, such as a blur.
    figures : tuple of CardFigure
    details : tuple of Note
        All other notes, warnings first.
    all_warnings : tuple of Note
        All notes that say something against the result, worst first; some are among the details.
    """

    verdict: Verdict
    headline: str
    reason: str = ""
    warnings: tuple[Note, ...] = ()
    findings: tuple[Note, ...] = ()
    figures: tuple[CardFigure, ...] = ()
    details: tuple[Note, ...] = ()
    all_warnings: tuple[Note, ...] = ()

    @property
    def figure_line(self) -> str:
        """All figures in one line; "" if there are none."""
        return " · ".join(map(str, self.figures))

    def list_lines(self, known_notes: Sequence[Note] = ()) -> list[str]:
        """Return headline, warnings other than known ones, findings and figures."""
        warnings = [f"⚠ {note}" for note in self.warnings if note not in known_notes]
        lines = [self.headline, *warnings, *map(str, self.findings), self.figure_line]
        return [line for line in lines if line]


def make_card(report: Mapping[str, Any]) -> ResultCard:
    """Make the card of a result.

    Parameters
    ----------
    report : mapping
        Report of a run, also of an earlier version.

    Examples
    --------
    >>> make_card(result.report).verdict
    """
    checks = report.get("verdict", {})
    quality_notes = parse_notes(checks.get("codes", ()), checks.get("sentences", ()))
    notes = [*quality_notes, *parse_report_notes(report)]
    recipe = report.get("recipe", {})
    if "prior" in report and recipe.get("task") == Guide.spec.name:
        is_unused = report["prior"]["key"] == PREFERRED_PRIOR.unguided_key
        is_chosen = recipe.get("settings", {}).get("prior", AUTOMATIC) != AUTOMATIC
        notes.append(make_note("guide-unused" if is_unused else "guide-used", chosen=is_chosen))
    if "S" in report.get("axes", ""):
        notes = [_name_colour(note) for note in notes]
    figures = tuple(_list_figures(report, checks.get("figures", {})))
    card = _rank_notes(dict.fromkeys(notes), figures)
    if "kind" in checks and any(note.code == TEXT_CODE for note in quality_notes):
        # sentences of another version have no rank; its own verdict holds
        return replace(card, verdict=Verdict(checks["kind"]), headline=checks["headline"])
    return card


def _name_colour(note: Note) -> Note:
    """Return a note that names the colour of its channel, if it is about one."""
    number = note.facts.get("channel_number")
    if not isinstance(number, int) or not 0 < number <= len(_COLOURS):
        return note
    return replace(note, facts={**note.facts, "channel_name": _COLOURS[number - 1]})


def _rank_notes(notes: Iterable[Note], figures: tuple[CardFigure, ...]) -> ResultCard:
    """Return the card of notes, without those that worse ones overrule."""
    notes = drop_overruled(notes)
    ranked = sorted((note for note in notes if _find_reason(note)), key=_get_rank)
    unranked = (note for note in notes if note.is_warning and note.code not in VERDICT_REASONS)
    warnings = dict.fromkeys((*ranked, *unranked))
    one_per_code = {note.code: note for note in reversed(list(warnings))}  # of channels, the first
    displayed = [note for note in warnings if one_per_code[note.code] is note][:MAX_CARD_WARNINGS]
    findings = tuple(note for note in notes if note.code.startswith(_FINDINGS))
    others = [note for note in notes if note not in (*displayed, *findings)]
    verdict, headline, reason = _judge(ranked, notes)
    stated_codes = {note.code for note in (*displayed, *others)}
    return ResultCard(
        verdict=verdict,
        headline=headline,
        reason=reason,
        warnings=tuple(displayed),
        findings=findings,
        figures=tuple(
            figure
            for figure in figures
            if verdict in _FIGURE_VERDICTS.get(figure.name, tuple(Verdict))
            and _STATED_BY.get(figure.name) not in stated_codes
        ),
        all_warnings=tuple(warnings),
        details=tuple(sorted(others, key=lambda note: note not in warnings)),
    )


def _judge(ranked: list[Note], notes: list[Note]) -> tuple[Verdict, str, str]:
    """Return the verdict, its headline, and the reason in that."""
    if not ranked:
        codes = {note.code for note in notes}
        key = "unchecked" if not notes or codes & _UNCHECKED else "fine"
        key = next((code for code in _UNCONFIRMED_PSFS if code in codes), key)
        undecided = next((note for note in notes if note.code in _UNDECIDED), None)
        if undecided is not None:
            facts = {"channel_number": undecided.facts.get("channel_number")}
            return Verdict.FINE, render(HEADLINES[undecided.code], facts), ""
        return Verdict.FINE, HEADLINES[key], ""
    verdict = Verdict.DO_NOT_USE if any(map(_is_failure, ranked)) else Verdict.LOOK_CLOSER
    reason = render(REASONS[_find_reason(ranked[0])], ranked[0].facts)
    if name := ranked[0].channel_name:
        reason = f"in {name.lower()}, {reason}"
    return verdict, render(HEADLINES[verdict], {"reason": reason}), reason


def _is_failure(note: Note) -> bool:
    """Return whether a note says that the result has failed."""
    if note.code in {"residual-edges", "residual-unexplained"}:
        is_camera = note.facts.get("camera")
        limit = MIN_LOST_CAMERA_EDGE_RATIO if is_camera else MIN_LOST_EDGE_RATIO
        return float(str(note.facts["ratio"])) >= limit
    is_certain = not note.facts.get("unsure")
    return note.code == "brightness-off" or (note.code == "contrast-doubtful" and is_certain)


def _find_reason(note: Note) -> str:
    """Return the key in `REASONS` of what a note says against the result; "" for nothing."""
    if note.code.startswith("noise-unreliable-"):
        # noise weaker than a grey level is not seen
        return "" if note.code.endswith("coarse-grey-values") else "noise-unreliable"
    if note.code.startswith("psf-"):
        reason = "psf-size" if note.code == "psf-pixel-size" else "psf"
        return reason if note.is_warning else ""
    clipped_fraction = note.facts.get("fraction", 1.0)
    is_slight = (
        isinstance(clipped_fraction, float) and clipped_fraction < MIN_NOTABLE_CLIPPED_FRACTION
    )
    is_slight |= note.facts.get("guessed") is False
    return "" if is_slight else VERDICT_REASONS.get(note.code, "")


def _get_rank(note: Note) -> int:
    """Return the place of a note among all that say something against a result, worst first."""
    code = note.code if note.code in VERDICT_REASONS else "residual-strong"
    return list(VERDICT_REASONS).index(code)


def _list_figures(report: Mapping[str, Any], checks: Mapping[str, Any]) -> Iterator[CardFigure]:
    """Return the figures of a report that are known."""
    # behind a PSF, the spread of a fit is far smaller than its error
    if (deviation := report.get("deviation")) and checks.get("agreement") is None:
        before, after = (f"{deviation[key]:.3g}" for key in ("noise", "result"))
        unit = "grey values" if deviation["result"] < deviation["noise"] else "grey values: no less"
        yield CardFigure(name="noise", before=before, after=_join_figure(after, "", unit))
    if halves := report.get("halves"):
        sizes = (halves["resolution"][key] for key in ("input", "result"))
        before, after = (f"{size:.3g}" if size else "?" for size in sizes)
        after = _join_figure(after, "", halves["unit"])
        yield CardFigure(name="resolution", before=before, after=after)
        if halves.get("repeated") is not None:
            yield CardFigure(name="repeated", after=f"{halves['repeated']:.0%}")
    detail = checks.get("detail")
    if detail and 0 <= detail["slope_error"] <= MAX_DETAIL_ERROR:
        fraction = min(max(detail["regression_slope"], 0.0), 1.0)
        error = str(max(1, round(200 * detail["slope_error"])))  # no figure is exact
        yield CardFigure(name="detail", after=_join_figure(f"{100 * fraction:.0f}", error, "%"))
    if limits := report.get("fit", {}).get("min_spot_snr"):
        text = "{:.2g} times the noise (2 pixels wide: {:.2g})".format(limits["1"], limits["2"])
        if line_limits := report["fit"].get("min_line_snr"):
            text += f" and lines below {line_limits['1']:.2g} times"
        yield CardFigure(name="spot", after=f"{text} may be removed")
    if traces := checks.get("traces"):
        yield CardFigure(name="traces", after=format_traces(traces))
    if checks.get("agreement") is not None:
        yield CardFigure(name="agreement", after=f"{checks['agreement']:.3f} (1: fully explained)")
    if abs(checks.get("bias") or 0.0) > MIN_REPORTED_CHANGE:
        yield CardFigure(name="mean", after=f"{checks['bias']:+.1%}".replace("-", "−"))


def format_traces(traces: Mapping[str, float]) -> str:
    """Format slope and delay of traces, with two standard errors each."""
    slope, delay = (
        (scale * traces[name], 2 * scale * traces[f"{name}_uncertainty"])
        for name, scale in (("slope", 100), ("delay", 1))
    )
    share = _join_figure(f"{slope[0]:.0f}", f"{slope[1]:.0f}", "%")
    return f"{share}, delay {_join_figure(f'{delay[0]:z.2f}', f'{delay[1]:.2f}', 'frames')}"


def _join_figure(value: str, error: str, unit: str) -> str:
    """Join a value, its error if it has one, and its unit by spaces at which no line ends."""
    return NO_BREAK.join((value, *(("±", error) if error else ()), unit))
