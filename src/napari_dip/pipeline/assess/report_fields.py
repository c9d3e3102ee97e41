"""Find reports, batch manifests and file records that are read back, and check their fields."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from napari_dip.errors import RefusedError
from napari_dip.errors.notes import StopReason
from napari_dip.errors.templates import make_printable
from napari_dip.io.paths import (
    MAX_REPORT_BYTES,
    describe_exception,
    is_zarr,
    parse_strict_json,
    read_small_text,
    stat_readable_file,
)
from napari_dip.pipeline.recipe import (
    OLD_INPUTS,
    OLD_NAMES,
    OLD_SWITCHES,
    RECIPE_SCHEMA,
    recipe_from_dict,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

#: New names of fields by kind of record and section, such as "report.fit", and of priors.
OLD_FIELDS: Mapping[str, Mapping[str, str]] = OLD_NAMES["fields"]
_OLD_PRIORS: Mapping[str, str] = OLD_NAMES["priors"]

TextField = Annotated[str, Field(max_length=10_000)]
#: File name, which need not be valid Unicode; pydantic's `str` rejects such names.
NameField = InstanceOf[str]
#: Text that is also written into scripts, where a line break would start another command.
TokenField = Annotated[str, Field(pattern=r"^[\w.+:-]{1,100}$")]
DigestField = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
CountField = Annotated[int, Field(ge=0, le=2**53)]
NumberField = Annotated[float, Field(allow_inf_nan=False)]
SizesField = Annotated[
    list[Annotated[int, Field(ge=1, le=2**53)]], Field(min_length=1, max_length=8)
]
AxesField = Annotated[str, Field(pattern="^[TCZYXS]{1,6}$")]

#: Schema of batch manifests and records; increased when older files would be misread.
RECORD_SCHEMA = 1


class StrictModel(BaseModel):
    """Check the types of fields without conversion; allow additional fields."""

    # validators are built on first use: building them takes 0.08 s at each start of a command
    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True, defer_build=True)


def read_record(path: Path, noun: str, kind: type[StrictModel]) -> dict[str, Any]:
    """Read a JSON file, and check its fields as `translate_record` does.

    Raises
    ------
    RefusedError
        If the file cannot be read.
    ValueError
        If it is no such record. The message is a phrase.
    """
    text = read_small_text(path, f"a {noun}", MAX_REPORT_BYTES)
    return translate_record(parse_strict_json(text), noun, kind)


def translate_record(raw: object, noun: str, kind: type[StrictModel]) -> dict[str, Any]:
    """Return a record with the names of earlier versions translated; check its fields.

    Parameters
    ----------
    raw : object
        Parsed JSON.
    noun : str
        What the record should be, such as "report of a run".
    kind : type
        Model that it is checked against.

    Raises
    ------
    ValueError
        If a field is wrong. The message is a phrase.
    """
    record = migrate_record(raw) if isinstance(raw, dict) else raw
    try:
        kind.model_validate(record)
    except ValidationError as error:
        raise ValueError(f"it is no {noun}, since {_describe_field_error(error)}") from None
    assert isinstance(record, dict)  # otherwise its fields are missing
    return record


def migrate_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a record of an earlier version to the present names, and its recipe.

    Parameters
    ----------
    record : mapping
        A report, the record of a file, the list of a batch, or the metadata of a result.

    Returns
    -------
    dict
        A copy. A damaged recipe is not translated; its reader refuses it.
    """
    migrated = _rename(record, OLD_SWITCHES)
    for section in ("inputs", "inputs_sha256"):
        if isinstance(migrated.get(section), dict):
            migrated[section] = _rename(migrated[section], OLD_INPUTS)
    if isinstance(report := migrated.get("report"), dict):
        migrated["report"] = migrate_record(report)
    raw = migrated.get("recipe")
    if isinstance(raw, dict) and raw.get("schema") != RECIPE_SCHEMA:
        with suppress(RefusedError):
            migrated["recipe"] = recipe_from_dict(raw).to_dict()
    if "stop_code" in migrated:  # then the reason was the sentence
        migrated["stop_sentence"] = migrated.get("stop_reason")
        migrated["stop_reason"] = migrated.pop("stop_code")
    return _migrate_report(migrated) if "prior" in migrated else migrated


def _migrate_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the fields of a report, and the names of priors and inputs in its values."""
    migrated = rename_fields("report", report)
    prior, fit = migrated.get("prior"), migrated.get("fit")
    if isinstance(prior, dict) and isinstance(key := prior.get("key"), str):
        migrated["prior"] = {**prior, "key": _OLD_PRIORS.get(key, key)}
    if isinstance(fit, dict) and isinstance(inputs := fit.get("inputs"), list):
        names = [OLD_INPUTS.get(str(input_name), input_name) for input_name in inputs]
        migrated["fit"] = {**fit, "inputs": names}
    return migrated


def rename_fields(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a stored record in which fields with old names have the present ones.

    Parameters
    ----------
    kind : str
        Kind of the record in `old_names.toml`, such as "report" or "outcome".
    record : mapping
    """
    renamed = dict(record)
    for path, names in OLD_FIELDS.items():
        first, *sections = path.split(".")
        if first == kind:
            renamed = _rename_within(renamed, sections, names)
    return renamed


