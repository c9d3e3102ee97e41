"""Recipes, reports and tables as editors, spreadsheets and other programs leave them."""

from __future__ import annotations

import csv
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import tifffile

from faults.cases import (
    QUICK,
    Case,
    CommandResult,
    check,
    check_command_refused,
    check_completed,
    check_files_unchanged,
    make_image,
    read_folder,
    run_cli,
    save_tiff,
)

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = '{"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 2}'


def denoise_by_recipe(content: bytes, folder: Path) -> CommandResult:
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_bytes(content)
    return run_cli("denoise", "in.tif", "-o", "out.tif", "--from-recipe", "r.json")


def check_recipe_refused(text: str | bytes, pattern: str, folder: Path) -> None:
    """Hand over a recipe that cannot be meant: refused, with the place."""
    result = denoise_by_recipe(text.encode() if isinstance(text, str) else text, folder)
    before = read_folder(folder)
    check_command_refused(result, pattern)
    check_files_unchanged(folder, before)


def check_recipe_accepted(text: str | bytes, folder: Path) -> None:
    """Hand over a recipe that is meant, in an odd dress: carried out, or refused in words."""
    result = denoise_by_recipe(text.encode() if isinstance(text, str) else text, folder)
    if result.code:
        return check_command_refused(result, "r.json")
    check_completed(result)
    return check((folder / "out.tif").exists(), "no result")


