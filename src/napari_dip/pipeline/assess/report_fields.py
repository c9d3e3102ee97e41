"""Define and check the fields of reports, batch manifests and file records that are read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, model_validator

from napari_dip.io.paths import MAX_REPORT_BYTES, parse_strict_json, read_small_text
from napari_dip.pipeline.recipe import migrate_record

if TYPE_CHECKING:
    from pathlib import Path

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
SCHEMA = 1


class StrictModel(BaseModel):
    """Check the types of fields without conversion; allow additional fields."""

    # validators are built on first use: building them takes 0.08 s at each start of a command
    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)


def read_record(path: Path, noun: str, kind: type[StrictModel]) -> dict[str, Any]:
    """Read a JSON file, and check its fields as `check_record` does.

    Raises
    ------
    RefusedError
        If the file cannot be read.
    ValueError
        If it is no such record. The message is a phrase.
    """
    text = read_small_text(path, f"a {noun}", MAX_REPORT_BYTES)
    return check_record(parse_strict_json(text), noun, kind)


def check_record(raw: object, noun: str, kind: type[StrictModel]) -> dict[str, Any]:
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
    if fault := find_field_fault(record, kind):
        raise ValueError(f"it is no {noun}, since {fault}")
    assert isinstance(record, dict)  # otherwise its fields are missing
    return record


def find_field_fault(raw: object, kind: type[StrictModel]) -> str:
    """Return a phrase on the first wrong field; "" if all fields are valid.

    Parameters
    ----------
    raw : object
        Parsed JSON.
    kind : type
        Model that it is checked against.
    """
    try:
        kind.model_validate(raw)
    except ValidationError as error:
        return _describe_field_error(error)
    return ""


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
    lags: Annotated[list[NumberField], Field(min_length=3, max_length=3)]


class _Noise(StrictModel):
    model: TokenField
    gain: Annotated[list[NumberField], Field(min_length=1)]
    intercept: Annotated[list[NumberField], Field(min_length=1)]
    blind_spot_block: SizesField
    relative: list[NumberField] = Field(default_factory=list)
    camera: _Camera | None = None


class _Prior(StrictModel):
    chosen: TokenField
    why: TextField


class _Probes(StrictModel):
    probes: CountField
    gain: NumberField
    error: NumberField
    fine_tuned: bool


class _Network(StrictModel):
    network_file: NameField
    sha256: DigestField


class _JointTraining(StrictModel):
    members: CountField
    iterations: CountField
    inference: CountField


class _Fit(StrictModel):
    axes: Annotated[str, Field(pattern="^[TCZYXS]{0,6}$")] = "T"
    inputs: list[TextField] = Field(default_factory=list)
    network: list[CountField] = Field(default_factory=list)
    max_iterations: CountField = 0
    last_phase: CountField = 0
    finished: CountField = 1
    kept: CountField = 0
    half_resolution: bool = False
    refined: bool = False
    joint_training: _JointTraining = _JointTraining(members=0, iterations=0, inference=0)

    @model_validator(mode="before")
    @classmethod
    def _check_shared(cls, raw: Any) -> Any:
        """Check the optional groups of fields on joint training; each must be complete."""
        shared = raw.get("joint_training") if isinstance(raw, dict) else None
        if isinstance(shared, dict):
            for kind in (_Probes, _Network):
                if not kind.model_fields.keys().isdisjoint(shared):
                    kind.model_validate(shared)
        return raw


class _Verdict(StrictModel):
    sentences: list[TextField] = Field(default_factory=list)
    warnings: list[TextField] = Field(default_factory=list)


class _Residual(StrictModel):
    whiteness: NumberField | None = None


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
    stop_reason: TextField
    stop_code: TokenField | None = None
    fit: _Fit = _Fit()
    validation_loss: list[
        Annotated[list[NumberField | None], Field(min_length=2, max_length=2)]
    ] = Field(default_factory=list)
    seconds: NumberField | None = None
    residual: _Residual = _Residual()
    verdict: _Verdict = _Verdict()
    notes: list[TextField] = Field(default_factory=list)
    note_codes: list[_NoteCode] = Field(default_factory=list)
    input_sha256: DigestField | None = None
    output_sha256: DigestField | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
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
