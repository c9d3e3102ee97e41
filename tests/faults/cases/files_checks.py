"""Files as people have them: how they are laid out, and what must be left."""

from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from faults.cases import (
    QUICK,
    Outcome,
    check,
    check_command_refused,
    check_completed,
    check_files_unchanged,
    check_same_pixels,
    check_unmasked_pixels,
    make_image,
    read_folder,
    run_cli,
    save_hole_mask,
    save_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Callable


#: Who may do nothing in folders of others; to root nothing is forbidden.
NOBODY = 65534


def check_denoising(
    folder: Path, *options: object, name: str = "in.tif", out: str = "out.tif"
) -> None:
    """Denoise a file of that name, which must do and harm nothing."""
    before = read_folder(folder)
    check_completed(run_cli("denoise", folder / name, "-o", folder / out, *QUICK, *options))
    check_files_unchanged(folder, before, out)
    check(tifffile.imread(folder / out).ndim == 2, "no image")


# --- names


def check_input_name(name: str, folder: Path) -> None:
    save_tiff(folder / "plain.tif")
    os.rename(folder / "plain.tif", folder / name)
    check_denoising(folder, name=name)


def check_output_name(name: str, folder: Path) -> None:
    save_tiff(folder / "in.tif")
    check_denoising(folder, out=name)


def check_bare_extension(folder: Path) -> None:
    """Name a result by nothing but an ending."""
    save_tiff(folder / "in.tif")
    answer = run_cli("denoise", folder / "in.tif", "-o", folder / ".tif")
    check_command_refused(answer)
    check("name before it is missing" in answer.err, f"not said so: {answer.err}", Outcome.UNCLEAR)


def check_missing_file(name: str, folder: Path) -> None:
    """Name a file that is not there: the message shows it once, as it is."""
    check_command_refused(run_cli("denoise", folder / name, "-o", folder / "out.tif"))
    result = run_cli("denoise", folder / name, "-o", folder / "out.tif")
    check(
        name in result.err,
        f"the name is not shown as it is: {result.err}",
        Outcome.UNCLEAR,
    )


def check_non_utf8_name(folder: Path) -> None:
    """Name a file in bytes that are no UTF-8, as old archives have them."""
    save_tiff(folder / "plain.tif")
    os.rename(folder / "plain.tif", os.fsencode(folder) + b"/m\xfcller.tif")
    (name,) = os.listdir(folder)
    report = ("--report", str(folder / "r.json"))
    check_completed(run_cli("denoise", folder / name, "-o", folder / "out.tif", *QUICK, *report))
    check((folder / "r.json").exists() and (folder / "out.tif").exists(), "results are missing")
    check_completed(run_cli("methods", folder / "out.tif"))


def check_equivalent_names(make: Callable[[str], str], folder: Path) -> None:
    """Let two inputs of a batch have names that some disks take for one."""
    (folder / "a").mkdir()
    first = unicodedata.normalize("NFC", "café.tif")
    save_tiff(folder / "a" / first, make_image(seed=1))
    save_tiff(folder / "a" / make(first), make_image(seed=2))
    before = read_folder(folder)
    check_command_refused(run_batch(folder, "a"), "rename|folder")
    check_files_unchanged(folder, before)


def run_batch(folder: Path, *inputs: object, out: str = "results", options: tuple[str, ...] = ()):
    """Run a batch of that folder's files."""
    recipe = folder.parent / "recipe.json"
    recipe.write_text(
        '{"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 2}', "utf-8"
    )
    argv = [str(folder / path) if isinstance(path, str) else str(path) for path in inputs]
    return run_cli("batch", recipe, *argv, "-o", folder / out, *options)


def check_equivalent_outputs(first: str, second: str, folder: Path) -> None:
    """Let two results have names that Unicode takes for one; on this disk they are two."""
    save_tiff(folder / "in.tif")
    names = ("-o", folder / first, "--uncertainty", folder / second)
    result = run_cli("denoise", folder / "in.tif", *names, *QUICK)
    if result.code == 2:
        return
    check_completed(result)
    check(
        (folder / first).exists() and (folder / second).exists(), "one of two is gone", Outcome.LOST
    )


def check_long_name(folder: Path) -> None:
    name = "a" * 251 + ".tif"
    save_tiff(folder / "plain.tif")
    os.rename(folder / "plain.tif", folder / name)
    check_denoising(folder, name=name)


def check_long_name_in_batch(folder: Path) -> None:
    """Let a batch meet a name of 255 bytes: restored or refused, and the other is done."""
    (folder / "a").mkdir()
    save_tiff(folder / "a" / "b.tif")
    os.link(folder / "a" / "b.tif", folder / "a" / ("x" * 251 + ".tif"))
    before = read_folder(folder / "a")
    result = run_batch(folder, "a")
    check(
        "unexpected" not in result.err and result.code in (0, 1),
        f"{result}"[:600],
        Outcome.TRACEBACK,
    )
    check((folder / "results" / "b.tif").exists(), f"the other was not done: {result.err}")
    done = (folder / "results" / ("x" * 251 + ".tif")).exists()
    check(done or "xxx" in result.err, f"nothing said of the long name: {result.err}")
    check_files_unchanged(folder / "a", before)


def check_long_report_name(folder: Path) -> None:
    """Name a report in 255 bytes, which leaves no room for a working name made of it."""
    save_tiff(folder / "in.tif")
    name = "r" * 250 + ".json"
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", "--report", name, *QUICK))
    check((folder / name).exists(), "no report")


def check_deep_path(folder: Path) -> None:
    """Go so deep that an absolute path is longer than the system takes."""
    place = os.fspath(folder)
    for _ in range(20):
        os.mkdir("d" * 220)
        os.chdir("d" * 220)
        place += "/" + "d" * 220
    with open("in.tif", "wb") as file:
        file.write(save_tiff(folder.parent / "in.tif").read_bytes())
    result = run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK)
    if result.code:
        check_command_refused(result, "long|deep|path")
    else:
        check(os.path.exists("out.tif"), "no result")