def check_seed(text: str, seed: int, folder: Path) -> None:
    """Let a number be written in an odd way: what ran is what was written, or it is refused."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(text, "utf-8")
    arguments = ("-o", "out.tif", "--from-recipe", "r.json", "--report", "p.json")
    result = run_cli("denoise", "in.tif", *arguments)
    if result.code:
        return check_command_refused(result, "seed")
    record = json.loads((folder / "p.json").read_text("utf-8"))["seed"]
    return check(record == seed, f"ran with the seed {record}, not {seed}")


def check_repeat_by_recipe(folder: Path) -> None:
    """Repeat a run by the recipe that it saved: the same bytes."""
    save_tiff(folder / "in.tif")
    options = ("--seed", "5", "--smoothing", "0.02", "--noise", "gaussian", "--read-noise", "12")
    check_completed(
        run_cli("denoise", "in.tif", "-o", "a.tif", "--recipe", "r.json", *options, *QUICK)
    )
    check_completed(run_cli("denoise", "in.tif", "-o", "b.tif", "--from-recipe", "r.json"))
    check((folder / "a.tif").read_bytes() == (folder / "b.tif").read_bytes(), "other bytes")


def check_report_is_json(folder: Path) -> None:
    """Read the report strictly: no NaN, which is no JSON."""
    save_tiff(folder / "in.tif")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", "--report", "p.json", *QUICK))

    def no_constant(name: str) -> None:
        raise ValueError(name)

    json.loads((folder / "p.json").read_text("utf-8"), parse_constant=no_constant)


def check_setting_beside_settings(folder: Path) -> None:
    """Write a setting of the task beside, not below, "settings": taken, or refused."""
    result = denoise_by_recipe(RECIPE.replace("}", ', "prior": "random-input"}').encode(), folder)
    if result.code:
        return check_command_refused(result, "prior")
    check_completed(result)
    methods = check_completed(run_cli("methods", "out.tif")).out
    return check("hidden" not in methods and "random" in methods, f"left out: {methods}"[:500])


def check_report_refused(content: bytes, folder: Path) -> None:
    (folder / "p.json").write_bytes(content)
    check_command_refused(run_cli("methods", "p.json"), "p.json")


def write_report(folder: Path) -> dict[str, Any]:
    save_tiff(folder / "in.tif")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", "--report", "p.json", *QUICK))
    report: dict[str, Any] = json.loads((folder / "p.json").read_text("utf-8"))
    return report


def check_report_with_byte_order_mark(folder: Path) -> None:
    """Save a report again with an editor that puts its mark before it."""
    write_report(folder)
    text = (folder / "p.json").read_bytes()
    (folder / "p.json").write_bytes(b"\xef\xbb\xbf" + text)
    result = run_cli("methods", "p.json")
    if result.code:
        check_command_refused(result, "p.json")


def check_resaved_result(folder: Path) -> None:
    """Save a result again without what it says of itself: not invented."""
    write_report(folder)
    tifffile.imwrite(folder / "other.tif", tifffile.imread(folder / "out.tif"))
    check_command_refused(run_cli("methods", "other.tif"), "other.tif")


def check_report_of_other_pixels(folder: Path) -> None:
    """Put a report beside an image that it does not speak of: not believed."""
    write_report(folder)
    save_tiff(folder / "other.tif", make_image(dtype="float32"))
    (folder / "other.json").write_bytes((folder / "p.json").read_bytes())
    check_command_refused(run_cli("methods", "other.tif"), "other.tif")


def check_methods_text(folder: Path) -> None:
    """Read the methods text: seed, preset and noise are those of the run."""
    save_tiff(folder / "in.tif")
    arguments = ("--seed", "4711", "--noise", "gaussian", "--read-noise", "12.5")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", *arguments, *QUICK))
    result = check_completed(run_cli("methods", "out.tif"))
    for fact in ("4711", "12.5", "Fast"):
        check(fact in result.out, f"{fact} is not in: {result.out}"[:500])


def check_batch_table(folder: Path) -> None:
    """Read the table of a batch whose files have commas, quotes and line breaks in their names."""
    names = ["a,b.tif", 'c"d.tif', "e\nf.tif", "g;h.tif", "=1+1.tif"]
    (folder / "a").mkdir()
    for number, name in enumerate(names):
        save_tiff(folder / "a" / f"plain{number}.tif", make_image(seed=number)).rename(
            folder / "a" / name
        )
    (folder / "r.json").write_text(RECIPE, "utf-8")
    check_completed(run_cli("batch", "r.json", "a", "-o", "results"))
    (table,) = (folder / "results").glob("*.csv")
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    check(len(rows) == len(names) + 1, f"{len(rows)} lines for {len(names)} files: {rows}"[:500])
    check(len({len(row) for row in rows}) == 1, f"lines of other lengths: {rows}"[:500])


def check_damaged_batch_list(content: bytes, folder: Path) -> None:
    """Damage the list of a batch: going on is refused, and the results stay."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(RECIPE, "utf-8")
    check_completed(run_cli("batch", "r.json", "in.tif", "-o", "results"))
    lists = [path for path in (folder / "results").rglob("*.json") if "receipt" not in path.name]
    top = min(lists, key=lambda path: len(path.parts))
    top.write_bytes(content)
    before = read_folder(folder)
    result = run_cli("batch", "r.json", "in.tif", "-o", "results", "--resume")
    check_command_refused(result, top.name)
    check_files_unchanged(folder, before)


def check_damaged_records(content: bytes, folder: Path) -> None:
    """Damage a receipt: the file is restored anew, and the result is the same."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(RECIPE, "utf-8")
    check_completed(run_cli("batch", "r.json", "in.tif", "-o", "results"))
    right = (folder / "results" / "in.tif").read_bytes()
    records = [path for path in (folder / "results").rglob("*.json") if "in.tif" in path.name]
    check(records, f"no receipt: {list((folder / 'results').rglob('*'))}")
    for path in records:
        path.write_bytes(content)
    result = run_cli("batch", "r.json", "in.tif", "-o", "results", "--resume")
    if result.code:
        return check_command_refused(result, "in.tif")
    check((folder / "results" / "in.tif").read_bytes() == right, "other bytes")
    check_completed(result)
    return None


def check_resume_by_other_recipe(folder: Path) -> None:
    """Go on with a batch by another recipe: refused, nothing touched."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(RECIPE, "utf-8")
    check_completed(run_cli("batch", "r.json", "in.tif", "-o", "results"))
    (folder / "r.json").write_text(RECIPE.replace("2}", "3}"), "utf-8")
    before = read_folder(folder)
    check_command_refused(
        run_cli("batch", "r.json", "in.tif", "-o", "results", "--resume"), "another recipe"
    )
    check_files_unchanged(folder, before)


