"""What the parts in `cases` are made of: named rows, and how an end is classed.

Each row runs in a process of its own, forked from one that has loaded the program, in a folder of
its own and with a limit of time. What came of it is judged by files, figures and exit codes alone,
never by what the program says of itself.
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

#: Where the program under trial lies, for processes that are started afresh.
SOURCE = str(Path(str(dip.__file__)).parents[1])
FAST = {"preset": "fast", "max_iterations": 2}
#: The same, typed.
QUICK = ("--preset", "fast", "--max-iterations", "2")
#: What loading torch and a fit leave in the environment.
LEFT_BY_TORCH = ("OMP_WAIT_POLICY", "PYTORCH_ENABLE_MPS_FALLBACK", "TORCHINDUCTOR_CACHE_DIR")
#: Signs that a command did not foresee what happened.
UNFORESEEN = re.compile(
    r"Traceback \(most recent|Something unexpected|^Log: |Exception ignored", re.MULTILINE
)
#: Words of programmers that no user can do anything with.
JARGON = re.compile(
    r"decode using|codec can't|NoneType|has no attribute|<class|\[Errno|object at 0x|"
    r"not subscriptable|out of range|takes \d+ positional|unhashable|assert"
)


class Outcome(StrEnum):
    """What came of a trial."""

    COMPLETED = "well"
    UNCLEAR = "unclear message"
    SILENT = "silently wrong"
    TRACEBACK = "traceback"
    LOST = "lost data"
    HANG = "hang"


class UnexpectedOutcome(Exception):
    """A trial that did not end as it should."""

    def __init__(self, end: Outcome, account: str) -> None:
        super().__init__(account)
        self.end = end


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes
    ----------
    name : str
    act : callable
        Gets an empty folder, which is also the current one; raises `UnexpectedOutcome`.
    expected : str
        What a person would want to see.
    patience : float
        Seconds after which it counts as a hang.
    """

    name: str
    act: Callable[[Path], object]
    expected: str
    patience: float = 90.0


def rows_to_trials(rows: Sequence[Row], *, small: bool, step: int) -> Iterator[Trial]:
    """Give all rows, or every so many-th."""
    from faults.scenes import warm

    warm()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows[:: step if small else 1]:
        yield Trial(row.name, partial(_run_row, row))


def _run_row(row: Row) -> TrialResult:
    with tempfile.TemporaryDirectory(prefix="cases-") as name:
        folder = Path(name).resolve() / "field"
        folder.mkdir()
        answer = Path(name) / "answer"
        pid = os.fork()
        if pid == 0:
            _run_in_child(row, folder, answer)
        status = _wait_for_exit(pid, row.patience)
        os.chmod(folder, 0o700)
        if status is None:
            return make_failed(
                f"no end after {row.patience:.0f} s", kind=Outcome.HANG, expected=row.expected
            )
        if not answer.exists():
            account = f"the process ended with status {status}: {_read_log_tail(folder)}"
            return make_failed(account, kind=Outcome.TRACEBACK, expected=row.expected)
        end, account = json.loads(answer.read_text(encoding="utf-8"))
        if end == Outcome.COMPLETED:
            return make_passed(account, kind=end)
        return make_failed(account[:700], kind=end, expected=row.expected)


def _run_in_child(row: Row, folder: Path, answer: Path) -> None:
    """Carry a row out in this process, and leave what was seen in a file; does not return."""
    os.setsid()
    os.chdir(folder)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):  # ignored in the background
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    end, account = Outcome.COMPLETED, "as expected"
    try:
        row.act(folder)
    except UnexpectedOutcome as wrong:
        end, account = wrong.end, str(wrong)
    except BaseException as error:
        end, account = Outcome.TRACEBACK, "".join(traceback.format_exception(error))[-700:]
    try:
        answer.write_text(json.dumps([end, account]), encoding="utf-8")
    finally:
        os._exit(0)


def _wait_for_exit(pid: int, patience: float) -> int | None:
    """Wait for a process; None, and an end to it and all that it began, if it takes too long."""
    end = time.monotonic() + patience
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


# --- what is typed


@dataclass(frozen=True)
class CommandResult:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str


def command(*argv: object, before: Callable[[], object] = lambda: None) -> CommandResult:
    """Type a command in a child that was forked from this process."""
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


def environment(**changes: str | None) -> dict[str, str]:
    """Give an environment in which a process started afresh finds the program."""
    variables = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    for name in LEFT_BY_TORCH:  # this process has loaded it, and a user's has not
        variables.pop(name, None)
    for name, value in changes.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    return variables


def shell(
    *argv: object, python: Sequence[str] = (), env: Any = None, **options: Any
) -> CommandResult:
    """Type a command in a process started afresh."""
    arguments = [sys.executable, *python, "-m", "napari_dip", *map(str, argv)]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, **options}
    done = subprocess.run(arguments, env=environment() if env is None else env, **options)
    texts = [
        (text or b"").decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr)
    ]
    return CommandResult(done.returncode, *texts)


def script(
    code: str, *, python: Sequence[str] = (), env: Any = None, **options: Any
) -> CommandResult:
    """Run a program of a user's own in a process started afresh."""
    argv = [sys.executable, *python, "-c", code]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, **options}
    done = subprocess.run(argv, env=environment() if env is None else env, **options)
    texts = [
        (text or b"").decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr)
    ]
    return CommandResult(done.returncode, *texts)


# --- what a person looks at


def check(right: object, account: str, end: Outcome = Outcome.SILENT) -> None:
    """Take a fact as a wrong end unless it holds."""
    if not right:
        raise UnexpectedOutcome(end, account)


