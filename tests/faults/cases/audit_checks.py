"""What a command opens, connects to and writes into pages, watched from outside."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import psutil

from faults.cases import (
    QUICK,
    CommandResult,
    Outcome,
    check,
    check_completed,
    make_env,
    make_image,
    run_cli,
    save_hole_mask,
    save_tiff,
)
from faults.cases.security_checks import RECIPE

if TYPE_CHECKING:
    from pathlib import Path

    pass


AUDIT_SCRIPT = """
import os, sys
folder, notes = os.environ["FOLDER"], []
# the doctor asks torch in a process of its own, platform asks uname, matplotlib lists the fonts
OWN = ("import json, torch", "'uname'", "'fc-list'")
def watch(event, args):
    if event.startswith(("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto",
                         "urllib", "http.client", "smtplib", "ftplib", "webbrowser")):
        notes.append(f"{event} {args}")
    elif event == "socket.__new__" and args[1] not in (0, 1):
        notes.append(f"{event} {args}")
    elif event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn",
                   "subprocess.Popen", "ctypes.dlopen_"):
        if not any(word in str(args) for word in OWN):
            notes.append(f"{event} {args}"[:300])
    elif event == "open" and isinstance(args[0], str) and isinstance(args[2], int):
        if args[2] & (os.O_WRONLY | os.O_RDWR) and not args[0].startswith("/dev/"):
            path = os.path.realpath(args[0])
            if not path.startswith(folder + os.sep):
                notes.append(f"open {path} to write")
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.chmod"):
        path = os.path.realpath(os.fspath(args[0])) if not isinstance(args[0], int) else folder
        if not (path + os.sep).startswith(folder + os.sep):
            notes.append(f"{event} {path}")
sys.addaudithook(watch)
from napari_dip.cli.app import main
code = main(sys.argv[1:])
with open(os.path.join(folder, "notes"), "w") as file:
    file.write("\\n".join(dict.fromkeys(notes)))
sys.exit(code)
"""


def check_audit_events(argv: tuple[str, ...], folder: Path) -> None:
    """Watch a command by Python's audit: no connection, no program, no writing elsewhere."""
    save_tiff(folder / "in.tif")
    save_tiff(folder / "guide.tif", make_image(seed=4))
    save_hole_mask(folder)
    (folder / "r.json").write_text(RECIPE, "utf-8")
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    env = make_env(
        FOLDER=str(folder),
        HOME=str(folder / "home"),
        TMPDIR=str(folder / "tmp"),
        PYTHONDONTWRITEBYTECODE="1",
        XDG_CACHE_HOME=None,
        XDG_CONFIG_HOME=None,
    )
    proc = subprocess.run(
        [sys.executable, "-c", AUDIT_SCRIPT, *argv], env=env, capture_output=True, text=True
    )
    check_completed(CommandResult(proc.returncode, proc.stdout, proc.stderr))
    notes = (folder / "notes").read_text("utf-8")
    check(not notes, notes[:600])
    leftovers = [path.name for path in (folder / "tmp").iterdir()]
    check(not leftovers, f"left in the folder for temporary files: {leftovers}")


def check_listening_addresses(folder: Path) -> None:
    """Look at what a batch with workers listens on: this computer alone."""
    for number in range(2):
        save_tiff(folder / f"{number}.tif", make_image(seed=number))
    (folder / "r.json").write_text(RECIPE.replace("2}", "200}"), "utf-8")
    argv = [
        sys.executable,
        "-m",
        "napari_dip",
        "batch",
        "r.json",
        "0.tif",
        "1.tif",
        "-o",
        "results",
    ]
    child = subprocess.Popen([*argv, "--workers", "2", "--quiet"], env=make_env(), cwd=folder)
    addresses: set[str] = set()
    while child.poll() is None:
        for process in (psutil.Process(child.pid), *psutil.Process(child.pid).children(True)):
            try:
                addresses |= {
                    connection.laddr.ip
                    for connection in process.net_connections("inet")
                    if connection.status == "LISTEN"
                }
            except psutil.Error:
                continue
        time.sleep(0.05)
    check(child.returncode == 0, f"exit {child.returncode}")
    check(addresses, "nothing was seen to listen")
    check(addresses <= {"127.0.0.1", "::1"}, f"listens on {addresses}")


# --- pages and tables


