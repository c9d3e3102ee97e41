"""Cases of `make faults`: how they run, and how their outcome is classified.

Each case runs in a forked process and folder of its own, with a timeout. Its outcome depends on
files, numbers and exit codes alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

import napari_dip as dip
from faults.trials import Trial, TrialResult, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Folder of the package under test, for new processes.
SOURCE = str(Path(str(dip.__file__)).parents[1])
FAST = {"preset": "fast", "max_iterations": 2}
#: The same, typed.
QUICK = ("--preset", "fast", "--max-iterations", "2")
#: Environment variables that importing torch and a fit set.
TORCH_VARIABLES = ("OMP_WAIT_POLICY", "PYTORCH_ENABLE_MPS_FALLBACK", "TORCHINDUCTOR_CACHE_DIR")
#: Output of an unforeseen error.
UNEXPECTED_OUTPUT = re.compile(
    r"Traceback \(most recent|Something unexpected|^Log: |Exception ignored", re.MULTILINE
)
#: Programming terms, which no message may contain.
JARGON = re.compile(
    r"decode using|codec can't|NoneType|has no attribute|<class|\[Errno|object at 0x|"
    r"not subscriptable|out of range|takes \d+ positional|unhashable|assert"
)


class Outcome(StrEnum):
    """Outcome of a case."""

    PASSED = "passed"
    UNCLEAR = "unclear message"
    SILENT = "silently wrong"
    TRACEBACK = "traceback"
    LOST = "data lost"
    HANG = "hang"


class UnexpectedOutcome(Exception):
    """A case with another outcome than PASSED."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes
    ----------
    name : str
    check : callable
        Gets an empty folder, which is also the current one; raises `UnexpectedOutcome`.
    expected : str
        The expected behaviour, in words.
    timeout_s : float
        Seconds after which it counts as a hang.
    """

    name: str
    check: Callable[[Path], object]
    expected: str
    timeout_s: float = 90.0


def cases_to_trials(cases: Sequence[Case], *, small: bool, step: int) -> Iterator[Trial]:
    """Yield a trial for all cases, or for every `step`-th."""
    from faults.reference_runs import preload_torch

    preload_torch()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases[:: step if small else 1]:
        yield Trial(case.name, partial(_run_case, case))


def _run_case(case: Case) -> TrialResult:
    with tempfile.TemporaryDirectory(prefix="cases-") as name:
        folder = Path(name).resolve() / "work"
        folder.mkdir()
        answer = Path(name) / "answer"
        pid = os.fork()
        if pid == 0:
            _run_in_child(case, folder, answer)
        status = _wait_for_exit(pid, case.timeout_s)
        os.chmod(folder, 0o700)
        if status is None:
            return make_failed(
                f"no end after {case.timeout_s:.0f} s", kind=Outcome.HANG, expected=case.expected
            )
        if not answer.exists():
            message = f"the process ended with status {status}: {_read_log_tail(folder)}"
            return make_failed(message, kind=Outcome.TRACEBACK, expected=case.expected)
        outcome, message = json.loads(answer.read_text(encoding="utf-8"))
        if outcome == Outcome.PASSED:
            return make_passed(message, kind=outcome)
        return make_failed(message[:700], kind=outcome, expected=case.expected)


def _run_in_child(case: Case, folder: Path, answer: Path) -> None:
    """Run a case in this process, and write its outcome to a file; does not return."""
    os.setsid()
    os.chdir(folder)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):  # ignored in the background
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    outcome, message = Outcome.PASSED, "as expected"
    try:
        case.check(folder)
    except UnexpectedOutcome as wrong:
        outcome, message = wrong.outcome, str(wrong)
    except BaseException as error:
        outcome, message = Outcome.TRACEBACK, "".join(traceback.format_exception(error))[-700:]
    try:
        answer.write_text(json.dumps([outcome, message]), encoding="utf-8")
    finally:
        os._exit(0)


def _wait_for_exit(pid: int, timeout_s: float) -> int | None:
    """Wait for a process; after the timeout, kill its process group and return None."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _kill_group(pid)
            return status
        time.sleep(0.005)
    _kill_group(pid)
    os.waitpid(pid, 0)
    return None


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _read_log_tail(folder: Path) -> str:
    log = folder.parent / "log"
    return log.read_text("utf-8", "replace")[-400:] if log.exists() else ""


# --- commands


@dataclass(frozen=True)
class CommandResult:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str


