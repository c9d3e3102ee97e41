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

from napari_dip.pipeline.events import drain_generator
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch
from napari_dip.scale.cluster.dask_cluster import start_workers

DEADLY = "a_deadly.tif"


def main(recipe: str, out: str, *inputs: str) -> None:
    plan = plan_batch(recipe, inputs, out, threads=1)
    states: dict[str, str] = {}
    killed: list[str] = []
    with start_workers(plan, 2) as crew:

        def see(one) -> None:
            if one.outcome is not None:
                states[one.source.name] = one.outcome.state
            elif one.source.name == DEADLY and one.worker not in killed:
                killed.append(one.worker)
                pid = crew.client.run(os.getpid, workers=[one.worker])[one.worker]
                os.kill(pid, signal.SIGKILL)

        here = psutil.Process()
        ports = [
            port.laddr.ip
            for process in (here, *here.children(recursive=True))
            for port in process.net_connections("tcp")
            if port.status == psutil.CONN_LISTEN
        ]
        drain_generator(run_batch(plan, pool=crew), see)
    print(json.dumps({"states": states, "killed": len(killed), "listening": ports}))


if __name__ == "__main__":
    main(*sys.argv[1:])
