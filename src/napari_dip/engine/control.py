"""Define the user's control of a running fit; free of torch, so any interface can import it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Control(Enum):
    """The user's control, which the fit loop polls before every iteration.

    GO continues. PAUSE waits without computing. KEEP ends the fit and returns the best image so
    far. DISCARD ends the fit without a result.
    """

    GO = "go"
    PAUSE = "pause"
    KEEP = "keep"
    DISCARD = "discard"


#: Returns the control of the moment; it is polled before every iteration.
PollControl = Callable[[], Control]
