"""Holds what a worker reports until the GUI thread takes it, however busy that is."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

#: A dock is brought up to date at most this often, and at least: in seconds.
NEWS_SECONDS, MOST_SECONDS = 0.2, 4.0
#: Share of a core that showing it takes at most between these two. Drawn by software, a window
#: of 1280 x 720 costs 50 ms each time, and it is the fit that should have them.
WINDOW_SHARE = 0.01

Report = TypeVar("Report")
Told = TypeVar("Told")


class Inbox(ABC, Generic[Report, Told]):
    """Takes reports in from one thread and is emptied by another, at a pace that a window bears.

    Subclasses say how reports are put together: `_put` and `_emptied`, both under the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._called = False
        self._last = -float("inf")
        self._wait = NEWS_SECONDS
        self._spent = 0.0  # seconds of the processor, by the thread that takes
        self._costs = (0.0, 0.0)  # of what was shown last

    def post(self, report: Report) -> bool:
        """Put a report in; True if the GUI thread should now be called to take it."""
        with self._lock:
            self._put(report)
            if self._called or time.monotonic() - self._last < self._wait:
                return False
            self._called = True
            return True

    def take(self) -> Told | None:
        """Empty it; None if nothing is in it."""
        with self._lock:
            told = self._emptied()
            self._called = False
            self._last = time.monotonic()
            self._wait = self._paced()
        return told

    def _paced(self) -> float:
        """Seconds to the next news: the dearer they are to show, the longer.

        One that was dear alone does not count, as the first, which makes a layer.
        """
        before, self._spent = self._spent, time.thread_time()
        if before:
            self._costs = (self._costs[1], self._spent - before)
        return min(MOST_SECONDS, max(NEWS_SECONDS, min(self._costs) / WINDOW_SHARE))

    @abstractmethod
    def _put(self, report: Report) -> None:
        """Take a report in."""

    @abstractmethod
    def _emptied(self) -> Told | None:
        """Give what is in it, and start anew."""
