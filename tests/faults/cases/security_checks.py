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
from faults.attacks import PicklePayload
from faults.cases import (
    QUICK,
    CommandResult,
    Outcome,
    check,
    check_command_refused,
    check_completed,
    check_files_unchanged,
    make_env,
    make_image,
    read_folder,
    run_cli,
    save_tiff,
)
from faults.cases.formats_checks import make_raw_tiff
from faults.cases.zarr_checks import write_ome_zarr

if TYPE_CHECKING:
    from collections.abc import Callable


RECIPE = '{"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 2}'
#: Most letters that a message may have.
MAX_MESSAGE_LENGTH = 4000
ESCAPES = "\x1b]0;mine\x07\x1b[31m\x9b2J\u202e"
HTML_NAME = "<script>alert(1)<'\" onload=x &amp; .tif"


def check_printable(result: CommandResult) -> CommandResult:
    """Check that nothing that was said commands a terminal, or floods it."""
    text = result.err + result.out
    letters = sorted(
        {letter for letter in text if not letter.isprintable() and letter not in "\n\r"}
    )
    check(not letters, f"reached the terminal: {letters}: {text!r}"[:500])
    check(len(text) < MAX_MESSAGE_LENGTH, f"a message of {len(text)} letters", Outcome.UNCLEAR)
    return result


# --- terminals


def check_printed(make: Callable[[Path], list[str]], folder: Path) -> None:
    """Let a text of an attacker get into a refusal: no escape sequence reaches the terminal."""
    argv = make(folder)
    result = check_printable(run_cli(*argv))
    check(result.code == 2, f"exit {result.code}: {result.err}"[:400])


