"""Simulated workers in this process, so that a batch is reproducible."""

from __future__ import annotations

import json
import pickle

import napari_dip as dip
from napari_dip.engine.fit.stopping import Control
from napari_dip.scale.cluster.worker import (
    WorkerMessage,
    restore_file_on_worker,
    restore_shard_on_worker,
    serialise_event,
)


def never_stop() -> Control:
    return Control.GO


class InProcessPool:
    """A pool: this process, which restores what came last whenever somebody listens."""

    max_queued, root = 0, ""

    def __init__(
        self, deaths: int = 0, lost_after: int = 1000, asleep: bool = False, count: int = 1
    ) -> None:
        self.worker_count = count
        self.connection_failure = None
        self.units: list = []
        self.sent: list[str] = []
        self.cancelled: list[str] = []
        self.controls: list[Control] = []
        self._deaths, self._remaining, self._asleep = deaths, lost_after, asleep

    def send(self, unit, memory: int, device: str) -> None:
        self.units.append(unit)
        self.sent.append(unit.name)

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)

    def send_control(self, session: str, control: Control) -> None:
        self.controls.append(control)

    def receive_messages(self, seconds: float):
        if self._asleep or not self.units:
            return
        unit = self.units.pop()
        if self._deaths:
            self._deaths -= 1
            yield WorkerMessage(job_name=unit.name, is_abandoned=True)
            return
        if not self._remaining:
            self.connection_failure = dip.errors.make_refusal("cluster-lost", address="tcp://there")
            return
        self._remaining -= 1
        events: list = []
        restore = restore_file_on_worker if unit.shard is None else restore_shard_on_worker
        answer = restore(unit, never_stop, events.append)
        for event in events:
            yield WorkerMessage(
                job_name=unit.name,
                worker="tcp://me",
                event=json.loads(json.dumps(serialise_event(event))),
            )
        yield WorkerMessage(job_name=unit.name, answer=pickle.loads(pickle.dumps(answer)))
