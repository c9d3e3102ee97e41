"""Processes: how they are started, signalled and starved, and what is checked."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tifffile

from faults.cases import (
    QUICK,
    SOURCE,
    CommandResult,
    Outcome,
    check,
    check_command_refused,
    check_completed,
    check_files_unchanged,
    make_env,
    read_folder,
    run_cli,
    save_tiff,
    spawn_cli,
)

if TYPE_CHECKING:
    from collections.abc import Callable


#: Long enough that a signal comes before the end.
LONG = ("--preset", "fast", "--max-iterations", "3000")
DENOISE = ("denoise", "in.tif", "-o", "out.tif", *QUICK)


def check_only_result_written(result: CommandResult, folder: Path, before: Any, *new: str) -> None:
    """Check that a run ended well and left its result and nothing else."""
    check_completed(result)
    check_files_unchanged(folder, before, *(new or ("out.tif",)))
    check(tifffile.imread(folder / "out.tif").shape == (32, 32), "no image")


# --- surroundings


def check_environment(env: dict[str, str | None], python: tuple[str, ...], folder: Path) -> None:
    """Start afresh in other surroundings."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    check_only_result_written(
        spawn_cli(*DENOISE, python=python, env=make_env(**env)), folder, before
    )


def check_empty_environment(folder: Path) -> None:
    """Start with nothing in the environment but where the program lies."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    check_only_result_written(spawn_cli(*DENOISE, env={"PYTHONPATH": SOURCE}), folder, before)


def check_changed_process(change: Callable[[], object], folder: Path) -> None:
    """Change something of the process before the command begins."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    check_only_result_written(run_cli(*DENOISE, before=change), folder, before)


def check_resource_limit(what: int, limit_value: int, folder: Path) -> None:
    """Limit what the process may have: done, or said in words, and nothing harmed."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    result = run_cli(*DENOISE, before=lambda: resource.setrlimit(what, (limit_value, limit_value)))
    if result.code == 0:
        return check_only_result_written(result, folder, before)
    check(
        result.code in (1, 2),
        f"exit {result.code}: {result.err}"[-600:],
        Outcome.TRACEBACK,
    )
    check_command_refused(result, code=result.code)
    return check_files_unchanged(folder, before)


def check_file_size_limit(limit_value: int, folder: Path) -> None:
    """Let no file be larger than so many bytes: an earlier result stays, and why is said."""
    save_tiff(folder / "in.tif")
    (folder / "out.tif").write_bytes(b"mine")
    before = read_folder(folder)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_value, limit_value))

    result = run_cli(*DENOISE, "--overwrite", before=limit)
    report = f"exit {result.code}: {result.err}"[-600:]
    check(result.code in (1, 2), report)
    check_command_refused(result, "too large|large|disk|space|limit", code=result.code)
    check_files_unchanged(folder, before, "out.rescued", strict=False)


def check_memory_limit(megabytes: int, folder: Path) -> None:
    """Allow so little memory in a process started afresh: done, or said in words."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)

    def limit() -> None:
        limit_value = megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit_value, limit_value))

    result = spawn_cli(*DENOISE, preexec_fn=limit)
    if result.code == 0:
        return check_only_result_written(result, folder, before)
    check(
        result.code > 0,
        f"exit {result.code}: {result.err}"[-600:],
        Outcome.TRACEBACK,
    )
    check(
        "Traceback" not in result.err,
        f"exit {result.code}: {result.err}"[-600:],
        Outcome.TRACEBACK,
    )
    return check_files_unchanged(folder, before)


def check_temporary_folder(mode: int, folder: Path) -> None:
    """Point the folder for temporary files to one that cannot be used."""
    save_tiff(folder / "in.tif")
    (folder / "tmp").mkdir(mode=mode)
    before = read_folder(folder)
    result = spawn_cli(*DENOISE, env=make_env(TMPDIR=str(folder / "tmp")))
    check_only_result_written(result, folder, before, "out.tif", "tmp")