def run_cli(*argv: object, before: Callable[[], object] = lambda: None) -> CommandResult:
    """Run a command in a forked child."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryDirectory(prefix="said-") as place:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                for number, name in ((1, "out"), (2, "err")):
                    os.dup2(os.open(f"{place}/{name}", os.O_WRONLY | os.O_CREAT, 0o666), number)
                before()
                from napari_dip.cli.app import _silence_libraries, main

                _silence_libraries()
                code = main([str(word) for word in argv])
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                code = 1
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        out, err = (
            (Path(place) / name).read_text("utf-8", "backslashreplace") for name in ("out", "err")
        )
    return CommandResult(os.waitstatus_to_exitcode(status), out, err)


def make_env(**changes: str | None) -> dict[str, str]:
    """Make the environment of a new process that imports this source."""
    variables = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    for name in TORCH_VARIABLES:  # this process has loaded it, and a user's has not
        variables.pop(name, None)
    for name, value in changes.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    return variables


def spawn_cli(
    *argv: object, python: Sequence[str] = (), env: Any = None, **options: Any
) -> CommandResult:
    """Run a command in a new process."""
    arguments = [sys.executable, *python, "-m", "napari_dip", *map(str, argv)]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, **options}
    done = subprocess.run(arguments, env=make_env() if env is None else env, **options)
    texts = [
        (text or b"").decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr)
    ]
    return CommandResult(done.returncode, *texts)


# --- checks


def check(is_right: object, message: str, outcome: Outcome = Outcome.SILENT) -> None:
    """Raise `UnexpectedOutcome` unless a condition holds."""
    if not is_right:
        raise UnexpectedOutcome(outcome, message)


def check_command_refused(result: CommandResult, *patterns: str, code: int = 2) -> None:
    """Check that a command was refused, in sentences that hold these patterns."""
    output = f"exit {result.code}: {result.err}{result.out}"[-600:]
    check(result.code != 0, f"went on: {output}")
    is_expected = result.code >= 0 and not UNEXPECTED_OUTPUT.search(result.err)
    check(is_expected, output, Outcome.TRACEBACK)
    check(result.code == code, output, Outcome.UNCLEAR)
    check(not result.out, f"on the output stream: {output}", Outcome.UNCLEAR)
    for pattern in patterns:
        check(
            re.search(pattern, result.err, re.IGNORECASE),
            f"no '{pattern}' in: {output}",
            Outcome.UNCLEAR,
        )
    jargon = JARGON.search(result.err)
    check(not jargon, f"'{jargon and jargon[0]}' in: {output}", Outcome.UNCLEAR)
    sentences = re.findall(r"[.!?](?:\s|$)", result.err)
    check(len(sentences) >= 2, f"not two sentences: {output}", Outcome.UNCLEAR)
    is_printable = all(letter.isprintable() or letter in "\n\r" for letter in result.err)
    check(is_printable, f"control characters: {output!r}", Outcome.UNCLEAR)


def check_completed(result: CommandResult, *patterns: str) -> CommandResult:
    """Check that a command succeeded, and that its output holds these patterns."""
    output = f"exit {result.code}: {result.err}{result.out}"[-600:]
    check(
        not UNEXPECTED_OUTPUT.search(result.err) and result.code >= 0,
        output,
        Outcome.TRACEBACK,
    )
    check(result.code == 0, output, Outcome.UNCLEAR)
    for pattern in patterns:
        check(
            re.search(pattern, result.err + result.out, re.IGNORECASE),
            f"no '{pattern}' in: {output}",
        )
    return result


def check_call_refused(call: Callable[[], object], *patterns: str) -> None:
    """Check that a call in Python is refused in sentences that hold these patterns."""
    try:
        answer = call()
    except dip.RefusedError as no:
        for pattern in patterns:
            message = re.search(pattern, no.reason.message, re.IGNORECASE)
            check(message, f"no '{pattern}' in: {no.reason.message}", Outcome.UNCLEAR)
        jargon = JARGON.search(no.reason.message)
        check(not jargon, f"'{jargon and jargon[0]}' in: {no.reason.message}", Outcome.UNCLEAR)
        check(
            no.reason.sentence.strip() and no.reason.remedy.strip(), "no message", Outcome.UNCLEAR
        )
        return
    except dip.FailedError as failure:
        raise UnexpectedOutcome(Outcome.UNCLEAR, f"failed, not refused: {failure}") from None
    raise UnexpectedOutcome(Outcome.SILENT, f"an answer: {answer!r}"[:300])


def check_restored(call: Callable[[], Any]) -> Any:
    """Check that a call in Python returns finite pixels."""
    try:
        answer = call()
    except (dip.RefusedError, dip.FailedError) as no:
        raise UnexpectedOutcome(Outcome.UNCLEAR, f"{type(no).__name__}: {no}") from None
    for name in ("image", "uncertainty", "residual"):
        check(np.isfinite(getattr(answer, name)).all(), f"{name} is not finite")
    return answer


def read_folder(folder: Path) -> dict[str, tuple[str, bytes, int]]:
    """Read all files of a folder: kind, bytes or target, and permissions."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
        mode = path.lstat().st_mode & 0o777
        if path.is_symlink():
            files[name] = ("link", os.fsencode(os.readlink(path)), 0)
        elif path.is_file():
            files[name] = ("file", path.read_bytes(), mode)
        else:
            files[name] = ("folder" if path.is_dir() else "special", b"", mode)
    return files


