"""What can go wrong with the processes and computers that share a batch."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

WORKERS = {
    "cluster-missing": Fault(
        "Workers need the package 'distributed', which is not installed.",
        "Install it with: pip install 'napari-dip[cluster]'; or leave out --workers and "
        "--scheduler.",
    ),
    "cluster-main": Fault(
        "Each worker would run the script '{path}' anew, since line {line} starts them unguarded.",
        'Put that line below: if __name__ == "__main__":',
    ),
    "cluster-twice": Fault(
        "Workers to start here (--workers) and a running cluster (--scheduler) are both asked for.",
        "Leave one of the two out.",
    ),
    "cluster-unreachable": Fault(
        "The scheduler at '{address}' cannot be reached: {why}.",
        "Check the address that 'dask scheduler' has printed, and whether it still runs.",
    ),
    "cluster-empty": Fault(
        "The scheduler at '{address}' has no workers.",
        "Start some with: dask worker {address} --nthreads 1",
    ),
    "cluster-threads": Fault(
        "A worker of the scheduler at '{address}' runs {count} tasks at once, but each fit needs "
        "a process of its own.",
        "Start workers with: dask worker {address} --nthreads 1 --nworkers N",
    ),
    "cluster-package": Fault(
        "The workers of the scheduler at '{address}' cannot load napari-dip: {why}.",
        "Install the same version of it where they run, and start them again.",
    ),
    "cluster-versions": Fault(
        "A worker has {found}, but {here} is wanted, and other versions may give other pixels.",
        "Install the same versions where workers run, and start them again.",
    ),
    "cluster-unseen": Fault(
        "A worker does not see the file '{path}'.",
        "Put files and results where all computers see them under the same name.",
    ),
    "cluster-killed": Fault(
        "Restoring '{name}' has ended {count} workers, mostly for want of memory.",
        "Crop the image or take fewer workers; --resume tries it again.",
    ),
    "cluster-lost": Fault(
        "The connection to the scheduler at '{address}' is lost; all that is done is kept.",
        "The same command with --resume goes on from there, with other workers or without.",
    ),
}