class LinkCollector(HTMLParser):
    """Looks for what a page could carry out or load."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link", "form", "base", "meta-refresh"):
            self.links.append(tag)
        for name, value in attrs:
            address = name in ("src", "href", "action", "data", "srcset")
            if name.startswith("on") or (address and _is_external(value or "")):
                self.links.append(f"{tag} {name}={(value or '')[:60]}")


def _is_external(address: str) -> bool:
    return address.strip().lower().startswith(("http:", "https:", "//", "javascript:", "file:"))


def check_html_pages(argv: tuple[str, ...], name: str, folder: Path) -> None:
    """Make a page about a file of a hostile name: nothing in it is carried out or loaded."""
    (folder / "a").mkdir()
    save_tiff(folder / "plain.tif").rename(folder / "a" / name)
    (folder / "r.json").write_text(RECIPE, "utf-8")
    arguments = [str(folder / "a" / name) if word == "IN" else word for word in argv]
    check_completed(run_cli(*arguments))
    for path in folder.rglob("*.html"):
        page = LinkCollector()
        text = path.read_text("utf-8")
        page.feed(text)
        check(not page.links, f"{path.name}: {page.links}")
        for word in ("url(http", "@import"):
            check(word not in text, f"{path.name}: {word}")
    check(list(folder.rglob("*.html")), "no page")


def check_csv_formulas(name: str, folder: Path) -> None:
    """Have a file whose name is a formula: no cell of a table begins as one."""
    (folder / "a").mkdir()
    save_tiff(folder / "plain.tif").rename(folder / "a" / name)
    (folder / "r.json").write_text(RECIPE, "utf-8")
    check_completed(run_cli("batch", "r.json", folder / "a", "-o", "results"))
    for path in folder.rglob("*.csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                starts = cell[:1] in tuple("=+-@\t\r") and not _is_number(cell)
                check(not starts, f"{path.name}: {cell!r}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_no_private_names(folder: Path) -> None:
    """Look for what a result gives away: no folder, user or computer is named in it."""
    import getpass
    import socket

    (folder / "private-place").mkdir()
    save_tiff(folder / "private-place" / "in.tif")
    for out in ("o.tif", "o.ome.tif", "o.ome.zarr"):
        check_completed(run_cli("denoise", folder / "private-place" / "in.tif", "-o", out, *QUICK))
    texts = [path.read_bytes() for path in folder.glob("o.*") if path.is_file()]
    texts += [path.read_bytes() for path in (folder / "o.ome.zarr").rglob("*.json")]
    private_words = {"private-place", socket.gethostname(), str(folder)}
    if getpass.getuser() != "root":
        private_words.add(getpass.getuser())
    leaks = {
        word for word in private_words for text in texts if len(word) > 3 and word.encode() in text
    }
    check(not leaks, f"results name {leaks}")


def check_log_permissions(folder: Path) -> None:
    """Let something unforeseen happen: its log is for its user alone."""
    save_tiff(folder / "in.tif")
    (folder / "tmp").mkdir()

    def spoil() -> None:
        import tempfile

        os.umask(0)
        tempfile.tempdir = str(folder / "tmp")
        import napari_dip.cli.restore as module

        def fail(*rest: object, **more: object) -> None:
            raise ZeroDivisionError("mine")

        module.run = fail  # type: ignore[attr-defined]

    run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK, before=spoil)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder / "tmp").iterdir()}
    check(modes and all(mode == 0o600 for mode in modes.values()), f"permissions: {modes}")


def check_rescued_file(folder: Path) -> None:
    """Remove input and result in a run that is then ended: its image in /tmp is nobody else's."""
    (folder / "work").mkdir()
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    save_tiff(folder / "work" / "in.tif")
    env = make_env(HOME="/nonexistent/home", TMPDIR=str(folder / "tmp"))
    argv = [sys.executable, "-m", "napari_dip", "denoise", "work/in.tif", "-o", "work/out.tif"]
    argv += ["--preset", "fast", "--max-iterations", "3000"]
    with (folder / "said").open("wb") as log:
        child = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
    end = time.monotonic() + 60
    while b"Restoring" not in (folder / "said").read_bytes() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.5)
    shutil.rmtree(folder / "work")
    child.send_signal(signal.SIGINT)
    child.wait(60)
    output = (folder / "said").read_text("utf-8")
    kept = [path for path in (folder / "tmp").rglob("*") if path.is_file()]
    check(kept, f"nothing was kept: {output}"[-400:], Outcome.LOST)
    inside = {path.name: oct(path.stat().st_mode & 0o777) for path in kept}
    shut = all(path.stat().st_mode & 0o077 == 0 for path in kept)
    check(shut or all(path.parent != folder / "tmp" for path in kept), f"permissions: {inside}")
