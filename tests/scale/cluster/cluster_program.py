"""A batch by two real workers, one file of which ends every worker that begins it.

    python cluster_program.py RECIPE OUT IN...

Prints what was seen as JSON. In a process of its own: workers read this file again, and the threads
of dask end with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import psutil

from napari_dip.pipeline.progress import drain_generator
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch
from napari_dip.scale.cluster.dask_cluster import start_workers

DEADLY = "a_deadly.tif"


def main(recipe: str, out: str, *inputs: str) -> None:
    plan = plan_batch(recipe, inputs, out, threads=1)
    states: dict[str, str] = {}
    killed: list[str] = []
    with start_workers(plan, 2) as pool:

        def check_step(event) -> None:
            if event.outcome is not None:
                states[event.source.name] = event.outcome.state
            elif event.source.name == DEADLY and event.worker not in killed:
                killed.append(event.worker)
                pid = pool.client.run(os.getpid, workers=[event.worker])[event.worker]
                os.kill(pid, signal.SIGKILL)

        here = psutil.Process()
        ports = [
            port.laddr.ip
            for process in (here, *here.children(recursive=True))
            for port in process.net_connections("tcp")
            if port.status == psutil.CONN_LISTEN
        ]
        drain_generator(run_batch(plan, pool=pool), check_step)
    print(json.dumps({"states": states, "killed": len(killed), "listening": ports}))


if __name__ == "__main__":
    main(*sys.argv[1:])