def check_glob_characters(folder: Path) -> None:
    """Name a file of a batch whose name looks like a pattern that fits another."""
    save_tiff(folder / "cell[1].tif", make_image(seed=1))
    save_tiff(folder / "cell1.tif", make_image(seed=2))
    check_completed(run_batch(folder, "cell[1].tif"))
    results = sorted(path.name for path in (folder / "results").glob("*.tif"))
    check(results == ["cell[1].tif"], f"restored were: {results}")


# --- places and permissions


def make_unprivileged(folder: Path, *locked: Path) -> Callable[[], None]:
    """Become a user to whom the folder belongs, all but what is locked."""
    # loaded before, since Python may lie where that user may not read
    import napari_dip.cli.commands
    import napari_dip.cli.restore  # noqa: F401

    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for path in locked:
        os.chown(path, 0, 0)
    for above in (folder.parent, folder):
        above.chmod(0o755)

    def become() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    return become


def check_read_only_folder(folder: Path) -> None:
    save_tiff(folder / "in.tif")
    (folder / "shut").mkdir()
    become = make_unprivileged(folder, folder / "shut")
    before = read_folder(folder)
    out = folder / "shut" / "out.tif"
    check_command_refused(
        run_cli("denoise", "in.tif", "-o", out, *QUICK, before=become), "shut", "permission"
    )
    check_files_unchanged(folder, before)


def check_unreadable_file(folder: Path) -> None:
    save_tiff(folder / "in.tif").chmod(0o600)
    become = make_unprivileged(folder, folder / "in.tif")
    check_command_refused(
        run_cli("denoise", "in.tif", "-o", "out.tif", before=become), "in.tif", "permission"
    )