def check_working_folder_name(name: str, folder: Path) -> None:
    """Type the command in a folder of an odd name."""
    place = folder / name
    place.mkdir()
    save_tiff(place / "in.tif")
    before = read_folder(place)
    check_only_result_written(spawn_cli(*DENOISE, cwd=place), place, before)


def check_removed_working_folder(folder: Path) -> None:
    """Type the command in a folder that was removed."""
    save_tiff(folder / "in.tif")
    (folder / "gone").mkdir()
    argv = ("denoise", folder / "in.tif", "-o", folder / "out.tif", *QUICK)

    def leave() -> None:
        os.chdir(folder / "gone")
        (folder / "gone").rmdir()

    result = run_cli(*argv, before=leave)
    if result.code:
        return check_command_refused(result, code=result.code)
    return check((folder / "out.tif").exists(), "no result")


def check_shadowing_module(name: str, folder: Path) -> None:
    """Have a file beside the image that is called as a library: it is not taken for it."""
    save_tiff(folder / "in.tif")
    (folder / name).write_text("raise SystemExit('mine')\n", "utf-8")
    before = read_folder(folder)
    script_path = Path(sysconfig.get_path("scripts")) / "napari-dip"
    proc = subprocess.run([script_path, *DENOISE], env=make_env(), capture_output=True, text=True)
    check_only_result_written(
        CommandResult(proc.returncode, proc.stdout, proc.stderr), folder, before
    )


def check_path_into_zip(folder: Path) -> None:
    """Call from Python with an image that lies in a zip: refused, it is no path."""
    save_tiff(folder / "in.tif")
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.write(folder / "in.tif", "in.tif")
    check_command_refused(run_cli("denoise", "a.zip/in.tif", "-o", "out.tif"), "a.zip/in.tif")


def check_umask(mask: int, folder: Path) -> None:
    """Let results have the permissions that the user's mask leaves."""
    save_tiff(folder / "in.tif")
    argv = ("--report", "r.json", "--recipe", "c.json", "--uncertainty", "u.tif")
    check_completed(run_cli(*DENOISE, *argv, before=lambda: os.umask(mask)))
    for name in ("out.tif", "u.tif", "r.json", "c.json"):
        mode = stat.S_IMODE((folder / name).stat().st_mode)
        check(mode == 0o666 & ~mask, f"{name} has {mode:o}, not {0o666 & ~mask:o}")