def check_files_unchanged(
    folder: Path, before: dict[str, tuple[str, bytes, int]], *new: str, strict: bool = True
) -> None:
    """Check that all files are unchanged, and that only the named ones are new."""
    after = read_folder(folder)
    gone = [name for name in before if name not in after and name not in new]
    check(not gone, f"gone: {gone}", Outcome.LOST)
    changed = [name for name in before if name not in new and after[name] != before[name]]
    check(not changed, f"changed: {changed}", Outcome.LOST)
    extra = [name for name in after if name not in before and not name.startswith(new or ("\0",))]
    check(not (strict and extra), f"left behind: {extra}")


def make_image(*shape: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Make an asymmetric image of steps and a bright bar with weak noise."""
    height, width = (shape or (32, 32))[-2:]
    plain = np.full((height, width), 200.0)
    plain[: height // 3] += 300
    plain[:, : width // 4] += 150
    plain[height // 2 : height // 2 + 3, width // 2 :] += 400
    rng = np.random.default_rng(seed)
    pixels = plain + rng.normal(0, 12, shape or (32, 32))
    if np.dtype(dtype).itemsize == 1:
        pixels /= 8.5
    return np.rint(pixels).astype(dtype)


def save_tiff(path: str | Path, array: np.ndarray | None = None, **options: Any) -> Path:
    """Save an image as TIFF."""
    array = make_image() if array is None else array
    if array.ndim > 1:
        options.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, array, **options)
    return Path(path)


def check_same_pixels(
    pixels: Any, expected: Any, what: str = "pixels", tolerance: float = 0.0
) -> None:
    """Check that two arrays agree in shape and values."""
    pixels, expected = np.asarray(pixels), np.asarray(expected)
    check(pixels.shape == expected.shape, f"{what}: shape {pixels.shape}, not {expected.shape}")
    off = np.abs(pixels.astype(np.float64) - expected.astype(np.float64)).max()
    check(off <= tolerance, f"{what} are off by {off:.6g}, {tolerance:.6g} is allowed")


def save_hole_mask(folder: Path, height: int = 32, width: int = 32) -> Path:
    """Save a mask with a small hole in the middle."""
    return save_tiff(folder / "hole.tif", make_hole_mask(height, width))


def make_hole_mask(height: int = 32, width: int = 32) -> np.ndarray:
    """Draw a mask with a small hole in the middle."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 : height // 2 + 2, width // 2 : width // 2 + 2] = 1
    return mask


def check_unmasked_pixels(
    path: Path, expected: np.ndarray, *options: str, tolerance: float = 0.0
) -> CommandResult:
    """Check that filling a small hole leaves all other pixels as in the file."""
    grid = expected.shape[-3:-1] if expected.shape[-1] == 3 else expected.shape[-2:]
    folder = path.resolve().parent
    mask, out = save_hole_mask(folder, *grid), folder / "filled.tif"
    result = check_completed(run_cli("inpaint", path, "--mask", mask, "-o", out, *QUICK, *options))
    image = tifffile.imread(out)
    unmasked = make_hole_mask(*grid) == 0
    if expected.shape[-1] == 3:
        unmasked = unmasked[..., None] * np.ones(3, bool)
    check(
        image.shape == expected.shape,
        f"shape {image.shape}, not {expected.shape}: {result.err}",
    )
    unmasked = np.broadcast_to(unmasked, image.shape)
    check_same_pixels(
        image[unmasked], expected[unmasked].astype(np.float32), "measured pixels", tolerance
    )
    return result