def check_unreadable_folder(folder: Path) -> None:
    (folder / "shut").mkdir(mode=0o700)
    save_tiff(folder / "shut" / "in.tif")
    become = make_unprivileged(folder, folder / "shut")
    (folder / "shut").chmod(0o700)
    result = run_cli("denoise", "shut/in.tif", "-o", "out.tif", before=become)
    check_command_refused(result, "shut/in.tif", "permission")


def check_unreadable_subfolder(folder: Path) -> None:
    (folder / "shut").mkdir(mode=0o700)
    save_tiff(folder / "shut" / "in.tif")
    become = make_unprivileged(folder, folder / "shut")
    (folder / "shut").chmod(0o700)
    (folder.parent / "recipe.json").write_text('{"schema": 1, "task": "denoise"}', "utf-8")
    recipe = folder.parent / "recipe.json"
    check_command_refused(
        run_cli("batch", recipe, "shut", "-o", "results", before=become), "shut", "permission"
    )


def check_foreign_output(folder: Path) -> None:
    """Overwrite a read-only file of somebody else in one's own folder: only if that is refused."""
    save_tiff(folder / "in.tif")
    (folder / "out.tif").write_bytes(b"theirs")
    become = make_unprivileged(folder, folder / "out.tif")
    (folder / "out.tif").chmod(0o444)
    before = read_folder(folder)
    result = run_cli("denoise", "in.tif", "-o", "out.tif", "--overwrite", *QUICK, before=become)
    check_command_refused(result, "out.tif|may not be changed")
    check_files_unchanged(folder, before)


def check_read_only_output(folder: Path) -> None:
    """Overwrite a file that is marked read-only by its owner."""
    save_tiff(folder / "in.tif")
    (folder / "out.tif").write_bytes(b"mine")
    become = make_unprivileged(folder)
    (folder / "out.tif").chmod(0o444)
    before = read_folder(folder)
    result = run_cli("denoise", "in.tif", "-o", "out.tif", "--overwrite", *QUICK, before=become)
    check_command_refused(result, "out.tif|may not be changed")
    check_files_unchanged(folder, before)


def check_report_folder(folder: Path) -> None:
    """Let the place of the report be shut: known before any work."""
    save_tiff(folder / "in.tif")
    (folder / "shut").mkdir()
    become = make_unprivileged(folder, folder / "shut")
    before = read_folder(folder)
    argv = ("denoise", "in.tif", "-o", "out.tif", "--report", "shut/r.json", *QUICK)
    check_command_refused(run_cli(*argv, before=become), "shut", "permission")
    check_files_unchanged(folder, before)


def check_kept_permissions(folder: Path) -> None:
    """Overwrite a file that only its owner may read: the result is not for all."""
    save_tiff(folder / "in.tif")
    (folder / "out.tif").write_bytes(b"mine")
    (folder / "out.tif").chmod(0o600)
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", "--overwrite", *QUICK))
    mode = (folder / "out.tif").stat().st_mode & 0o777
    check(mode == 0o600, f"permissions are {mode:o}")


def check_hard_linked_output(folder: Path) -> None:
    """Overwrite one of two names of a file: the other keeps its bytes."""
    save_tiff(folder / "in.tif")
    (folder / "archive.tif").write_bytes(b"mine")
    os.link(folder / "archive.tif", folder / "out.tif")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", "--overwrite", *QUICK))
    check((folder / "archive.tif").read_bytes() == b"mine", "the other name changed", Outcome.LOST)


def check_special_file(make: Callable[[Path], object], role: str, folder: Path) -> None:
    """Put something that is no file where one should be."""
    save_tiff(folder / "in.tif")
    target = folder / ("thing.json" if role in ("--report", "--from-recipe") else "thing.tif")
    make(target)
    before = read_folder(folder)
    if role == "-o":
        result = run_cli("denoise", "in.tif", "-o", target, "--overwrite", *QUICK)
    elif role == "in":
        result = run_cli("denoise", target, "-o", "out.tif", *QUICK)
    elif role == "batch":
        result = run_batch(folder, target.name)
    elif role == "--mask":
        result = run_cli("inpaint", "in.tif", "--mask", target, "-o", "out.tif", *QUICK)
    else:
        result = run_cli("denoise", "in.tif", "-o", "out.tif", role, target, "--overwrite", *QUICK)
    check_command_refused(result, target.name)
    check_files_unchanged(folder, before)