def _rename_within(
    record: dict[str, Any], sections: Sequence[str], names: Mapping[str, str]
) -> dict[str, Any]:
    """Replace old keys within a section of a section, and so on, where all these are dicts."""
    if not sections:
        return _rename(record, names)
    first, *others = sections
    child = record.get(first)
    if not isinstance(child, dict):
        return record
    return {**record, first: _rename_within(child, others, names)}


def _rename(values_by_name: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in values_by_name.items()}


def _describe_field_error(error: ValidationError) -> str:
    """Return a phrase on the first wrong field, for use within a sentence."""
    details = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, details["loc"])) or "?"
    message = details["msg"]
    if details["type"] == "missing":
        return f"its field '{field}' is missing"
    if message.startswith("Input should be "):
        return f"its field '{field}' {message.removeprefix('Input ')}"
    if message.startswith("Value error, "):
        return f"its field {message.removeprefix('Value error, ')}"
    return f"its field '{field}' is wrong: {message[:1].lower()}{message[1:]}"


_NumberPair = Annotated[list[NumberField | None], Field(min_length=2, max_length=2)]


class _Camera(StrictModel):
    std: Annotated[list[NumberField], Field(min_length=3, max_length=3)]
    correlations: Annotated[list[NumberField], Field(min_length=3, max_length=3)]


class _Noise(StrictModel):
    model: TokenField
    gain: Annotated[list[NumberField], Field(min_length=1)]
    intercept: Annotated[list[NumberField], Field(min_length=1)]
    blind_spot_size: SizesField
    relative_deviation: list[NumberField] = Field(default_factory=list)
    caution: list[TokenField | None] = Field(default_factory=list)
    camera: _Camera | None = None


class _Prior(StrictModel):
    key: TokenField
    reason: TextField


class _Probes(StrictModel):
    probe_count: CountField
    gain: NumberField
    error: NumberField
    fine_tuned: bool


class _Network(StrictModel):
    network_file: NameField
    sha256: DigestField


class _JointTraining(StrictModel):
    region_count: CountField
    iterations: CountField
    inference: CountField


class _Fit(StrictModel):
    axes: Annotated[str, Field(pattern="^[TCZYXS]{0,6}$")] = "T"
    inputs: list[TextField] = Field(default_factory=list)
    widths: list[CountField] = Field(default_factory=list)
    max_iterations: CountField = 0
    refit_iterations: CountField = 0
    finished_fit_count: CountField = 1
    stopped_fit_count: CountField = 0
    unused_fit_count: CountField = 0
    half_resolution: bool = False
    refined: bool = False
    blended: bool = False
    min_spot_snr: dict[str, NumberField] = Field(default_factory=dict)
    min_line_snr: dict[str, NumberField] = Field(default_factory=dict)
    joint_training: _JointTraining = _JointTraining(region_count=0, iterations=0, inference=0)

    @field_validator("min_spot_snr", "min_line_snr")
    @classmethod
    def require_both_widths(
        cls, limits: dict[str, float], info: ValidationInfo
    ) -> dict[str, float]:
        """Raise if a limit that the card shows is missing."""
        if limits and not {"1", "2"} <= limits.keys():
            raise ValueError(f"'fit.{info.field_name}' lacks one or two pixels")
        return limits

    @model_validator(mode="before")
    @classmethod
    def _validate_joint_training(cls, raw: Any) -> Any:
        """Check the optional groups of fields on joint training; each must be complete."""
        shared = raw.get("joint_training") if isinstance(raw, dict) else None
        if isinstance(shared, dict):
            for kind in (_Probes, _Network):
                if not kind.model_fields.keys().isdisjoint(shared):
                    kind.model_validate(shared)
        return raw


class _Deviation(StrictModel):
    noise: NumberField
    result: NumberField


class _Resolution(StrictModel):
    input: NumberField | None
    result: NumberField | None


class _Halves(StrictModel):
    resolution: _Resolution
    unit: TextField
    repeated: NumberField | None = None


class _Detail(StrictModel):
    regression_slope: NumberField
    slope_error: NumberField


class _Traces(StrictModel):
    slope: NumberField
    slope_uncertainty: NumberField
    delay: NumberField
    delay_uncertainty: NumberField


class _CheckFigures(StrictModel):
    detail: _Detail | None = None
    traces: _Traces | None = None
    agreement: NumberField | None = None
    bias: NumberField | None = None


class _Verdict(StrictModel):
    figures: _CheckFigures = _CheckFigures()
    sentences: list[TextField] = Field(default_factory=list)
    warnings: list[TextField] = Field(default_factory=list)


class _Residual(StrictModel):
    lag_1_correlation: NumberField | None = None


class _NoteCode(StrictModel):
    code: TextField
    facts: dict[str, Any]