def check_swapped_recipe_and_image(folder: Path) -> None:
    """Swap recipe and image, as happens in a hurry."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(RECIPE, "utf-8")
    check_command_refused(run_cli("batch", "in.tif", "r.json", "-o", "results"), "in.tif", "recipe")
    check(not (folder / "results").exists(), "a folder was made")


def check_recipe_of_other_task(folder: Path) -> None:
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(RECIPE, "utf-8")
    check_command_refused(
        run_cli("deblur", "in.tif", "-o", "o.tif", "--from-recipe", "r.json"), "denoise", "deblur"
    )


def check_option_beside_recipe(folder: Path) -> None:
    """Give an option beside a recipe: it wins, and the report says so."""
    save_tiff(folder / "in.tif")
    (folder / "r.json").write_text(RECIPE.replace("}", ', "seed": 1}'), "utf-8")
    arguments = ("--from-recipe", "r.json", "--seed", "9", "--report", "p.json")
    check_completed(run_cli("denoise", "in.tif", "-o", "out.tif", *arguments))
    record = json.loads((folder / "p.json").read_text("utf-8"))
    check(record["seed"] == 9 and record["recipe"]["seed"] == 9, f"seed {record['seed']}")


BAD_RECIPES = {
    "with comments": ('{"schema": 1, // mine\n"task": "denoise"}', "r.json.*JSON"),
    "with a comma too many": ('{"schema": 1, "task": "denoise",}', "r.json.*JSON"),
    "in single quotes": ("{'schema': 1, 'task': 'denoise'}", "r.json.*JSON"),
    "in UTF-16": ('{"schema": 1, "task": "denoise"}'.encode("utf-16"), "r.json.*UTF-8|JSON"),
    "in Latin letters": (b'{"schema": 1, "task": "d\xe9noise"}', "UTF-8"),
    "of null": ("null", "r.json"),
    "of a number": ("3", "r.json"),
    "of text": ('"denoise"', "r.json"),
    "twice": (RECIPE + RECIPE, "r.json.*JSON"),
    "with a key twice": (RECIPE.replace("}", ', "seed": 1, "seed": 2}'), "twice|seed"),
    "with a task twice": (
        '{"schema": 1, "task": "denoise", "task": "deblur"}',
        "twice|task|deblur",
    ),
    "whose schema is text": ('{"schema": "1", "task": "denoise"}', "schema"),
    "whose schema is true": ('{"schema": true, "task": "denoise"}', "schema"),
    "whose schema is 1.5": ('{"schema": 1.5, "task": "denoise"}', "schema"),
    "whose schema is 0": ('{"schema": 0, "task": "denoise"}', "schema"),
    "whose schema is negative": ('{"schema": -1, "task": "denoise"}', "schema"),
    "whose schema has 5000 digits": (
        '{"schema": 1' + "0" * 5000 + ', "task": "denoise"}',
        "r.json|schema",
    ),
    "whose task is a list": ('{"schema": 1, "task": ["denoise"]}', "task"),
    "whose task is null": ('{"schema": 1, "task": null}', "task"),
    "whose task is in capitals": ('{"schema": 1, "task": "DENOISE"}', "task|DENOISE"),
    "whose settings are a list": ('{"schema": 1, "task": "denoise", "settings": [1]}', "settings"),
    "whose settings are text": ('{"schema": 1, "task": "denoise", "settings": "x"}', "settings"),
    "with a seed of true": (RECIPE.replace("}", ', "seed": true}'), "seed"),
    "with a seed of 1e400": (RECIPE.replace("}", ', "seed": 1e400}'), "seed"),
    "with a seed of 5000 digits": (
        RECIPE.replace("}", ', "seed": 1' + "0" * 5000 + "}"),
        "seed|r.json",
    ),
    "with smoothing of infinity": (
        '{"schema": 1, "task": "denoise", "settings": {"smoothing": Infinity}}',
        "smoothing|JSON",
    ),
    "with a NUL in it": (b'{"schema": 1, "task": "denoise\\u0000"}', "task"),
    "with half a letter": ('{"schema": 1, "task": "\\ud800"}', "task"),
    "with a device of its own": (RECIPE.replace("}", ', "device": "cuda:7"}'), "device"),
}
CASES = [
    *(
        Case(
            f"recipe {what}",
            partial(check_recipe_refused, text, pattern),
            "refused, with the place",
        )
        for what, (text, pattern) in BAD_RECIPES.items()
    ),
    *(
        Case(
            f"recipe {what}",
            partial(check_recipe_accepted, text),
            "carried out, or refused in words",
        )
        for what, text in (
            ("with a mark before it", b"\xef\xbb\xbf" + RECIPE.encode()),
            ("with Windows line ends", RECIPE.replace(",", ",\r\n")),
            ("with a form feed", "\f" + RECIPE),
            ("with spaces around it", "\n\n  " + RECIPE + "  \n"),
        )
    ),
    *(
        Case(
            f"recipe with a seed of {written}",
            partial(check_seed, RECIPE.replace("}", f', "seed": {written}}}'), seed),
            "that seed, or refused",
        )
        for written, seed in (
            ("7.0", 7),
            ("1e3", 1000),
            ('"7"', 7),
            ("9007199254740993", 2**53 + 1),
            ("18446744073709551615", 2**64 - 1),
            ("4294967296", 2**32),
            ("-0", 0),
        )
    ),
    Case(
        "recipe with a setting beside its settings",
        check_setting_beside_settings,
        "taken, or refused",
    ),
    Case("recipe that a run saved", check_repeat_by_recipe, "same bytes"),
    Case("report read strictly", check_report_is_json, "JSON"),
    *(
        Case(f"report that is {what}", partial(check_report_refused, text), "refused by its name")
        for what, text in (
            ("empty", b""),
            ("null", b"null"),
            ("a list", b"[]"),
            ("without anything", b"{}"),
            ("in UTF-16", '{"task": "denoise"}'.encode("utf-16")),
            ("a recipe", RECIPE.encode()),
        )
    ),
    Case(
        "report with a mark before it",
        check_report_with_byte_order_mark,
        "read, or refused in words",
    ),
    Case("result that another program saved", check_resaved_result, "refused: it says nothing"),
    Case("report beside another image", check_report_of_other_pixels, "not believed"),
    Case("methods and the run", check_methods_text, "the figures of the run"),
    Case("table of a batch of odd names", check_batch_table, "one line a file"),
    *(
        Case(
            f"list of a batch that is {what}",
            partial(check_damaged_batch_list, text),
            "refused by its name",
        )
        for what, text in (
            ("empty", b""),
            ("null", b"null"),
            ("a list", b"[]"),
            ("cut off", b'{"rec'),
        )
    ),
    *(
        Case(
            f"receipt of a batch that is {what}", partial(check_damaged_records, text), "made anew"
        )
        for what, text in (
            ("empty", b""),
            ("null", b"null"),
            ("a list", b"[1]"),
            ("no text", b"\xff\0"),
        )
    ),
    Case("going on by another recipe", check_resume_by_other_recipe, "refused"),
    Case("recipe and image exchanged", check_swapped_recipe_and_image, "refused by its name"),
    Case("recipe of another task", check_recipe_of_other_task, "refused"),
    Case("option beside a recipe", check_option_beside_recipe, "the option wins"),
]
