"""Attacks: the files and arguments of each, and how harm is detected."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shlex
import struct
import subprocess
import sys
import sysconfig
import time
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import safetensors.numpy

from bad_inputs import chunk
from faults.attack import Bomb
from faults.cases import (
    QUICK,
    CommandResult,
    Outcome,
    check,
    check_command_refused,
    check_completed,
    check_files_unchanged,
    command,
    environment,
    make_picture,
    read_folder,
    save_tiff,
)
from faults.cases.formats_acts import raw_tiff
from faults.cases.zarr_acts import ome_zarr

if TYPE_CHECKING:
    from collections.abc import Callable


PLAIN = '{"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 2}'
#: Most letters that a message may have.
MOST_LETTERS = 4000
EVIL = "\x1b]0;mine\x07\x1b[31m\x9b2J\u202e"
SCRIPT = "<script>alert(1)<'\" onload=x &amp; .tif"


def harmless(command_result: CommandResult) -> CommandResult:
    """Check that nothing that was said commands a terminal, or floods it."""
    text = command_result.err + command_result.out
    letters = sorted(
        {letter for letter in text if not letter.isprintable() and letter not in "\n\r"}
    )
    check(not letters, f"reached the terminal: {letters}: {text!r}"[:500])
    check(len(text) < MOST_LETTERS, f"a message of {len(text)} letters", Outcome.UNCLEAR)
    return command_result


# --- terminals


def check_printed(make: Callable[[Path], list[str]], folder: Path) -> None:
    """Let a text of an attacker get into a refusal: no escape sequence reaches the terminal."""
    argv = make(folder)
    command_result = harmless(command(*argv))
    check(command_result.code == 2, f"exit {command_result.code}: {command_result.err}"[:400])


def in_zarr(change: Callable[[Any], object]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = ome_zarr(folder / "in.ome.zarr", make_picture())
        record = json.loads((path / "zarr.json").read_text("utf-8"))
        change(record["attributes"]["ome"])
        (path / "zarr.json").write_text(json.dumps(record), "utf-8")
        return ["denoise", "in.ome.zarr", "-o", "out.tif", *QUICK]

    return make


def in_recipe(change: dict[str, Any]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        record = {**json.loads(PLAIN), **change}
        (folder / "r.json").write_text(json.dumps(record), "utf-8")
        return ["denoise", "in.tif", "-o", "out.tif", "--from-recipe", "r.json"]

    return make


def make_command_line(*arguments: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        return [*arguments]

    return make


def description(text: bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif", description=text, metadata=None)
        return ["denoise", "in.tif", "-o", "out.tif", *QUICK]

    return make


def png_text(folder: Path) -> None:
    """Hide commands to the terminal in the texts of a PNG."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("Title", EVIL)
    info.add_text("\x9b2J", EVIL)
    Image.fromarray(make_picture(dtype="uint8")).save(folder / "in.png", pnginfo=info)
    harmless(check_completed(command("denoise", "in.png", "-o", "out.tif", *QUICK)))


def tiff_unit(folder: Path) -> None:
    """Hide commands in ImageJ's unit: neither shown, nor lost by a failure."""
    text = f"ImageJ=1.53\nunit={EVIL}\nspacing=nan\nfinterval=-inf\nloop=x\n"
    save_tiff(folder / "in.tif", description=text.encode("utf-8"), metadata=None, resolution=(9, 9))
    harmless(check_completed(command("denoise", "in.tif", "-o", "out.tif", *QUICK)))
    harmless(command("plan", "denoise", "in.tif"))


def doctor_shown(folder: Path) -> None:
    """Name a folder of libraries by escape sequences; the look at the computer shows none."""
    harmless(command("doctor", before=lambda: os.environ.update(HOME=f"/{EVIL}")))


# --- elsewhere


