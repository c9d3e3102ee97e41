"""Mutation tests: without a guard, the part of `make faults` that covers it must fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.trials import Trial, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """One removed guard.

    Attributes
    ----------
    guard : str
        What it guards.
    file : str
        Below src/napari_dip.
    before, after : str
        Text that occurs once, and what takes its place.
    part, match : str
        Part of `make faults`, and the beginning of the trial that must fail.
    """

    guard: str
    file: str
    before: str
    after: str
    part: str
    match: str


MUTATIONS = [
    Mutation(
        "pixels that are no numbers are refused",
        "tasks/shared_settings.py",
        "if nans := int(np.isnan(array).sum()):",
        "if nans := 0:",
        "bad-input",
        "command: one NaN",
    ),
    Mutation(
        "a refusal in the dock is said",
        "qt/shell/background_call.py",
        "exc_info=error)\n        return error.reason\n",
        "exc_info=error)\n        return None\n",
        "bad-input",
        "dock, denoise: one infinite",
    ),
    Mutation(
        "an image over its own result is refused",
        "io/outputs.py",
        'raise RefusedError("output-is-input", path=output, inside=is_inside)',
        "pass",
        "bad-input",
        "command: output is the input",
    ),
    Mutation(
        "ranges that single precision does not hold are refused",
        "tasks/shared_settings.py",
        "or span < 16 * float(np.spacing(np.float32(largest)))",
        "or False",
        "bad-input",
        "command: beyond single precision",
    ),
    Mutation(
        "the mean is put back",
        "pipeline/assess/merge.py",
        "np.asarray(mean + mean_correction, np.float32)",
        "np.asarray(mean, np.float32)",
        "numerics",
        "problems from 0",
    ),
    Mutation(
        "recipes are short",
        "io/paths.py",
        "    if count > max_bytes:\n",
        "    if False:\n",
        "hostile",
        "recipe of 8 GB",
    ),
    Mutation(
        "planes do not lie outside the folder",
        "io/formats/tiff.py",
        'raise RefusedError("file-outside-folder", path=path, other=file_name)',
        "pass",
        "hostile",
        "OME-TIFF whose second plane",
    ),
    Mutation(
        "a batch does not write through links",
        "scale/batch/plan.py",
        'raise RefusedError("output-linked", path=linked)',
        "pass",
        "hostile",
        "receipts that lie outside",
    ),
    Mutation(
        "names are escaped in the page of a batch",
        "pipeline/assess/report_figures.py",
        "child if isinstance(child, Html) else html.escape(child) for child in children",
        "child for child in children",
        "hostile",
        "name that is HTML",
    ),
    Mutation(
        "names are no formulas in the table of a batch",
        "pipeline/store/result_files.py",
        "normalised.startswith(_FORMULA_PREFIXES)",
        "False",
        "hostile",
        "name that is a formula",
    ),
    Mutation(
        "pixels that are missing are no zeros",
        "io/formats/tiff.py",
        "    if 0 not in series.shape:\n",
        "    if False:\n",
        "hostile",
        "TIFF with a strip that is missing",
    ),
    Mutation(
        "the planes of an image are counted before they are listed",
        "io/header.py",
        "MAX_IMAGE_PLANES = 50_000",
        "MAX_IMAGE_PLANES = 10**9",
        "hostile",
        "TIFF of 200,000",
    ),
    Mutation(
        "chunks are no larger than their pixels",
        "io/formats/zarr.py",
        "if max(sizes) > 2 * stored_bytes + _CHUNK_OVERHEAD_BYTES:",
        "if False:",
        "hostile",
        "Zarr with a chunk that unpacks",
    ),
    Mutation(
        "the random numbers go on where they were",
        "engine/fit/trainer.py",
        'self._rng.set_state(state["rng"])',
        "pass",
        "kills",
        "from a checkpoint, denoise",
    ),
    Mutation(
        "a damaged checkpoint is told from a sound one",
        "pipeline/store/tensor_file.py",
        'raise DamagedFileError("its digest is another")',
        "pass",
        "kills",
        "flipped",
    ),
    Mutation(
        "results appear whole or not at all",
        "io/atomic.py",
        "    temporary_folder = path.with_name(make_temporary_name())",
        "    path.unlink(missing_ok=True)\n"
        "    temporary_folder = path.with_name(make_temporary_name())",
        "disk",
        "denoise 12",
    ),
    Mutation(
        "an image that finds no place is kept elsewhere",
        "cli/restore.py",
        "rescue_failure = rescue_result(failure, target, plan, result) if is_result else None",
        "rescue_failure = None",
        "disk",
        "denoise 12",
    ),
    Mutation(
        "a mapped image has its room on the disk",
        "io/lazy_images.py",
        "            allocate(file.fileno(), 0, byte_count)\n",
        "            file.truncate(byte_count)\n",
        "disk",
        "tiled 15",
    ),
    Mutation(
        "two runs do not share their tiles",
        "pipeline/store/unit_results.py",
        "            if not self._folder.resume:\n                raise",
        "            if False:\n                raise",
        "disk",
        "two runs on one output, its lock file removed",
    ),
    Mutation(
        "two runs do not write one result",
        "io/outputs.py",
        "                raise RefusedError(_make_busy_refusal(path, handle)) from None\n"
        "            except OSError:\n                os.close(handle)\n                return\n",
        "                return\n",
        "disk",
        "two runs on one output, denoise",
    ),
    Mutation(
        "a run goes on when the memory runs out",
        "pipeline/execute/device_recovery.py",
        "is_recoverable = is_lost or is_memory_error(error)",
        "is_recoverable = is_lost",
        "memory",
        "GPU, inpaint 1",
    ),
    Mutation(
        "a run whose card is lost ends in an image",
        "pipeline/execute/device_recovery.py",
        "lost = is_device_error(error)",
        "lost = False",
        "lost-gpu",
        "GPU lost, denoise",
    ),
    Mutation(
        "checkpoints are copied off a GPU",
        "pipeline/execute/device_recovery.py",
        "checkpoint, self._last_copy_time = copy_checkpoint_to_cpu(checkpoint), time.monotonic()",
        "self._last_copy_time = time.monotonic()",
        "lost-gpu",
        "GPU lost, denoise",
    ),
    Mutation(
        "a run that was cut off goes on where it was",
        "pipeline/autosave.py",
        "resume=target.resume,",
        "resume=False,",
        "recovery",
        "denoise",
    ),
    Mutation(
        "nothing is imported from the folder where the program runs",
        "tasks/network_import/loading.py",
        '"-P", "-m"',
        '"-m"',
        "hostile",
        "modules beside the network",
    ),
    Mutation(
        "nothing is left open by a run",
        "qt/shell/background_call.py",
        "        self._worker = None\n        self._take()\n",
        '        self._worker = None\n        _OPEN.append(open("/dev/null"))\n'
        "        self._take()\n",
        "leaks",
        "a few runs",
    ),
    Mutation(
        "a layer that is removed leaves the GPU in the canvas's own context",
        "qt/shell/run_bar.py",
        "        make_canvas_current(self._widget)\n",
        "        return\n",
        "leaks",
        "runs in one drawn",
    ),
]
#: What the mutation of open files needs beside it.
_ALSO = {"qt/shell/background_call.py": "\n_OPEN: list = []\n"}


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield every mutation, or the first two."""
    for mutation in MUTATIONS[: 2 if small else None]:
        yield Trial(mutation.guard, partial(_run_mutation, mutation))


def _run_mutation(mutation: Mutation) -> TrialResult:
    """Remove the guard from a copy of the code, and run the part that must fail."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / "napari_dip" / mutation.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutation.before) != 1:
            return make_failed(
                f"'{mutation.before}' occurs {text.count(mutation.before)} times in {mutation.file}"
            )
        text = text.replace(mutation.before, mutation.after) + _ALSO.get(mutation.file, "")
        path.write_text(text, encoding="utf-8")
        argv = [sys.executable, "-m", "faults", "--small", "--only", mutation.part]
        argv += ["--match", mutation.match, "--out", str(Path(scratch) / "out")]
        paths = os.pathsep.join([str(copy), str(ROOT / "tests")])
        done = subprocess.run(
            argv,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        if done.returncode != 1 or not failed:
            return make_failed(f"not noticed: {done.stdout}{done.stderr}"[-500:])
        return make_passed(failed[0][:160], kind="noticed")
