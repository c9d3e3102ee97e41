"""Attacks: names, texts and files made to be carried out, to lead elsewhere, to take too much."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from faults.cases import (
    QUICK,
    Row,
    rows_to_trials,
)
from faults.cases.security_acts import (
    EVIL,
    PAYLOAD,
    SCRIPT,
    array_link,
    as_archive,
    as_npy,
    as_safetensors,
    bomb,
    bombed,
    check_printed,
    companion,
    config_beside,
    dangling,
    deflate_bomb,
    described_bomb,
    description,
    doctor_shown,
    elsewhere,
    executed,
    huge_tag,
    in_recipe,
    in_zarr,
    level,
    long_words,
    lzw_bomb,
    make_command_line,
    many_elements,
    many_tags,
    metadata_link,
    one_long_attribute,
    png_bomb,
    png_profile,
    png_text,
    prepared_link,
    quadratic,
    recipe_of,
    report_of,
    scripted,
    tiff_of,
    tiff_unit,
    unzipped_preset,
    zarr_many_levels,
    zstd_bomb,
)
from faults.cases.watched_acts import (
    formulas,
    listening,
    log_private,
    pages,
    rescued_private,
    told_abroad,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every fortieth."""
    yield from rows_to_trials(ROWS, small=small, step=40)


NAMES = ("../up", "/etc/x", "a/b", "..", ".hidden", "con", "a\0b", "x" * 300, EVIL, "~root")
LEVELS = (
    "../outside/z.ome.zarr/0",
    "{outside}/z.ome.zarr/0",
    "a/../../outside/z.ome.zarr/0",
    "0/..",
    "..\\outside",
    "C:\\outside",
    "",
    "0\n",
    "file:///etc",
    ".//../outside/z.ome.zarr/0",
)
COMPANIONS = (
    "../outside/other.ome.tif",
    "{outside}/other.ome.tif",
    "..\\outside\\other.ome.tif",
    "file://{outside}/other.ome.tif",
    "a/../../outside/other.ome.tif",
    "http://x.y/z.ome.tif",
    "%2e%2e/outside/other.ome.tif",
    "&#46;&#46;/outside/other.ome.tif",
    "/dev/zero",
    "..",
)
MULTI = "multiscales"
PRINTED: dict[str, Callable[[Path], list[str]]] = {
    "a Zarr's version": in_zarr(lambda ome: ome.update(version=EVIL)),
    "an axis of a Zarr": in_zarr(lambda ome: ome[MULTI][0]["axes"][0].update(name=EVIL)),
    "a level of a Zarr": in_zarr(lambda ome: ome[MULTI][0]["datasets"][0].update(path=EVIL)),
    "a missing level of a Zarr": in_zarr(lambda ome: ome[MULTI][0]["datasets"][0].update(path="7")),
    "a task of a recipe": in_recipe({"task": EVIL}),
    "a preset of a recipe": in_recipe({"preset": EVIL}),
    "a device of a recipe": in_recipe({"device": EVIL}),
    "a value of a recipe": in_recipe({"settings": {"prior": EVIL}}),
    "a list in a recipe": in_recipe({"settings": {"prior": [EVIL]}}),
    "a name within a recipe's value": in_recipe({"settings": {"prior": {EVIL: 1}}}),
    "an option": make_command_line("denoise", "in.tif", "-o", "out.tif", f"--{EVIL}", "1"),
    "an option's value": make_command_line("denoise", "in.tif", "-o", "out.tif", "--prior", EVIL),
    "a command": make_command_line(EVIL),
    "a second command": make_command_line("plan", EVIL, "in.tif"),
    "axes": make_command_line("denoise", "in.tif", "-o", "out.tif", "--axes", EVIL),
    "one word too many": make_command_line("denoise", "in.tif", EVIL, "-o", "out.tif"),
    "the input": make_command_line("denoise", EVIL, "-o", "out.tif"),
    "the result's ending": make_command_line("denoise", "in.tif", "-o", f"out.{EVIL}"),
    "a mask": make_command_line("inpaint", "in.tif", "--mask", EVIL, "-o", "out.tif"),
    "a pattern of a batch": make_command_line("batch", "in.tif", f"{EVIL}*.tif", "-o", "results"),
    "the scheduler of a batch": make_command_line(
        "batch", "in.tif", "in.tif", "-o", "r", "--scheduler", EVIL
    ),
    "a layer of a network": make_command_line(
        "invert-features", "in.tif", "-o", "out.tif", "--network", "in.tif", "--layer", EVIL
    ),
    "an architecture": make_command_line(
        "invert-features", "in.tif", "-o", "out.tif", "--network", EVIL, "--layer", "x"
    ),
    "a design of an experiment": make_command_line(
        "explore", "spectrum", "in.tif", "-o", "e", "--network", EVIL
    ),
    "a file of a shared network": make_command_line(
        "denoise", "in.tif", "-o", "o.tif", "--network-file", EVIL
    ),
    "OME's FileName": description(
        b'<?xml version="1.0"?><OME xmlns="x"><UUID FileName="../&#155;2J&#8238;.tif"/></OME>'
    ),
}
BOMBS: dict[str, tuple[Callable[[Path], list[str]], float]] = {
    "recipe of a million unknown names": (
        recipe_of(
            json.dumps(
                {"schema": 1, "task": "denoise", "settings": {f"s{n}": 1 for n in range(60_000)}}
            )
        ),
        10,
    ),
    "recipe with a name of 900,000 letters": (
        recipe_of(json.dumps({"schema": 1, "task": "denoise", "settings": {"x" * 900_000: 1}})),
        10,
    ),
    "recipe with a value of 900,000 letters": (
        recipe_of(
            json.dumps({"schema": 1, "task": "denoise", "settings": {"prior": "x" * 900_000}})
        ),
        10,
    ),
    "recipe with a task of 900,000 letters": (
        recipe_of(json.dumps({"schema": 1, "task": "x" * 900_000})),
        10,
    ),
    "recipe with a number of 900,000 digits": (
        recipe_of('{"schema": 1, "task": "denoise", "seed": ' + "9" * 900_000 + "}"),
        10,
    ),
    "recipe with a real number of 900,000 digits": (
        recipe_of(
            '{"schema": 1, "task": "denoise", "settings": {"gain": 0.' + "9" * 900_000 + "}}"
        ),
        10,
    ),
    "recipe nested within a setting": (
        recipe_of(
            '{"schema": 1, "task": "denoise", "settings": {"prior": ' + "[" * 900 + "]" * 900 + "}}"
        ),
        10,
    ),
    "report nested deeply": (report_of(lambda: '{"recipe": ' + "[" * 100_000), 10),
    "report with a number of a million digits": (
        report_of(lambda: '{"seed": ' + "9" * 10**6 + "}"),
        10,
    ),
    "option's value of 100,000 letters": (
        long_words("denoise", "in.tif", "-o", "o.tif", "--prior", "x" * 100_000),
        10,
    ),
    "axes of 100,000 letters": (
        long_words("denoise", "in.tif", "-o", "o.tif", "--axes", "Y" * 100_000),
        10,
    ),
    "factor of 100,000 digits": (
        long_words("super-resolve", "in.tif", "-o", "o.tif", "--factor", "2" * 100_000),
        10,
    ),
    "command of 100,000 letters": (long_words("x" * 100_000), 10),
    "input's name of 100,000 letters": (long_words("denoise", "x" * 100_000, "-o", "o.tif"), 10),
    "TIFF whose LZW goes on and on": (tiff_of(lzw_bomb), 10),
    "TIFF whose Zstandard unpacks to 512 MB": (tiff_of(zstd_bomb), 10),
    "TIFF whose Deflate unpacks to 1 GB": (tiff_of(deflate_bomb), 10),
    "TIFF of 60,000 tags": (tiff_of(many_tags), 10),
    "TIFF whose tag claims 2^32 values": (tiff_of(huge_tag), 10),
    "OME-XML of 400,000 elements": (described_bomb(many_elements), 15),
    "OME-XML with an attribute of ten megabytes": (described_bomb(one_long_attribute), 15),
    "OME-XML that repeats an entity": (described_bomb(quadratic), 15),
    "PNG that unpacks to 600 MB": (png_bomb, 10),
    "PNG with a colour profile of 256 MB": (png_profile, 10),
    "Zarr of 100,000 levels": (zarr_many_levels, 10),
}
OUT = ("-o", "out.tif", *QUICK)
BOMBED: dict[str, Callable[[Path, Path], list[str]]] = {
    "a pickle as a shared network": bomb("n", "denoise", "in.tif", "--network-file", "n", *OUT),
    "a torch archive as a shared network": bomb(
        "n", "denoise", "in.tif", "--network-file", "n", *OUT, wrap=as_archive
    ),
    "tensors as a shared network": bomb(
        "n", "denoise", "in.tif", "--network-file", "n", *OUT, wrap=as_safetensors
    ),
    "a pickle as a mask": bomb("m.tif", "inpaint", "in.tif", "--mask", "m.tif", *OUT),
    "an array of objects as a mask": bomb(
        "m.npy", "inpaint", "in.tif", "--mask", "m.npy", *OUT, wrap=as_npy
    ),
    "a pickle as a PSF": bomb("p.tif", "deblur", "in.tif", "--psf", "p.tif", *OUT),
    "an array of objects as a guide": bomb(
        "g.npy", "guide", "in.tif", "--guide", "g.npy", *OUT, wrap=as_npy
    ),
    "a pickle as a report": bomb("p.json", "methods", "p.json"),
    "a pickle as a result": bomb("p.tif", "methods", "p.tif"),
    "a torch archive as weights": bomb(
        "w.safetensors",
        "invert-features",
        "in.tif",
        "--network",
        "vgg16",
        "--layer",
        "features.1",
        "--weights",
        "w.safetensors",
        *OUT,
        wrap=as_archive,
    ),
    "a torch archive as a network": bomb(
        "n.pt2",
        "invert-features",
        "in.tif",
        "--network",
        "n.pt2",
        "--layer",
        "x",
        *OUT,
        wrap=as_archive,
    ),
    "a pickle as a batch's recipe": bomb("r.json", "batch", "r.json", "in.tif", "-o", "results"),
    "a pickle as an experiment's truth": bomb(
        "t.tif", "explore", "spectrum", "in.tif", "--truth", "t.tif", "-o", "e"
    ),
}
CODES: dict[str, Callable[[dict[str, Any], dict[str, str]], object]] = {
    "a path that closes a quote": lambda report, paths: paths.update(image=f'a"+{PAYLOAD}+".tif'),
    "a path that closes another": lambda report, paths: paths.update(image=f"a'+{PAYLOAD}+'.tif"),
    "a path of both quotes": lambda report, paths: paths.update(image=f"a'\"+{PAYLOAD}+\"'.tif"),
    "a path of a line break": lambda report, paths: paths.update(image=f"a\n{PAYLOAD}\n.tif"),
    "a path of a backslash": lambda report, paths: paths.update(image=f'a\\"+{PAYLOAD}+".tif'),
    "a path that commands the shell": lambda report, paths: paths.update(
        image="$(mkdir {mark})`mkdir {mark}`;mkdir {mark}\nmkdir {mark}"
    ),
    "a version of two lines": lambda report, paths: report.update(version=f"1\n{PAYLOAD}"),
    "a torch of two lines": lambda report, paths: report.update(torch=f"1\n{PAYLOAD}"),
    "a device of two lines": lambda report, paths: report.update(device=f"cpu\n{PAYLOAD}"),
    "threads of two lines": lambda report, paths: report.update(threads=f"1\n{PAYLOAD}"),
    "a digest that closes a quote": lambda report, paths: report.update(
        output_sha256=f'x" + {PAYLOAD}'
    ),
    "another digest of two lines": lambda report, paths: report.update(
        input_sha256=f'x"\n{PAYLOAD}\n"'
    ),
    "axes that close a quote": lambda report, paths: report.update(axes=f'YX" + {PAYLOAD} + "'),
    "a network's name of two lines": lambda report, paths: report["fit"].update(
        joint_training={"network_file": f"n\n{PAYLOAD}", "sha256": "0"}
    ),
    "an iteration that is a program": lambda report, paths: (
        report["fit"].update(kept=1),
        report.update(best_iteration=PAYLOAD),
    ),
    "a setting that is a program": lambda report, paths: report["recipe"].update(preset=PAYLOAD),
}
WATCHED: dict[str, tuple[str, ...]] = {
    "denoise": ("denoise", "in.tif", *OUT),
    "inpaint": ("inpaint", "in.tif", "--mask", "hole.tif", *OUT),
    "super-resolve": ("super-resolve", "in.tif", *OUT),
    "deblur": ("deblur", "in.tif", "--gaussian-sigma", "1", *OUT),
    "blind-deblur": ("blind-deblur", "in.tif", "--psf-size", "3", *OUT),
    "guide": ("guide", "in.tif", "--guide", "guide.tif", *OUT),
    "plan": ("plan", "denoise", "in.tif"),
    "noise": ("noise", "in.tif"),
    "doctor": ("doctor",),
    "denoise into a Zarr": ("denoise", "in.tif", "-o", "o.ome.zarr", *QUICK),
    "batch": ("batch", "r.json", "in.tif", "-o", "results"),
    "explore spectrum": ("explore", "spectrum", "in.tif", "-o", "e", "--max-iterations", "3"),
    "explore impedance": ("explore", "impedance", "in.tif", "-o", "e", "--max-iterations", "3"),
}
ROWS = [
    *(
        Row(
            f"escape sequences in {what}",
            partial(check_printed, make),
            "refused, none reaches the terminal",
        )
        for what, make in PRINTED.items()
    ),
    Row("escape sequences in a PNG's texts", png_text, "restored, none shown"),
    Row("escape sequences in ImageJ's unit", tiff_unit, "restored, none shown"),
    Row("escape sequences in HOME", doctor_shown, "none shown"),
    *(Row(f"Zarr level {path!r}", partial(elsewhere, level(path)), "refused") for path in LEVELS),
    *(
        Row(f"OME-TIFF companion {name!r}", partial(elsewhere, companion(name)), "refused")
        for name in COMPANIONS
    ),
    Row("Zarr whose description is a link outside", partial(elsewhere, metadata_link), "refused"),
    Row(
        "Zarr whose level's description is a link outside",
        partial(elsewhere, array_link),
        "refused",
    ),
    *(
        Row(f"link laid at {name} of a batch", partial(prepared_link, name), "not written through")
        for name in (
            "batch.json",
            "batch.csv",
            "batch.html",
            "in.tif",
            "records",
            "records/in.tif.json",
            "records/in.tif.png",
            "records/in.tif.unfinished",
        )
    ),
    *(
        Row(f"dangling link {name} at {option}", partial(dangling, option, name), "refused")
        for option, name in (
            ("-o", "l.tif"),
            ("-o", "l.ome.zarr"),
            ("--report", "l.json"),
            ("--recipe", "l.json"),
            ("--residual", "l.tif"),
            ("--uncertainty", "l.tif"),
        )
    ),
    *(
        Row(f"preset called {name[:12]!r}", partial(unzipped_preset, name), "refused")
        for name in NAMES
    ),
    *(
        Row(f"bomb: {what}", partial(bombed, make, seconds), "refused in little time and memory")
        for what, (make, seconds) in BOMBS.items()
    ),
    *(
        Row(f"program: {what}", partial(executed, make), "refused, not run")
        for what, make in BOMBED.items()
    ),
    *(
        Row(f"script of {what}", partial(scripted, change), "data stay data")
        for what, change in CODES.items()
    ),
    *(
        Row(
            f"{name} beside the pictures, {argv[0]}",
            partial(config_beside, name, text, argv),
            "not obeyed",
        )
        for name, text, argv in (
            (
                "matplotlibrc",
                "backend: module://evil\n",
                ("explore", "spectrum", "in.tif", "-o", "e", "--max-iterations", "2"),
            ),
            ("matplotlibrc", "text.usetex: True\n", ("batch", "r.json", "in.tif", "-o", "results")),
            ("sitecustomize.py", "import os\nos.mkdir('{mark}')\n", ("denoise", "in.tif", *OUT)),
            ("usercustomize.py", "import os\nos.mkdir('{mark}')\n", ("plan", "denoise", "in.tif")),
            ("napari_dip.py", "import os\nos.mkdir('{mark}')\n", ("denoise", "in.tif", *OUT)),
            (".env", "PYTHONSTARTUP=evil.py\n", ("denoise", "in.tif", *OUT)),
        )
    ),
    *(
        Row(
            f"watched: {what}",
            partial(watched, argv),
            "no connection, no program, no writing elsewhere",
        )
        for what, argv in WATCHED.items()
    ),
    Row("batch with workers, and who can reach it", listening, "this computer alone", patience=150),
    *(
        Row(
            f"page of {argv[0]} {argv[1]} about {name[:14]!r}",
            partial(pages, argv, name),
            "nothing in it runs or loads",
        )
        for argv in (
            ("batch", "r.json", "IN", "-o", "results"),
            ("explore", "spectrum", "IN", "-o", "e", "--max-iterations", "2"),
            ("explore", "impedance", "IN", "-o", "e", "--max-iterations", "2"),
        )
        for name in (SCRIPT, '"><img src=x onerror=alert(1)>.tif', "]]>&lt;b&gt;{{x}}.tif")
    ),
    *(
        Row(f"table about {name!r}", partial(formulas, name), "no formula")
        for name in (
            "=1+1.tif",
            "+1.tif",
            "@SUM(A1).tif",
            "\t=1.tif",
            "'=1.tif",
            "\n=1.tif",
        )
    ),
    Row("result, and what it gives away", told_abroad, "no folder, user or computer"),
    Row("log of the unforeseen", log_private, "for its user alone"),
    Row("picture kept in a folder that all write to", rescued_private, "its user's alone"),
]