def check_zarr_umask(folder: Path) -> None:
    save_tiff(folder / "in.tif")
    argv = ("denoise", "in.tif", "-o", "out.ome.zarr", *QUICK)
    check_completed(run_cli(*argv, before=lambda: os.umask(0o027)))
    for path in (folder / "out.ome.zarr", *(folder / "out.ome.zarr").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = 0o750 if path.is_dir() else 0o640
        check(mode == wanted, f"{path.name} has {mode:o}, not {wanted:o}")


# --- streams


def check_standard_streams(folder: Path, **popen_options: Any) -> None:
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    with open(os.devnull, "r+b") as nothing:
        popen_options = {
            name: nothing if value == "null" else value for name, value in popen_options.items()
        }
        argv = [sys.executable, "-m", "napari_dip", *DENOISE]
        proc = subprocess.run(argv, env=make_env(), timeout=80, **popen_options)
    check(proc.returncode == 0, f"exit {proc.returncode}")
    check_files_unchanged(folder, before, "out.tif")


def check_closed_stdout(folder: Path) -> None:
    """Pipe the output to somebody who leaves: the result is saved before."""
    save_tiff(folder / "in.tif")
    argv = [sys.executable, "-m", "napari_dip", *DENOISE]
    child = subprocess.Popen(argv, env=make_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    error_output = child.stderr.read().decode()
    child.wait()
    check((folder / "out.tif").exists(), "no result")
    check(
        "Traceback" not in error_output and "Exception ignored" not in error_output,
        error_output[-500:],
        Outcome.TRACEBACK,
    )


def check_closed_stderr(folder: Path) -> None:
    """Leave while messages are written: the result is saved all the same."""
    save_tiff(folder / "in.tif")
    argv = [sys.executable, "-m", "napari_dip", *DENOISE]
    child = subprocess.Popen(argv, env=make_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stderr is not None
    child.stderr.close()
    child.communicate()
    check((folder / "out.tif").exists(), f"exit {child.returncode}, and no result", Outcome.LOST)


def check_stdout_is_one_line(folder: Path) -> None:
    """Read the output stream as scripts do: the path of the result and nothing else."""
    save_tiff(folder / "in.tif")
    result = check_completed(run_cli(*DENOISE))
    check(result.out == "out.tif\n", f"output: {result.out!r}")
    quiet = check_completed(run_cli(*DENOISE, "--overwrite", "--quiet"))
    check(quiet.out == "" and quiet.err == "", f"quiet said: {quiet.out!r} {quiet.err!r}")


def check_no_escape_sequences(folder: Path) -> None:
    """Write to a file: no escape sequences and no carriage returns in it."""
    save_tiff(folder / "in.tif")
    for env in ({}, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}):
        result = check_completed(spawn_cli(*DENOISE, "--overwrite", env=make_env(**env)))
        check(
            "\x1b" not in result.err + result.out,
            f"escape sequences with {env}: {result.err!r}"[:400],
        )


# --- signals


class BackgroundRun:
    """A command started afresh, to be signalled."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        before: tuple[str, ...] = LONG[2:],
        out: str = "out.tif",
        **popen_options: Any,
    ) -> None:
        argv = [sys.executable, "-m", "napari_dip", "denoise", "in.tif", "-o", out, *LONG[:2]]
        argv += [*before, *options]
        self.log = folder.parent / f"said-{out}"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                argv,
                env=make_env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **popen_options,
            )

    def wait_for(self, text: str, timeout_s: float = 40.0) -> None:
        """Wait until it says something."""
        end = time.monotonic() + timeout_s
        while text not in self.output() and self.child.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        check(text in self.output(), f"'{text}' was never said: {self.output()}"[-400:])

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait(self, timeout_s: float = 40.0) -> int:
        try:
            return self.child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise make_hang_error(f"no end after a signal: {self.output()}"[-400:]) from None


def make_hang_error(text: str) -> Exception:
    from faults.cases import UnexpectedOutcome

    return UnexpectedOutcome(Outcome.HANG, text)


def check_signal(number: int, text: str, folder: Path) -> None:
    """Send a signal at some moment: nothing harmed, and what was there is kept or said."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    run = BackgroundRun(folder)
    run.wait_for(text)
    run.child.send_signal(number)
    code = run.wait()
    result = run.output()
    check_files_unchanged(folder, before, "out.partial", "out.tif.unfinished", strict=False)
    check(
        "Traceback" not in result,
        f"exit {code}: {result}"[-500:],
        Outcome.TRACEBACK,
    )
    if number in (signal.SIGINT, signal.SIGTERM):
        check(code in (130, 143, -number), f"exit {code}: {result}"[-400:], Outcome.UNCLEAR)
        kept = (folder / "out.partial.tif").exists()
        check(
            kept or "nothing was saved" in result or code < 0,
            f"exit {code}: {result}"[-400:],
            Outcome.LOST,
        )
    check(not (folder / "out.tif").exists(), "a result under its own name after a signal")
    parts = [path.name for path in folder.iterdir() if path.name.endswith(".part")]
    check(not parts or number == signal.SIGKILL, f"left behind: {parts}")


def check_second_interrupt(folder: Path) -> None:
    """Press Ctrl-C twice: an end at once, nothing harmed."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    run = BackgroundRun(folder)
    run.wait_for("Restoring")
    run.child.send_signal(signal.SIGINT)
    run.child.send_signal(signal.SIGINT)
    code = run.wait(20)
    check("Traceback" not in run.output(), run.output()[-500:], Outcome.TRACEBACK)
    check(code in (130, -2), f"exit {code}: {run.output()}"[-400:], Outcome.UNCLEAR)
    check_files_unchanged(folder, before, "out.partial", "out.tif.unfinished", strict=False)


def check_suspended_run(folder: Path) -> None:
    """Stop a run and let it go on, as a shell's Ctrl-Z does: it ends as if nothing was."""
    save_tiff(folder / "in.tif")
    argv = [sys.executable, "-m", "napari_dip", "denoise", "in.tif", "--preset", "fast"]
    argv += ["--max-iterations", "150", "-o"]
    plain = subprocess.run([*argv, "a.tif"], env=make_env(), capture_output=True)
    check(plain.returncode == 0, plain.stderr.decode()[-300:])
    child = subprocess.Popen([*argv, "b.tif"], env=make_env(), stderr=subprocess.DEVNULL)
    for _ in range(4):
        time.sleep(0.4)
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        child.send_signal(signal.SIGCONT)
    check(child.wait(60) == 0, f"exit {child.returncode}")
    check(Path("a.tif").read_bytes() == Path("b.tif").read_bytes(), "other bytes after a pause")


def check_kill_and_resume(folder: Path) -> None:
    """Kill a run, and go on by the same command: a whole result, nothing left."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    short = ("--max-iterations", "600", "--overwrite")
    run = BackgroundRun(folder, before=short)
    run.wait_for("Restoring")
    time.sleep(1.5)
    run.child.kill()
    run.wait()
    check(not (folder / "out.tif").exists(), "a result of a killed run")
    argv = ("denoise", "in.tif", "-o", "out.tif", "--preset", "fast", *short, "--resume")
    check_only_result_written(spawn_cli(*argv), folder, before)


def check_ignored_hangup(folder: Path) -> None:
    """Run under nohup: a hang-up does not end it."""
    save_tiff(folder / "in.tif")
    run = BackgroundRun(
        folder, "--time-limit", "2", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    run.wait_for("Restoring")
    run.child.send_signal(signal.SIGHUP)
    check(run.wait() == 0, f"exit: {run.output()}"[-400:])
    check((folder / "out.tif").exists(), "no result")


def check_time_limit(folder: Path) -> None:
    """Set a limit of time: it ends near it, with a result that says why."""
    save_tiff(folder / "in.tif")
    began = time.monotonic()
    result = check_completed(
        spawn_cli("denoise", "in.tif", "-o", "out.tif", *LONG, "--time-limit", "2")
    )
    check(time.monotonic() - began < 20, "much later than its limit")
    check(
        "time" in result.err,
        f"why it ended is not said: {result.err}",
        Outcome.UNCLEAR,
    )


def check_two_concurrent_runs(folder: Path) -> None:
    """Run two with different results in one folder: both as if alone."""
    save_tiff(folder / "in.tif")
    argv = [sys.executable, "-m", "napari_dip", "denoise", "in.tif", "--preset", "fast"]
    argv += ["--max-iterations", "60", "--quiet", "-o"]
    alone = subprocess.run([*argv, "a.tif"], env=make_env(), capture_output=True)
    check(alone.returncode == 0, alone.stderr.decode()[-300:])
    both = [subprocess.Popen([*argv, name], env=make_env()) for name in ("b.tif", "c.tif")]
    check([child.wait() for child in both] == [0, 0], "one of two failed")
    wanted = Path("a.tif").read_bytes()
    check(Path("b.tif").read_bytes() == wanted == Path("c.tif").read_bytes(), "other bytes")
    check(sorted(os.listdir()) == ["a.tif", "b.tif", "c.tif", "in.tif"], f"{os.listdir()}")


def check_eight_concurrent_runs(folder: Path) -> None:
    """Run eight at once by forks, into one folder: eight results, nothing left."""
    save_tiff(folder / "in.tif")
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            result = run_cli("denoise", "in.tif", "-o", f"o{number}.tif", *QUICK)
            os._exit(result.code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    check(codes == [0] * 8, f"exits {codes}")
    results = {path.read_bytes() for path in folder.glob("o*.tif")}
    check(len(results) == 1 and len(os.listdir()) == 9, f"{len(results)} kinds, {os.listdir()}")