def make_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(os.fspath(path.relative_to(Path.cwd())))


def make_link_loop(path: Path) -> None:
    path.symlink_to("loop-b")
    path.with_name("loop-b").symlink_to(path.name)


def make_folder_link(path: Path) -> None:
    path.with_name("real").mkdir()
    path.symlink_to("real")


def check_linked_input_folder(folder: Path) -> None:
    """Reach the input's folder by a link: the result still would replace the input."""
    save_tiff(folder / "in.tif")
    (folder / "way").symlink_to(".")
    before = read_folder(folder)
    result = run_cli("denoise", "in.tif", "-o", "way/in.tif", "--overwrite", *QUICK)
    check_command_refused(result, "own input", "in.tif")
    check_files_unchanged(folder, before)


def check_colliding_outputs(names: tuple[str, str], folder: Path) -> None:
    """Let two results lead to one file by different ways."""
    save_tiff(folder / "in.tif")
    (folder / "way").symlink_to(".")
    (folder / "sub").mkdir()
    before = read_folder(folder)
    result = run_cli("denoise", "in.tif", "-o", names[0], "--residual", names[1], *QUICK)
    check_command_refused(result, "two results|would go to")
    check_files_unchanged(folder, before)


def check_extra_input_as_output(option: str, folder: Path) -> None:
    """Let a result replace the mask."""
    save_tiff(folder / "in.tif")
    save_hole_mask(folder)
    before = read_folder(folder)
    named = {"-o": "out.tif", option: "hole.tif"}
    argv = [word for pair in named.items() for word in pair]
    result = run_cli("inpaint", "in.tif", "--mask", "hole.tif", *argv, "--overwrite", *QUICK)
    check_command_refused(result, "own input", "hole.tif")
    check_files_unchanged(folder, before)


def check_psf_as_output(folder: Path) -> None:
    save_tiff(folder / "in.tif")
    save_tiff(folder / "psf.tif", np.ones((3, 3), "float32"))
    before = read_folder(folder)
    argv = ("--psf", "psf.tif", "-o", "psf.tif", "--overwrite")
    check_command_refused(run_cli("deblur", "in.tif", *argv, *QUICK), "own input", "psf.tif")
    check_files_unchanged(folder, before)


def check_mask_equal_to_image(folder: Path) -> None:
    save_tiff(folder / "in.tif")
    result = run_cli("inpaint", "in.tif", "--mask", "in.tif", "-o", "out.tif", *QUICK)
    check_command_refused(result, "mask", "all")


def check_guide_equal_to_image(folder: Path) -> None:
    """Guide an image by itself, whose noise it would foretell: the noise is not copied."""
    save_tiff(folder / "in.tif")
    options = ("--preset", "fast", "--max-iterations", "150")
    result = run_cli("guide", "in.tif", "--guide", "in.tif", "-o", "out.tif", *options)
    if result.code == 2:
        return check_command_refused(result, "guide")
    check_completed(result)
    off = np.std(tifffile.imread("out.tif") - make_image())
    return check(off > 5, f"noise of 12 was copied but for {off:.1f}")


def check_file_listed_twice(folder: Path) -> None:
    """Name one file twice, by two ways: it is restored once."""
    save_tiff(folder / "in.tif")
    (folder / "way").symlink_to(".")
    check_completed(run_batch(folder, "in.tif", "way/in.tif", "./in.tif"))
    results = sorted(path.name for path in (folder / "results").glob("*.tif"))
    check(results == ["in.tif"], f"restored were: {results}")