def check_command_refused(command_result: CommandResult, *patterns: str, code: int = 2) -> None:
    """Check that a command was refused, in sentences that hold these patterns."""
    ending = f"exit {command_result.code}: {command_result.err}{command_result.out}"[-600:]
    check(command_result.code != 0, f"went on: {ending}")
    foreseen = command_result.code >= 0 and not UNFORESEEN.search(command_result.err)
    check(foreseen, ending, Outcome.TRACEBACK)
    check(command_result.code == code, ending, Outcome.UNCLEAR)
    check(not command_result.out, f"on the output stream: {ending}", Outcome.UNCLEAR)
    for pattern in patterns:
        check(
            re.search(pattern, command_result.err, re.IGNORECASE),
            f"no '{pattern}' in: {ending}",
            Outcome.UNCLEAR,
        )
    jargon = JARGON.search(command_result.err)
    check(not jargon, f"'{jargon and jargon[0]}' in: {ending}", Outcome.UNCLEAR)
    sentences = re.findall(r"[.!?](?:\s|$)", command_result.err)
    check(len(sentences) >= 2, f"not two sentences: {ending}", Outcome.UNCLEAR)
    is_printable = all(letter.isprintable() or letter in "\n\r" for letter in command_result.err)
    check(is_printable, f"control characters: {ending!r}", Outcome.UNCLEAR)


def check_completed(command_result: CommandResult, *patterns: str) -> CommandResult:
    """Check that a command did its work, and said what it should."""
    ending = f"exit {command_result.code}: {command_result.err}{command_result.out}"[-600:]
    check(
        not UNFORESEEN.search(command_result.err) and command_result.code >= 0,
        ending,
        Outcome.TRACEBACK,
    )
    check(command_result.code == 0, ending, Outcome.UNCLEAR)
    for pattern in patterns:
        check(
            re.search(pattern, command_result.err + command_result.out, re.IGNORECASE),
            f"'{pattern}' unsaid: {ending}",
        )
    return command_result


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
        check(no.reason.sentence.strip() and no.reason.remedy.strip(), "no words", Outcome.UNCLEAR)
        return
    except dip.FailedError as failure:
        raise UnexpectedOutcome(Outcome.UNCLEAR, f"failed, not refused: {failure}") from None
    raise UnexpectedOutcome(Outcome.SILENT, f"an answer: {answer!r}"[:300])


def check_restored(call: Callable[[], Any]) -> Any:
    """Check that a call in Python is answered, with finite pixels."""
    try:
        answer = call()
    except (dip.RefusedError, dip.FailedError) as no:
        raise UnexpectedOutcome(Outcome.UNCLEAR, f"{type(no).__name__}: {no}") from None
    for name in ("image", "uncertainty", "residual"):
        check(np.isfinite(getattr(answer, name)).all(), f"{name} is not finite")
    return answer


def read_folder(folder: Path) -> dict[str, tuple[str, bytes, int]]:
    """Read all that lies in a folder: kind, bytes or target, and permissions."""
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
    """Check that all files are as they were; beside them only those named are new."""
    after = read_folder(folder)
    gone = [name for name in before if name not in after and name not in new]
    check(not gone, f"gone: {gone}", Outcome.LOST)
    changed = [name for name in before if name not in new and after[name] != before[name]]
    check(not changed, f"changed: {changed}", Outcome.LOST)
    extra = [name for name in after if name not in before and not name.startswith(new or ("\0",))]
    check(not (strict and extra), f"left behind: {extra}")


def make_picture(*shape: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Draw steps and a bright bar under little noise: no flip or shift of it looks alike."""
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
    """Save a picture as TIFF."""
    array = make_picture() if array is None else array
    if array.ndim > 1:
        options.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, array, **options)
    return Path(path)


def check_same_pixels(actual: Any, wanted: Any, what: str = "pixels", most: float = 0.0) -> None:
    """Check that two arrays agree in shape and values."""
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    check(actual.shape == wanted.shape, f"{what}: shape {actual.shape}, not {wanted.shape}")
    off = np.abs(actual.astype(np.float64) - wanted.astype(np.float64)).max()
    check(off <= most, f"{what} are off by {off:.6g}, {most:.6g} is allowed")


def save_hole_mask(folder: Path, height: int = 32, width: int = 32) -> Path:
    """Save a mask with a small hole in the middle."""
    return save_tiff(folder / "hole.tif", make_hole_mask(height, width))


def make_hole_mask(height: int = 32, width: int = 32) -> np.ndarray:
    """Draw a mask with a small hole in the middle."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 : height // 2 + 2, width // 2 : width // 2 + 2] = 1
    return mask


def check_unmasked_pixels(
    path: Path, wanted: np.ndarray, *options: str, most: float = 0.0
) -> CommandResult:
    """Fill a small hole: all other pixels of the result are those that were read from the file."""
    grid = wanted.shape[-3:-1] if wanted.shape[-1] == 3 else wanted.shape[-2:]
    folder = path.resolve().parent
    mask, out = save_hole_mask(folder, *grid), folder / "filled.tif"
    command_result = check_completed(
        command("inpaint", path, "--mask", mask, "-o", out, *QUICK, *options)
    )
    image = tifffile.imread(out)
    unmasked = make_hole_mask(*grid) == 0
    if wanted.shape[-1] == 3:
        unmasked = unmasked[..., None] * np.ones(3, bool)
    check(
        image.shape == wanted.shape,
        f"shape {image.shape}, not {wanted.shape}: {command_result.err}",
    )
    unmasked = np.broadcast_to(unmasked, image.shape)
    check_same_pixels(image[unmasked], wanted[unmasked].astype(np.float32), "measured pixels", most)
    return command_result
