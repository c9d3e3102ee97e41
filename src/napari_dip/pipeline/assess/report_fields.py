"""JSON that is read back, checked by the types of its fields; what is wrong names the field.

What a report, the list of a batch and the receipt of a file must hold to be read back.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, model_validator

Text = Annotated[str, Field(max_length=10_000)]
#: Of files, which need not be Unicode; pydantic takes no such text for a `str`.
Name = InstanceOf[str]
#: What goes into a script as well, where a line break would begin another command.
Word = Annotated[str, Field(pattern=r"^[\w.+:-]{1,100}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Figure = Annotated[float, Field(allow_inf_nan=False)]
Sizes = Annotated[list[Annotated[int, Field(ge=1, le=2**53)]], Field(min_length=1, max_length=8)]
Axes = Annotated[str, Field(pattern="^[TCZYXS]{1,6}$")]


class Fields(BaseModel):
    """Fields by their types, none turned into another; more may stand beside them."""

    model_config = ConfigDict(strict=True, frozen=True)


def fault_in(raw: object, kind: type[Fields]) -> str:
    """Say which field is wrong, and why; empty if all of them are as they should be.

    Parameters
    ----------
    raw : object
        As JSON was read.
    kind : type
        What it should hold.
    """
    try:
        kind.model_validate(raw)
    except ValidationError as error:
        return _why(error)
    return ""


def _why(error: ValidationError) -> str:
    """Name the first field that is wrong, for the middle of a sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"])) or "?"
    why = first["msg"]
    if first["type"] == "missing":
        return f"its field '{field}' is missing"
    if why.startswith("Input should be "):
        return f"its field '{field}' {why.removeprefix('Input ')}"
    if why.startswith("Value error, "):
        return f"its field {why.removeprefix('Value error, ')}"
    return f"its field '{field}' is wrong: {why[:1].lower()}{why[1:]}"


#: Of lists and receipts; raised by one whenever one written before would be read differently.
SCHEMA = 1
_Pair = Annotated[list[Figure | None], Field(min_length=2, max_length=2)]


class _Camera(Fields):
    std: Annotated[list[Figure], Field(min_length=3, max_length=3)]
    lags: Annotated[list[Figure], Field(min_length=3, max_length=3)]


class _Noise(Fields):
    model: Word
    gain: Annotated[list[Figure], Field(min_length=1)]
    intercept: Annotated[list[Figure], Field(min_length=1)]
    hidden_block: Sizes
    relative: list[Figure] = Field(default_factory=list)
    camera: _Camera | None = None


class _Prior(Fields):
    chosen: Word
    why: Text


class _Trials(Fields):
    trials: Count
    gain: Figure
    error: Figure
    went_on: bool


class _Network(Fields):
    file: Name
    sha256: Digest


class _Shared(Fields):
    members: Count
    iterations: Count
    shown: Count


class _Fit(Fields):
    axes: Annotated[str, Field(pattern="^[TCZYXS]{0,6}$")] = "T"
    inputs: list[Text] = Field(default_factory=list)
    network: list[Count] = Field(default_factory=list)
    iterations_at_most: Count = 0
    last_phase: Count = 0
    finished: Count = 1
    kept: Count = 0
    halved: bool = False
    filtered: bool = False
    shared: _Shared = _Shared(members=0, iterations=0, shown=0)

    @model_validator(mode="before")
    @classmethod
    def _parts(cls, raw: Any) -> Any:
        """Check what is told of a shared network: in parts, each of them whole."""
        shared = raw.get("shared") if isinstance(raw, dict) else None
        if isinstance(shared, dict):
            for kind in (_Trials, _Network):
                if not kind.model_fields.keys().isdisjoint(shared):
                    kind.model_validate(shared)
        return raw


class _Verdict(Fields):
    sentences: list[Text] = Field(default_factory=list)
    warnings: list[Text] = Field(default_factory=list)


class _Residual(Fields):
    whiteness: Figure | None = None


class ReportFields(Fields):
    """Fields of a report that anything is made of; others may stand beside."""

    task: Word
    recipe: dict[str, Any]
    version: Word
    torch: Word
    device: Word
    threads: Count
    seed: Count
    shape: Sizes
    axes: Axes
    noise: _Noise
    prior: _Prior
    iterations: Count
    best_iteration: Count
    stop_reason: Text
    fit: _Fit = _Fit()
    held_out: list[Annotated[list[Figure | None], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list
    )
    seconds: Figure | None = None
    residual: _Residual = _Residual()
    verdict: _Verdict = _Verdict()
    notes: list[Text] = Field(default_factory=list)
    input_sha256: Digest | None = None
    output_sha256: Digest | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"'shape' has {len(self.shape)} sizes and 'axes' {len(self.axes)}")
        if self.recipe.get("task") != self.task:
            raise ValueError("'task' is another than that of its recipe")
        return self


class _Source(Fields):
    source: Name


class ListFields(Fields):
    """Of the list of a batch."""

    version: Literal[1] = Field(alias="schema")
    recipe: dict[str, Any]
    files: dict[Name, Name]
    refused: list[_Source] = Field(default_factory=list)
    cores: Count = 0
    one_network: bool = False


class ReceiptFields(Fields):
    """Of the receipt of a file that has a result."""

    version: Literal[1] = Field(alias="schema")
    recipe: dict[str, Any]
    axes: Axes
    inputs_sha256: dict[Name, Digest]
    results_sha256: dict[Name, Digest]
    report: ReportFields