def check_hidden_files(folder: Path) -> None:
    """Meet what macOS and Windows leave in folders of images."""
    (folder / "a").mkdir()
    save_tiff(folder / "a" / "b.tif")
    (folder / "a" / "._b.tif").write_bytes(b"\0\x05\x16\x07")
    (folder / "a" / "Thumbs.db").write_bytes(b"x")
    before = read_folder(folder / "a")
    check_completed(run_batch(folder, "a"), "left out")
    results = sorted(path.name for path in (folder / "results").glob("*.tif"))
    check(results == ["b.tif"], f"restored were: {results}")
    check_files_unchanged(folder / "a", before)


def check_empty_file_in_batch(folder: Path) -> None:
    (folder / "a").mkdir()
    for number in (1, 3):
        save_tiff(folder / "a" / f"{number}.tif", make_image(seed=number))
    (folder / "a" / "2.tif").write_bytes(b"")
    result = run_batch(folder, "a")
    check(result.code == 1, f"exit {result.code}: {result.err}")
    check("2.tif" in result.err, f"unnamed: {result.err}", Outcome.UNCLEAR)
    results = sorted(path.name for path in (folder / "results").glob("*.tif"))
    check(results == ["1.tif", "3.tif"], f"restored were: {results}")


def check_results_below_inputs(folder: Path) -> None:
    """Run a batch twice whose results lie below its inputs, by a pattern for any folder."""
    (folder / "a").mkdir()
    save_tiff(folder / "a" / "b.tif")
    check_completed(run_batch(folder, "a/**/*.tif", out="a/results"))
    before = read_folder(folder / "a")
    result = run_batch(folder, "a/**/*.tif", out="a/results")
    check_command_refused(result, "already exists", "--resume")
    check_files_unchanged(folder / "a", before)


def check_results_as_inputs(folder: Path) -> None:
    """Let a later batch's pattern match the results of an earlier one: noticed by its names."""
    (folder / "a").mkdir()
    save_tiff(folder / "a" / "b.tif")
    check_completed(run_batch(folder, "a/b.tif", out="a/results"))
    check_command_refused(
        run_batch(folder, "a/**/*.tif", out="a/again"), "b.tif", "rename|own folder"
    )


def check_changed_input(folder: Path) -> None:
    """Change an input after a batch: going on makes its result anew."""
    save_tiff(folder / "in.tif", make_image(seed=1))
    check_completed(run_batch(folder, "in.tif"))
    first = (folder / "results" / "in.tif").read_bytes()
    save_tiff(folder / "in.tif", make_image(seed=2))
    check_completed(run_batch(folder, "in.tif", options=("--resume",)))
    check((folder / "results" / "in.tif").read_bytes() != first, "the old result stayed")


def check_edited_result(folder: Path) -> None:
    """Edit a result by hand after a batch: going on does not replace it without a word."""
    save_tiff(folder / "in.tif")
    check_completed(run_batch(folder, "in.tif"))
    save_tiff(folder / "results" / "in.tif", make_image(seed=9))
    mine = (folder / "results" / "in.tif").read_bytes()
    result = run_batch(folder, "in.tif", options=("--resume",))
    kept = any(path.read_bytes() == mine for path in folder.rglob("*") if path.is_file())
    report = f"the edited result is gone: exit {result.code}: {result.err}"
    check(kept or "in.tif" in result.err, report[:600], Outcome.LOST)


def check_parent_of_link(folder: Path) -> None:
    """Write to a path with `..` beyond a link: the system's way, not the text's, counts."""
    save_tiff(folder / "in.tif")
    (folder / "far" / "deep").mkdir(parents=True)
    (folder / "way").symlink_to("far/deep")
    check_completed(run_cli("denoise", "in.tif", "-o", "way/../out.tif", *QUICK))
    check((folder / "far" / "out.tif").exists(), "the result lies elsewhere than the system says")
    check(not (folder / "out.tif").exists(), "written to where the text, not the link, leads")


def check_linked_input(folder: Path) -> None:
    """Read the input by a link whose own name tells another kind."""
    save_tiff(folder / "real.tif")
    (folder / "link.png").symlink_to("real.tif")
    check_unmasked_pixels(folder / "link.png", make_image())