def elsewhere(make: Callable[[Path, Path], list[str]], folder: Path) -> None:
    """Lead out of the folder: nothing outside is read into a result, or touched."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "treasure").write_text("mine")
    save_tiff(outside / "other.ome.tif", np.stack([make_picture(), make_picture()]))
    ome_zarr(outside / "z.ome.zarr", make_picture())
    argv = make(folder, outside)
    before, here = read_folder(outside), read_folder(folder)
    command_result = harmless(command(*argv))
    check_files_unchanged(outside, before)
    check(command_result.code == 2, f"exit {command_result.code}: {command_result.err}"[:400])
    check_files_unchanged(folder, here)


def level(path: str) -> Callable[[Path, Path], list[str]]:
    def make(folder: Path, outside: Path) -> list[str]:
        named = path.replace("{outside}", str(outside))
        return in_zarr(lambda ome: ome["multiscales"][0]["datasets"][0].update(path=named))(folder)

    return make


def companion(name: str) -> Callable[[Path, Path], list[str]]:
    def make(folder: Path, outside: Path) -> list[str]:
        named = name.replace("{outside}", str(outside))
        planes = '<TiffData FirstT="0" IFD="0"><UUID FileName="in.ome.tif">urn:uuid:1</UUID>'
        planes += f'</TiffData><TiffData FirstT="1" IFD="0"><UUID FileName="{named}">urn:uuid:2'
        planes += "</UUID></TiffData>"
        ome = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            'UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            'Type="uint16" SizeX="32" SizeY="32" SizeC="1" SizeZ="1" SizeT="2">'
            f"{planes}</Pixels></Image></OME>"
        )
        save_tiff(folder / "in.ome.tif", description=ome.encode(), metadata=None)
        return ["denoise", "in.ome.tif", "-o", "out.tif", *QUICK]

    return make


def metadata_link(folder: Path, outside: Path) -> list[str]:
    """Let a Zarr's description be a link outside."""
    path = ome_zarr(folder / "in.ome.zarr", make_picture())
    (path / "zarr.json").unlink()
    (path / "zarr.json").symlink_to(outside / "z.ome.zarr" / "zarr.json")
    return ["denoise", "in.ome.zarr", "-o", "out.tif", *QUICK]


def array_link(folder: Path, outside: Path) -> list[str]:
    """Let the description of a Zarr's level be a link outside."""
    path = ome_zarr(folder / "in.ome.zarr", make_picture())
    (path / "0" / "zarr.json").unlink()
    (path / "0" / "zarr.json").symlink_to(outside / "z.ome.zarr" / "0" / "zarr.json")
    return ["denoise", "in.ome.zarr", "-o", "out.tif", *QUICK]


