"""What a report, the list of a batch and the receipt of a file must hold to be read back."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from napari_dip.run.fields import Axes, Count, Digest, Fields, Figure, Name, Sizes, Text, Word

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