def check_dangling_input(folder: Path) -> None:
    (folder / "in.tif").symlink_to("gone.tif")
    check_command_refused(run_cli("denoise", "in.tif", "-o", "out.tif"), "in.tif", "link|no file")


def check_input_untouched(folder: Path) -> None:
    """Read an input: neither its bytes nor the time of its change are touched."""
    path = save_tiff(folder / "in.tif")
    os.utime(path, (10**9, 10**9))
    check_denoising(folder)
    check(path.stat().st_mtime == 10**9, "the input's time was changed", Outcome.LOST)


def check_read_only_input(folder: Path) -> None:
    """Read from a file that only may be read."""
    save_tiff(folder / "in.tif").chmod(0o444)
    check_denoising(folder)


def check_foreign_file_in_zarr(folder: Path) -> None:
    """Overwrite a Zarr that holds a file of the user's as well: noticed, since it would go."""
    save_tiff(folder / "in.tif")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.ome.zarr", *QUICK))
    (folder / "out.ome.zarr" / "labels.xlsx").write_bytes(b"mine")
    result = run_cli("denoise", "in.tif", "-o", "out.ome.zarr", "--overwrite", *QUICK)
    kept = any(path.name == "labels.xlsx" for path in folder.rglob("*"))
    check(
        kept,
        f"a file of the user's in the replaced Zarr is gone: {result.err}",
        Outcome.LOST,
    )


def check_zarr_output_with_slash(folder: Path) -> None:
    save_tiff(folder / "in.tif")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.ome.zarr/", *QUICK))
    check((folder / "out.ome.zarr" / "zarr.json").exists(), "no Zarr")


def check_report_over_image(folder: Path) -> None:
    """Let the report go to what is the input of another run beside."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    check_command_refused(
        run_cli("denoise", "in.tif", "-o", "out.tif", "--report", "in.tif", "--overwrite"), "json"
    )
    check_files_unchanged(folder, before)


def check_foreign_working_files(folder: Path) -> None:
    """Have files called as our own working files are: none is taken for ours."""
    save_tiff(folder / "in.tif")
    for name in ("out.partial.tif", "out.rescued.tif", ".napari-dip-mine.earlier", "x.part"):
        (folder / name).write_bytes(b"mine")
    before = read_folder(folder)
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK))
    check_files_unchanged(folder, before, "out.tif")


def check_upper_case_suffix(folder: Path) -> None:
    save_tiff(folder / "in.TIF")
    check_denoising(folder, name="in.TIF", out="OUT.OME.TIF")
    with tifffile.TiffFile(folder / "OUT.OME.TIF") as file:
        check(file.is_ome, "no OME-TIFF")


def check_repeated_bytes(folder: Path) -> None:
    """Repeat a run: the same bytes in the result and its companions."""
    save_tiff(folder / "in.tif")
    for number in (1, 2):
        argv = ("-o", f"o{number}.tif", "--uncertainty", f"u{number}.tif", "--recipe")
        check_completed(run_cli("denoise", "in.tif", *argv, f"r{number}.json", *QUICK))
    for name in ("o{}.tif", "u{}.tif", "r{}.json"):
        first, second = ((folder / name.format(n)).read_bytes() for n in (1, 2))
        check(first == second, f"{name} differs between two runs")


def check_residual_is_difference(folder: Path) -> None:
    """Look at what lies beside: input minus residual is the image, where nothing is blurred."""
    save_tiff(folder / "in.tif")
    argv = ("-o", "o.tif", "--uncertainty", "u.tif", "--residual", "r.tif", "--report", "p.json")
    check_completed(run_cli("denoise", "in.tif", *argv, *QUICK))
    total = tifffile.imread("o.tif") + tifffile.imread("r.tif")
    check_same_pixels(total, tifffile.imread("in.tif"), "image and residual", 0.01)
    check((tifffile.imread("u.tif") >= 0).all(), "an uncertainty is negative")