def prepared_link(name: str, folder: Path) -> None:
    """Lay a link where a batch writes something of its own: it is not written through."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(PLAIN, "utf-8")
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "treasure").write_text("mine")
    place = folder / "results" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / ("treasure" if "." in name else ""))
    before = read_folder(outside)
    for options in ((), ("--resume",)):
        command_result = command("batch", "r.json", "in.tif", "-o", "results", *options)
        harmless(command_result)
        check_files_unchanged(outside, before)
        check("Traceback" not in command_result.err, command_result.err[-400:], Outcome.TRACEBACK)
    link_stays = place.is_symlink() or place.exists()
    check(link_stays, f"the link {name} is gone", Outcome.LOST)


def dangling(option: str, name: str, folder: Path) -> None:
    """Lay a dangling link where a result goes: nothing appears at its end."""
    save_tiff(folder / "in.tif")
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / name).symlink_to(outside / name)
    arguments = ["-o", "out.tif"] if option != "-o" else []
    command_result = command("denoise", "in.tif", *arguments, option, name, *QUICK)
    check(not list(outside.iterdir()), f"written through: {list(outside.iterdir())}")
    check_command_refused(command_result, name)


def unzipped_preset(name: str, folder: Path) -> None:
    """Save settings under a name that leads elsewhere: refused in words."""
    import napari_dip as dip
    from napari_dip.pipeline.reproduce.saved_settings import SavedRecipeFolder

    shelf = SavedRecipeFolder(folder=folder / "home", task="denoise")
    (folder / "treasure.json").write_text("mine", "utf-8")
    before = read_folder(folder)
    for act in (
        lambda: shelf.save(name, dip.make_recipe("denoise")),
        lambda: shelf.load(name),
        lambda: shelf.delete(name),
    ):
        try:
            act()
        except dip.RefusedError as no:
            check(all(note.isprintable() for note in no.reason.message), repr(no.reason.message))
            continue
        raise AssertionError(f"the name {name!r} was taken")
    check_files_unchanged(folder, before)


# --- bombs


def bombed(make: Callable[[Path], list[str]], seconds: float, folder: Path) -> None:
    """Meet a file that would take much: an end within seconds, in little memory, in words."""
    import resource

    argv = make(folder)
    began = time.monotonic()

    def limit() -> None:
        here = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (here + 10**9, here + 10**9))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))

    command_result = harmless(command(*argv, before=limit))
    took = time.monotonic() - began
    check(
        command_result.code >= 0,
        f"ended by signal {-command_result.code} after {took:.0f} s",
        Outcome.HANG,
    )
    if command_result.code:
        check_command_refused(command_result)


def recipe_of(text: str | bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        (folder / "r.json").write_bytes(text.encode() if isinstance(text, str) else text)
        return ["denoise", "in.tif", "-o", "out.tif", "--from-recipe", "r.json"]

    return make


def report_of(text: Callable[[], str]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "p.json").write_text(text(), "utf-8")
        return ["methods", "p.json"]

    return make


def tiff_of(content: Callable[[], bytes]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "in.tif").write_bytes(content())
        return ["denoise", "in.tif", "-o", "out.tif", *QUICK]

    return make


def packed_strip(compression: int, packed: bytes) -> bytes:
    return raw_tiff(packed, {259: (3, compression), 279: (4, len(packed))})


def lzw_bomb() -> bytes:
    """Write a strip of LZW that says far more than the picture holds."""
    bits = "100000000" + "000000000"
    bits += "".join(f"{258 + number:09b}" for number in range(200)) * 1
    raw = int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2)
    return packed_strip(5, raw.to_bytes((len(bits) + 7) // 8, "big") * 50)


def zstd_bomb() -> bytes:
    import imagecodecs

    return packed_strip(50000, imagecodecs.zstd_encode(bytes(2**29), level=1))


def deflate_bomb() -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(1024)]
    return packed_strip(8, b"".join(parts) + packer.flush())


def many_tags() -> bytes:
    entries = b"".join(struct.pack("<HHII", number, 3, 1, 1) for number in range(300, 60000))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 59700) + entries + bytes(4)


def huge_tag() -> bytes:
    """Let one tag claim four thousand million values."""
    return raw_tiff(make_picture(dtype="uint8").tobytes(), {}).replace(
        struct.pack("<HHI", 278, 4, 1), struct.pack("<HHI", 278, 4, 2**32 - 1)
    )


def many_elements() -> bytes:
    return b'<?xml version="1.0"?><OME xmlns="x">' + b"<A/>" * 400_000 + b"</OME>"


def one_long_attribute() -> bytes:
    return b'<?xml version="1.0"?><OME xmlns="x" a="' + b"&#65;" * 2_000_000 + b'"/>'


def quadratic() -> bytes:
    """Repeat one long entity many times."""
    head = b'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "' + b"x" * 100_000 + b'">]>'
    return head + b'<OME xmlns="x">' + b"&a;" * 50_000 + b"</OME>"


def described_bomb(text: Callable[[], bytes]) -> Callable[[Path], list[str]]:
    return lambda folder: description(text())(folder)


def png_bomb(folder: Path) -> list[str]:
    """Pack a thousand times more rows into a PNG than its header says."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(600)) + packer.flush()
    header = struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)
    (folder / "in.png").write_bytes(content + chunk(b"IEND", b""))
    return ["denoise", "in.png", "-o", "out.tif", *QUICK]


