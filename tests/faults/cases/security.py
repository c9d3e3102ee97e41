"""Attacks: names, texts and files made to be carried out, to lead elsewhere, to take too much."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from faults.cases import (
    QUICK,
    Case,
    cases_to_trials,
)
from faults.cases.audit_checks import (
    check_audit_events,
    check_csv_formulas,
    check_html_pages,
    check_listening_addresses,
    check_log_permissions,
    check_no_private_names,
    check_rescued_file,
)
from faults.cases.security_checks import (
    ESCAPES,
    HTML_NAME,
    PAYLOAD,
    change_recipe,
    change_zarr,
    check_batch_link,
    check_bomb,
    check_dangling_link,
    check_doctor_output,
    check_exported_script,
    check_local_configuration,
    check_not_executed,
    check_path_traversal,
    check_png_text,
    check_preset_name,
    check_printed,
    check_tiff_unit,
    describe_bomb,
    link_array_metadata,
    link_zarr_metadata,
    make_argv,
    make_deflate_bomb,
    make_entity_bomb,
    make_huge_tag,
    make_long_attribute,
    make_lzw_bomb,
    make_many_elements,
    make_many_tags,
    make_zstd_bomb,
    set_companion,
    set_description,
    set_level,
    use_pickle,
    use_recipe,
    use_report,
    wrap_in_npy,
    wrap_in_safetensors,
    wrap_in_zip,
    write_many_levels,
    write_png_bomb,
    write_png_profile_bomb,
    write_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every fortieth."""
    yield from cases_to_trials(CASES, small=small, step=40)