class ReportFields(StrictModel):
    """Define the fields of a report that the program reads; others are allowed."""

    task: TokenField
    recipe: dict[str, Any]
    version: TokenField
    torch: TokenField
    device: TokenField
    threads: CountField
    seed: CountField
    shape: SizesField
    axes: AxesField
    noise: _Noise
    prior: _Prior
    iterations: CountField
    best_iteration: CountField
    stop_reason: Annotated[StopReason, Field(strict=False)]
    stop_sentence: TextField
    fit: _Fit = _Fit()
    validation_loss: list[_NumberPair] = Field(default_factory=list)
    seconds: NumberField | None = None
    residual: _Residual = _Residual()
    verdict: _Verdict = _Verdict()
    deviation: _Deviation | None = None
    halves: _Halves | None = None
    notes: list[TextField] = Field(default_factory=list)
    note_codes: list[_NoteCode] = Field(default_factory=list)
    input_sha256: DigestField | None = None
    extra_inputs_sha256: dict[NameField, DigestField] = Field(default_factory=dict)
    output_sha256: DigestField | None = None

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"'shape' has {len(self.shape)} sizes and 'axes' {len(self.axes)}")
        if self.recipe.get("task") != self.task:
            raise ValueError("'task' is another than that of its recipe")
        return self


class _Source(StrictModel):
    source: NameField


class BatchManifestFields(StrictModel):
    """Define the fields of a batch manifest."""

    version: Literal[1] = Field(alias="schema")
    recipe: dict[str, Any]
    files: dict[NameField, NameField]
    refused: list[_Source] = Field(default_factory=list)
    cores: CountField = 0
    joint_training: bool = False


class FileRecordFields(StrictModel):
    """Define the fields of the record of a file that has a result."""

    version: Literal[1] = Field(alias="schema")
    recipe: dict[str, Any]
    axes: AxesField
    inputs_sha256: dict[NameField, DigestField]
    results_sha256: dict[NameField, DigestField]
    report: ReportFields


_NOUN = "report of a run"


def read_run_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report of the run that made a file.

    Files that napari-dip saved contain it. For other files, the report is read from a JSON file of
    the same name in the same folder (`OUT.json`). Its digest must match the pixels.

    Parameters
    ----------
    path : path
        A TIFF, an OME-Zarr, or a report.

    Raises
    ------
    RefusedError
        If the file cannot be read, or there is no valid report.
    """
    from napari_dip.io.reading import read_header, read_provenance

    file_path = Path(path)
    if not is_zarr(file_path):
        file_path, _ = stat_readable_file(path)
    if file_path.suffix.lower() == ".json":
        return _read_report_file(file_path)
    read_header(file_path)  # raises RefusedError if it is no image
    try:
        provenance = read_provenance(file_path)
    except Exception:  # not a TIFF, or written by another program
        provenance = None
    if provenance and isinstance(provenance.get("report"), dict):
        report = {**provenance["report"], "recipe": provenance["recipe"]}
        return _read_report(file_path, partial(translate_record, report, _NOUN, ReportFields))
    report_path = file_path.with_suffix(".json")
    if not report_path.is_file():
        why = "neither in itself nor in a report beside it"
        raise RefusedError("result-without-provenance", path=file_path, why=why)
    report = _read_report_file(report_path)
    if not has_reported_pixels(file_path, report):
        why = "the report beside it is of another image"
        raise RefusedError("result-without-provenance", path=file_path, why=why)
    return report


def has_reported_pixels(path: Path, report: Mapping[str, Any]) -> bool:
    """Return whether the pixels of a file match a report; an OME-Zarr must have no foreign files.

    Raises
    ------
    RefusedError
        If the file cannot be read.
    """
    from napari_dip.io.formats.zarr import find_foreign_file
    from napari_dip.io.reading import open_pixels, read_header
    from napari_dip.pipeline.assess.report import compute_sha256

    if path.is_dir() and find_foreign_file(path):
        return False
    header = read_header(path)
    pixels: Any = open_pixels(header)
    axes = str(report.get("axes", ""))
    axes = axes if "S" in header.axes else axes.replace("S", "C")
    if axes != header.axes and sorted(axes) == sorted(header.axes):  # stored in another order
        pixels = pixels[...].transpose([header.axes.index(axis) for axis in axes])
    return compute_sha256(pixels) == report.get("output_sha256")


def _read_report_file(path: Path) -> dict[str, Any]:
    return _read_report(path, partial(read_record, path, _NOUN, ReportFields))


def _read_report(path: Path, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the report that `read` returns; raise `RefusedError` if it is none."""
    try:
        report = read()
    except RefusedError:
        raise
    except (ValueError, OSError) as error:
        raise RefusedError(
            "result-without-provenance", path=path, why=describe_exception(error)
        ) from None
    recipe_from_dict(report["recipe"], origin=make_printable(str(path)))
    return report


def convert_nan_to_none(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not have, else the value."""
    return value if isfinite(value) else None