def png_profile(folder: Path) -> list[str]:
    packed = zlib.compress(bytes(2**28), 9)
    header = struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in make_picture(dtype="uint8")))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"iCCP", b"a\0\0" + packed)
    (folder / "in.png").write_bytes(content + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return ["denoise", "in.png", "-o", "out.tif", *QUICK]


def zarr_many_levels(folder: Path) -> list[str]:
    def change(ome: Any) -> None:
        level = ome["multiscales"][0]["datasets"][0]
        ome["multiscales"][0]["datasets"] = [level] * 100_000

    return in_zarr(change)(folder)


def long_words(*arguments: str) -> Callable[[Path], list[str]]:
    return make_command_line(*arguments)


# --- what is carried out


def executed(make: Callable[[Path, Path], list[str]], folder: Path) -> None:
    """Hand over a program where data belong: it is not run."""
    mark = folder.parent / "executed"
    argv = make(folder, mark)
    command_result = harmless(command(*argv, before=load_trusted))
    check(not mark.exists(), "a file's program was run")
    check_command_refused(command_result)


def load_trusted() -> None:
    """Let torch be told to trust all files, as some programs need it."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"


def bomb(
    name: str, *arguments: str, wrap: Callable[[bytes], bytes] = bytes
) -> Callable[..., list[str]]:
    def make(folder: Path, mark: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        (folder / name).write_bytes(wrap(pickle.dumps(Bomb(mark))))
        return [*arguments]

    return make


def as_archive(content: bytes) -> bytes:
    import io

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3")
    return archive.getvalue()


def as_npy(content: bytes) -> bytes:
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (32, 32), }"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head) + 1) + head + b"\n" + content


def as_safetensors(content: bytes) -> bytes:
    return safetensors.numpy.save({"x": np.frombuffer(content, np.uint8)}, {"napari_dip": "x"})


def scripted(change: Callable[[dict[str, Any], dict[str, str]], object], folder: Path) -> None:
    """Copy a result's making as a script and as a command: neither runs more than that."""
    from napari_dip.pipeline.reproduce.repetition import (
        Repetition,
        format_command_line,
        write_python_script,
    )

    save_tiff(folder / "in.tif")
    check_completed(command("denoise", "in.tif", "-o", "out.tif", "--report", "p.json", *QUICK))
    report = json.loads((folder / "p.json").read_text("utf-8"))
    paths = {"image": "in.tif"}
    mark = str(folder.parent / "executed")
    changed = copy.deepcopy(report)
    change(changed, paths)
    paths = {name: path.replace("{mark}", mark) for name, path in paths.items()}
    changed = json.loads(json.dumps(changed).replace("{mark}", mark))
    try:
        run = Repetition(report=changed, paths=paths, name=paths["image"])
        script, line = write_python_script(run), format_command_line(run)
    except (ValueError, KeyError, TypeError) as error:
        check(
            "Refused" in type(error).__name__ or isinstance(error, ValueError),
            f"{error!r}",
            Outcome.TRACEBACK,
        )
        return
    except Exception as error:  # a refusal in words
        check(type(error).__name__ == "RefusedError", f"{error!r}", Outcome.TRACEBACK)
        return
    harmless_shell = f"napari-dip() {{ :; }}; {line}"
    subprocess.run(["bash", "-c", harmless_shell], capture_output=True)
    check(not Path(mark).exists(), f"the command ran more: {line}"[:500])
    stubs = "import sys, types\nclass Any_(types.ModuleType):\n    def __getattr__(self, name):\n"
    stubs += "        return lambda *a, **k: Any_('x')\n"
    stubs += "    def __getitem__(self, key):\n        return 1\n"
    stubs += "sys.modules['napari_dip'] = Any_('n'); sys.modules['tifffile'] = Any_('t')\n"
    ended = subprocess.run([sys.executable, "-c", stubs + script], capture_output=True, text=True)
    check(not Path(mark).exists(), f"the script ran more: {script}"[:600])
    broken = "SyntaxError" in ended.stderr or "NameError" in ended.stderr
    check(not broken, f"the script cannot be run: {ended.stderr[-300:]}")
    check(shlex.split(line)[0] == "napari-dip", line)


PAYLOAD = "__import__('os').mkdir('{mark}')#"


def config_beside(name: str, text: str, argv: tuple[str, ...], folder: Path) -> None:
    """Have settings of a library lie in the folder of the pictures: they are not obeyed."""
    save_tiff(folder / "in.tif")
    mark = folder.parent / "executed"
    (folder / name).write_text(text.replace("{mark}", str(mark)), "utf-8")
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n", "utf-8")
    (folder / "r.json").write_text(PLAIN, "utf-8")
    program = Path(sysconfig.get_path("scripts")) / "napari-dip"
    ended = subprocess.run([program, *argv], env=environment(), capture_output=True, text=True)
    check(not mark.exists(), "a file in the folder was carried out")
    check_completed(CommandResult(ended.returncode, ended.stdout, ended.stderr))