NAMES = ("../up", "/etc/x", "a/b", "..", ".hidden", "con", "a\0b", "x" * 300, ESCAPES, "~root")
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
    "a Zarr's version": change_zarr(lambda ome: ome.update(version=ESCAPES)),
    "an axis of a Zarr": change_zarr(lambda ome: ome[MULTI][0]["axes"][0].update(name=ESCAPES)),
    "a level of a Zarr": change_zarr(lambda ome: ome[MULTI][0]["datasets"][0].update(path=ESCAPES)),
    "a missing level of a Zarr": change_zarr(
        lambda ome: ome[MULTI][0]["datasets"][0].update(path="7")
    ),
    "a task of a recipe": change_recipe({"task": ESCAPES}),
    "a preset of a recipe": change_recipe({"preset": ESCAPES}),
    "a device of a recipe": change_recipe({"device": ESCAPES}),
    "a value of a recipe": change_recipe({"settings": {"prior": ESCAPES}}),
    "a list in a recipe": change_recipe({"settings": {"prior": [ESCAPES]}}),
    "a name within a recipe's value": change_recipe({"settings": {"prior": {ESCAPES: 1}}}),
    "an option": make_argv("denoise", "in.tif", "-o", "out.tif", f"--{ESCAPES}", "1"),
    "an option's value": make_argv("denoise", "in.tif", "-o", "out.tif", "--prior", ESCAPES),
    "a command": make_argv(ESCAPES),
    "a second command": make_argv("plan", ESCAPES, "in.tif"),
    "axes": make_argv("denoise", "in.tif", "-o", "out.tif", "--axes", ESCAPES),
    "one word too many": make_argv("denoise", "in.tif", ESCAPES, "-o", "out.tif"),
    "the input": make_argv("denoise", ESCAPES, "-o", "out.tif"),
    "the result's ending": make_argv("denoise", "in.tif", "-o", f"out.{ESCAPES}"),
    "a mask": make_argv("inpaint", "in.tif", "--mask", ESCAPES, "-o", "out.tif"),
    "a pattern of a batch": make_argv("batch", "in.tif", f"{ESCAPES}*.tif", "-o", "results"),
    "the scheduler of a batch": make_argv(
        "batch", "in.tif", "in.tif", "-o", "r", "--scheduler", ESCAPES
    ),
    "a layer of a network": make_argv(
        "invert-features", "in.tif", "-o", "out.tif", "--network", "in.tif", "--layer", ESCAPES
    ),
    "an architecture": make_argv(
        "invert-features", "in.tif", "-o", "out.tif", "--network", ESCAPES, "--layer", "x"
    ),
    "an architecture of an experiment": make_argv(
        "explore", "spectrum", "in.tif", "-o", "e", "--network", ESCAPES
    ),
    "a file of a shared network": make_argv(
        "denoise", "in.tif", "-o", "o.tif", "--network-file", ESCAPES
    ),
    "OME's FileName": set_description(
        b'<?xml version="1.0"?><OME xmlns="x"><UUID FileName="../&#155;2J&#8238;.tif"/></OME>'
    ),
}
BOMBS: dict[str, tuple[Callable[[Path], list[str]], float]] = {
    "recipe of a million unknown names": (
        use_recipe(
            json.dumps(
                {"schema": 1, "task": "denoise", "settings": {f"s{n}": 1 for n in range(60_000)}}
            )
        ),
        10,
    ),
    "recipe with a name of 900,000 letters": (
        use_recipe(json.dumps({"schema": 1, "task": "denoise", "settings": {"x" * 900_000: 1}})),
        10,
    ),
    "recipe with a value of 900,000 letters": (
        use_recipe(
            json.dumps({"schema": 1, "task": "denoise", "settings": {"prior": "x" * 900_000}})
        ),
        10,
    ),
    "recipe with a task of 900,000 letters": (
        use_recipe(json.dumps({"schema": 1, "task": "x" * 900_000})),
        10,
    ),
    "recipe with a number of 900,000 digits": (
        use_recipe('{"schema": 1, "task": "denoise", "seed": ' + "9" * 900_000 + "}"),
        10,
    ),
    "recipe with a real number of 900,000 digits": (
        use_recipe(
            '{"schema": 1, "task": "denoise", "settings": {"gain": 0.' + "9" * 900_000 + "}}"
        ),
        10,
    ),
    "recipe nested within a setting": (
        use_recipe(
            '{"schema": 1, "task": "denoise", "settings": {"prior": ' + "[" * 900 + "]" * 900 + "}}"
        ),
        10,
    ),
    "report nested deeply": (use_report(lambda: '{"recipe": ' + "[" * 100_000), 10),
    "report with a number of a million digits": (
        use_report(lambda: '{"seed": ' + "9" * 10**6 + "}"),
        10,
    ),
    "option's value of 100,000 letters": (
        make_argv("denoise", "in.tif", "-o", "o.tif", "--prior", "x" * 100_000),
        10,
    ),
    "axes of 100,000 letters": (
        make_argv("denoise", "in.tif", "-o", "o.tif", "--axes", "Y" * 100_000),
        10,
    ),
    "factor of 100,000 digits": (
        make_argv("super-resolve", "in.tif", "-o", "o.tif", "--factor", "2" * 100_000),
        10,
    ),
    "command of 100,000 letters": (make_argv("x" * 100_000), 10),
    "input's name of 100,000 letters": (make_argv("denoise", "x" * 100_000, "-o", "o.tif"), 10),
    "TIFF whose LZW goes on and on": (write_tiff(make_lzw_bomb), 10),
    "TIFF whose Zstandard unpacks to 512 MB": (write_tiff(make_zstd_bomb), 10),
    "TIFF whose Deflate unpacks to 1 GB": (write_tiff(make_deflate_bomb), 10),
    "TIFF of 60,000 tags": (write_tiff(make_many_tags), 10),
    "TIFF whose tag claims 2^32 values": (write_tiff(make_huge_tag), 10),
    "OME-XML of 400,000 elements": (describe_bomb(make_many_elements), 15),
    "OME-XML with an attribute of ten megabytes": (describe_bomb(make_long_attribute), 15),
    "OME-XML that repeats an entity": (describe_bomb(make_entity_bomb), 15),
    "PNG that unpacks to 600 MB": (write_png_bomb, 10),
    "PNG with a colour profile of 256 MB": (write_png_profile_bomb, 10),
    "Zarr of 100,000 levels": (write_many_levels, 10),
}
OUT = ("-o", "out.tif", *QUICK)
BOMBED: dict[str, Callable[[Path, Path], list[str]]] = {
    "a pickle as a shared network": use_pickle(
        "n", "denoise", "in.tif", "--network-file", "n", *OUT
    ),
    "a torch archive as a shared network": use_pickle(
        "n", "denoise", "in.tif", "--network-file", "n", *OUT, wrap=wrap_in_zip
    ),
    "tensors as a shared network": use_pickle(
        "n", "denoise", "in.tif", "--network-file", "n", *OUT, wrap=wrap_in_safetensors
    ),
    "a pickle as a mask": use_pickle("m.tif", "inpaint", "in.tif", "--mask", "m.tif", *OUT),
    "an array of objects as a mask": use_pickle(
        "m.npy", "inpaint", "in.tif", "--mask", "m.npy", *OUT, wrap=wrap_in_npy
    ),
    "a pickle as a PSF": use_pickle("p.tif", "deblur", "in.tif", "--psf", "p.tif", *OUT),
    "an array of objects as a guide": use_pickle(
        "g.npy", "guide", "in.tif", "--guide", "g.npy", *OUT, wrap=wrap_in_npy
    ),
    "a pickle as a report": use_pickle("p.json", "methods", "p.json"),
    "a pickle as a result": use_pickle("p.tif", "methods", "p.tif"),
    "a torch archive as weights": use_pickle(
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
        wrap=wrap_in_zip,
    ),
    "a torch archive as a network": use_pickle(
        "n.pt2",
        "invert-features",
        "in.tif",
        "--network",
        "n.pt2",
        "--layer",
        "x",
        *OUT,
        wrap=wrap_in_zip,
    ),
    "a pickle as a batch's recipe": use_pickle(
        "r.json", "batch", "r.json", "in.tif", "-o", "results"
    ),
    "a pickle as an experiment's truth": use_pickle(
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
CASES = [
    *(
        Case(
            f"escape sequences in {what}",
            partial(check_printed, make),
            "refused, none reaches the terminal",
        )
        for what, make in PRINTED.items()
    ),
    Case("escape sequences in a PNG's texts", check_png_text, "restored, none shown"),
    Case("escape sequences in ImageJ's unit", check_tiff_unit, "restored, none shown"),
    Case("escape sequences in HOME", check_doctor_output, "none shown"),
    *(
        Case(f"Zarr level {path!r}", partial(check_path_traversal, set_level(path)), "refused")
        for path in LEVELS
    ),
    *(
        Case(
            f"OME-TIFF companion {name!r}",
            partial(check_path_traversal, set_companion(name)),
            "refused",
        )
        for name in COMPANIONS
    ),
    Case(
        "Zarr whose description is a link outside",
        partial(check_path_traversal, link_zarr_metadata),
        "refused",
    ),
    Case(
        "Zarr whose level's description is a link outside",
        partial(check_path_traversal, link_array_metadata),
        "refused",
    ),
    *(
        Case(
            f"link laid at {name} of a batch",
            partial(check_batch_link, name),
            "not written through",
        )
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
        Case(
            f"dangling link {name} at {option}",
            partial(check_dangling_link, option, name),
            "refused",
        )
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
        Case(f"preset called {name[:12]!r}", partial(check_preset_name, name), "refused")
        for name in NAMES
    ),
    *(
        Case(
            f"bomb: {what}", partial(check_bomb, make, seconds), "refused in little time and memory"
        )
        for what, (make, seconds) in BOMBS.items()
    ),
    *(
        Case(f"program: {what}", partial(check_not_executed, make), "refused, not run")
        for what, make in BOMBED.items()
    ),
    *(
        Case(f"script of {what}", partial(check_exported_script, change), "data stay data")
        for what, change in CODES.items()
    ),
    *(
        Case(
            f"{name} beside the images, {argv[0]}",
            partial(check_local_configuration, name, text, argv),
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
        Case(
            f"watched: {what}",
            partial(check_audit_events, argv),
            "no connection, no program, no writing elsewhere",
        )
        for what, argv in WATCHED.items()
    ),
    Case(
        "batch with workers, and who can reach it",
        check_listening_addresses,
        "this computer alone",
        timeout_s=150,
    ),
    *(
        Case(
            f"page of {argv[0]} {argv[1]} about {name[:14]!r}",
            partial(check_html_pages, argv, name),
            "nothing in it runs or loads",
        )
        for argv in (
            ("batch", "r.json", "IN", "-o", "results"),
            ("explore", "spectrum", "IN", "-o", "e", "--max-iterations", "2"),
            ("explore", "impedance", "IN", "-o", "e", "--max-iterations", "2"),
        )
        for name in (HTML_NAME, '"><img src=x onerror=alert(1)>.tif', "]]>&lt;b&gt;{{x}}.tif")
    ),
    *(
        Case(f"table about {name!r}", partial(check_csv_formulas, name), "no formula")
        for name in (
            "=1+1.tif",
            "+1.tif",
            "@SUM(A1).tif",
            "\t=1.tif",
            "'=1.tif",
            "\n=1.tif",
        )
    ),
    Case("result, and what it gives away", check_no_private_names, "no folder, user or computer"),
    Case("log of the unforeseen", check_log_permissions, "for its user alone"),
    Case("image kept in a folder that all write to", check_rescued_file, "its user's alone"),
]
