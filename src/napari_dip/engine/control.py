"""What a person may ask of a running fit. Free of torch, so that every door can name it."""

from __future__ import annotations

from enum import Enum


class Control(Enum):
    """Polled at every step of the loop.

    GO goes on; PAUSE waits without computing; KEEP ends with the best picture so far;
    DISCARD ends with nothing.
    """

    GO = "go"
    PAUSE = "pause"
    KEEP = "keep"
    DISCARD = "discard"