def change_zarr(change: Callable[[Any], object]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = write_ome_zarr(folder / "in.ome.zarr", make_image())
        record = json.loads((path / "zarr.json").read_text("utf-8"))
        change(record["attributes"]["ome"])
        (path / "zarr.json").write_text(json.dumps(record), "utf-8")
        return ["denoise", "in.ome.zarr", "-o", "out.tif", *QUICK]

    return make


def change_recipe(change: dict[str, Any]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        record = {**json.loads(RECIPE), **change}
        (folder / "r.json").write_text(json.dumps(record), "utf-8")
        return ["denoise", "in.tif", "-o", "out.tif", "--from-recipe", "r.json"]

    return make


def make_argv(*arguments: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        return [*arguments]

    return make


def set_description(text: bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif", description=text, metadata=None)
        return ["denoise", "in.tif", "-o", "out.tif", *QUICK]

    return make


def check_png_text(folder: Path) -> None:
    """Hide commands to the terminal in the texts of a PNG."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("Title", ESCAPES)
    info.add_text("\x9b2J", ESCAPES)
    Image.fromarray(make_image(dtype="uint8")).save(folder / "in.png", pnginfo=info)
    check_printable(check_completed(run_cli("denoise", "in.png", "-o", "out.tif", *QUICK)))


def check_tiff_unit(folder: Path) -> None:
    """Hide commands in ImageJ's unit: neither shown, nor lost by a failure."""
    text = f"ImageJ=1.53\nunit={ESCAPES}\nspacing=nan\nfinterval=-inf\nloop=x\n"
    save_tiff(folder / "in.tif", description=text.encode("utf-8"), metadata=None, resolution=(9, 9))
    check_printable(check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK)))
    check_printable(run_cli("plan", "denoise", "in.tif"))


def check_doctor_output(folder: Path) -> None:
    """Name a folder of libraries by escape sequences; the look at the computer shows none."""
    check_printable(run_cli("doctor", before=lambda: os.environ.update(HOME=f"/{ESCAPES}")))


# --- elsewhere


def check_path_traversal(make: Callable[[Path, Path], list[str]], folder: Path) -> None:
    """Lead out of the folder: nothing outside is read into a result, or touched."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "treasure").write_text("mine")
    save_tiff(outside / "other.ome.tif", np.stack([make_image(), make_image()]))
    write_ome_zarr(outside / "z.ome.zarr", make_image())
    argv = make(folder, outside)
    before, here = read_folder(outside), read_folder(folder)
    result = check_printable(run_cli(*argv))
    check_files_unchanged(outside, before)
    check(result.code == 2, f"exit {result.code}: {result.err}"[:400])
    check_files_unchanged(folder, here)


def set_level(path: str) -> Callable[[Path, Path], list[str]]:
    def make(folder: Path, outside: Path) -> list[str]:
        named = path.replace("{outside}", str(outside))
        return change_zarr(lambda ome: ome["multiscales"][0]["datasets"][0].update(path=named))(
            folder
        )

    return make


def set_companion(name: str) -> Callable[[Path, Path], list[str]]:
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


def link_zarr_metadata(folder: Path, outside: Path) -> list[str]:
    """Let a Zarr's description be a link outside."""
    path = write_ome_zarr(folder / "in.ome.zarr", make_image())
    (path / "zarr.json").unlink()
    (path / "zarr.json").symlink_to(outside / "z.ome.zarr" / "zarr.json")
    return ["denoise", "in.ome.zarr", "-o", "out.tif", *QUICK]


def link_array_metadata(folder: Path, outside: Path) -> list[str]:
    """Let the description of a Zarr's level be a link outside."""
    path = write_ome_zarr(folder / "in.ome.zarr", make_image())
    (path / "0" / "zarr.json").unlink()
    (path / "0" / "zarr.json").symlink_to(outside / "z.ome.zarr" / "0" / "zarr.json")
    return ["denoise", "in.ome.zarr", "-o", "out.tif", *QUICK]


def check_batch_link(name: str, folder: Path) -> None:
    """Lay a link where a batch writes something of its own: it is not written through."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(RECIPE, "utf-8")
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "treasure").write_text("mine")
    place = folder / "results" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / ("treasure" if "." in name else ""))
    before = read_folder(outside)
    for options in ((), ("--resume",)):
        result = run_cli("batch", "r.json", "in.tif", "-o", "results", *options)
        check_printable(result)
        check_files_unchanged(outside, before)
        check("Traceback" not in result.err, result.err[-400:], Outcome.TRACEBACK)
    link_stays = place.is_symlink() or place.exists()
    check(link_stays, f"the link {name} is gone", Outcome.LOST)


def check_dangling_link(option: str, name: str, folder: Path) -> None:
    """Lay a dangling link where a result goes: nothing appears at its end."""
    save_tiff(folder / "in.tif")
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / name).symlink_to(outside / name)
    arguments = ["-o", "out.tif"] if option != "-o" else []
    result = run_cli("denoise", "in.tif", *arguments, option, name, *QUICK)
    check(not list(outside.iterdir()), f"written through: {list(outside.iterdir())}")
    check_command_refused(result, name)


def check_preset_name(name: str, folder: Path) -> None:
    """Save settings under a name that leads elsewhere: refused in words."""
    import napari_dip as dip
    from napari_dip.qt.shell.preferences import SavedRecipeFolder

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


def check_bomb(make: Callable[[Path], list[str]], seconds: float, folder: Path) -> None:
    """Meet a file that would take much: an end within seconds, in little memory, in words."""
    import resource

    argv = make(folder)
    began = time.monotonic()

    def limit() -> None:
        here = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (here + 10**9, here + 10**9))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))

    result = check_printable(run_cli(*argv, before=limit))
    took = time.monotonic() - began
    check(
        result.code >= 0,
        f"ended by signal {-result.code} after {took:.0f} s",
        Outcome.HANG,
    )
    if result.code:
        check_command_refused(result)


def use_recipe(text: str | bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        (folder / "r.json").write_bytes(text.encode() if isinstance(text, str) else text)
        return ["denoise", "in.tif", "-o", "out.tif", "--from-recipe", "r.json"]

    return make


def use_report(text: Callable[[], str]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "p.json").write_text(text(), "utf-8")
        return ["methods", "p.json"]

    return make


def write_tiff(content: Callable[[], bytes]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "in.tif").write_bytes(content())
        return ["denoise", "in.tif", "-o", "out.tif", *QUICK]

    return make


def pack_strip(compression: int, packed: bytes) -> bytes:
    return make_raw_tiff(packed, {259: (3, compression), 279: (4, len(packed))})


def make_lzw_bomb() -> bytes:
    """Write a strip of LZW that says far more than the image holds."""
    bits = "100000000" + "000000000"
    bits += "".join(f"{258 + number:09b}" for number in range(200)) * 1
    raw = int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2)
    return pack_strip(5, raw.to_bytes((len(bits) + 7) // 8, "big") * 50)


def make_zstd_bomb() -> bytes:
    import imagecodecs

    return pack_strip(50000, imagecodecs.zstd_encode(bytes(2**29), level=1))


def make_deflate_bomb() -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(1024)]
    return pack_strip(8, b"".join(parts) + packer.flush())


def make_many_tags() -> bytes:
    entries = b"".join(struct.pack("<HHII", number, 3, 1, 1) for number in range(300, 60000))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 59700) + entries + bytes(4)


def make_huge_tag() -> bytes:
    """Let one tag claim four thousand million values."""
    return make_raw_tiff(make_image(dtype="uint8").tobytes(), {}).replace(
        struct.pack("<HHI", 278, 4, 1), struct.pack("<HHI", 278, 4, 2**32 - 1)
    )


def make_many_elements() -> bytes:
    return b'<?xml version="1.0"?><OME xmlns="x">' + b"<A/>" * 400_000 + b"</OME>"


def make_long_attribute() -> bytes:
    return b'<?xml version="1.0"?><OME xmlns="x" a="' + b"&#65;" * 2_000_000 + b'"/>'


def make_entity_bomb() -> bytes:
    """Repeat one long entity many times."""
    head = b'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "' + b"x" * 100_000 + b'">]>'
    return head + b'<OME xmlns="x">' + b"&a;" * 50_000 + b"</OME>"


def describe_bomb(text: Callable[[], bytes]) -> Callable[[Path], list[str]]:
    return lambda folder: set_description(text())(folder)


def write_png_bomb(folder: Path) -> list[str]:
    """Pack a thousand times more rows into a PNG than its header says."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(600)) + packer.flush()
    header = struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)
    (folder / "in.png").write_bytes(content + chunk(b"IEND", b""))
    return ["denoise", "in.png", "-o", "out.tif", *QUICK]


def write_png_profile_bomb(folder: Path) -> list[str]:
    packed = zlib.compress(bytes(2**28), 9)
    header = struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in make_image(dtype="uint8")))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"iCCP", b"a\0\0" + packed)
    (folder / "in.png").write_bytes(content + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return ["denoise", "in.png", "-o", "out.tif", *QUICK]


def write_many_levels(folder: Path) -> list[str]:
    def change(ome: Any) -> None:
        set_level = ome["multiscales"][0]["datasets"][0]
        ome["multiscales"][0]["datasets"] = [set_level] * 100_000

    return change_zarr(change)(folder)


# --- what is carried out


def check_not_executed(make: Callable[[Path, Path], list[str]], folder: Path) -> None:
    """Hand over a program where data belong: it is not run."""
    mark = folder.parent / "executed"
    argv = make(folder, mark)
    result = check_printable(run_cli(*argv, before=trust_all_files))
    check(not mark.exists(), "a file's program was run")
    check_command_refused(result)


def trust_all_files() -> None:
    """Let torch be told to trust all files, as some programs need it."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"


def use_pickle(
    name: str, *arguments: str, wrap: Callable[[bytes], bytes] = bytes
) -> Callable[..., list[str]]:
    def make(folder: Path, mark: Path) -> list[str]:
        save_tiff(folder / "in.tif")
        (folder / name).write_bytes(wrap(pickle.dumps(PicklePayload(mark))))
        return [*arguments]

    return make


def wrap_in_zip(content: bytes) -> bytes:
    import io

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3")
    return archive.getvalue()


def wrap_in_npy(content: bytes) -> bytes:
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (32, 32), }"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head) + 1) + head + b"\n" + content


def wrap_in_safetensors(content: bytes) -> bytes:
    return safetensors.numpy.save({"x": np.frombuffer(content, np.uint8)}, {"napari_dip": "x"})


def check_exported_script(
    change: Callable[[dict[str, Any], dict[str, str]], object], folder: Path
) -> None:
    """Copy a result's making as a script and as a command: neither runs more than that."""
    from napari_dip.pipeline.repetition import (
        Repetition,
        format_command_line,
        write_python_script,
    )

    save_tiff(folder / "in.tif")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", "--report", "p.json", *QUICK))
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
    stubbed_line = f"napari-dip() {{ :; }}; {line}"
    subprocess.run(["bash", "-c", stubbed_line], capture_output=True)
    check(not Path(mark).exists(), f"the command ran more: {line}"[:500])
    stubs = "import sys, types\nclass Any_(types.ModuleType):\n    def __getattr__(self, name):\n"
    stubs += "        return lambda *a, **k: Any_('x')\n"
    stubs += "    def __getitem__(self, key):\n        return 1\n"
    stubs += "sys.modules['napari_dip'] = Any_('n'); sys.modules['tifffile'] = Any_('t')\n"
    proc = subprocess.run([sys.executable, "-c", stubs + script], capture_output=True, text=True)
    check(not Path(mark).exists(), f"the script ran more: {script}"[:600])
    broken = "SyntaxError" in proc.stderr or "NameError" in proc.stderr
    check(not broken, f"the script cannot be run: {proc.stderr[-300:]}")
    check(shlex.split(line)[0] == "napari-dip", line)


PAYLOAD = "__import__('os').mkdir('{mark}')#"


def check_local_configuration(name: str, text: str, argv: tuple[str, ...], folder: Path) -> None:
    """Have settings of a library lie in the folder of the images: they are not obeyed."""
    save_tiff(folder / "in.tif")
    mark = folder.parent / "executed"
    (folder / name).write_text(text.replace("{mark}", str(mark)), "utf-8")
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n", "utf-8")
    (folder / "r.json").write_text(RECIPE, "utf-8")
    program = Path(sysconfig.get_path("scripts")) / "napari-dip"
    proc = subprocess.run([program, *argv], env=make_env(), capture_output=True, text=True)
    check(not mark.exists(), "a file in the folder was carried out")
    check_completed(CommandResult(proc.returncode, proc.stdout, proc.stderr))
