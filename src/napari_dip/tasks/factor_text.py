"""How many times finer, along each axis, as recipes keep it and people write it."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticCustomError

#: Factors of one axis; the paper shows 4 and 8.
ALLOWED = (1, 2, 3, 4, 8)


def factor_text(value: object) -> str:
    """Bring a factor, or one for each axis, to the text that recipes keep, such as "2" or "1,4".

    Parameters
    ----------
    value : int, str or sequence of int

    Raises
    ------
    PydanticCustomError
        If a factor is not allowed, or all are 1.
    """
    parts: list[Any]
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = [value]
    texts = [str(part) for part in parts]
    numbers = [int(text) for text in texts if text in map(str, ALLOWED)]
    if len(numbers) != len(texts) or len(numbers) not in (1, 2, 3) or max(numbers) == 1:
        raise PydanticCustomError(
            "factor",
            "Input should be 2, 3, 4 or 8, or one of 1, 2, 3, 4, 8 for each axis as Y,X or Z,Y,X",
        )
    even = len(numbers) < 3 and len(set(numbers)) == 1
    return str(numbers[0]) if even else ",".join(map(str, numbers))
