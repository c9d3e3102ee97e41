"""JSON that is read back, checked by the types of its fields; what is wrong names the field."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

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
