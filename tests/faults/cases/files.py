"""Files as careless, unlucky and malicious people have them: read rightly, refused, or left."""

from __future__ import annotations

import os
import unicodedata
from functools import partial
from typing import TYPE_CHECKING

from faults.cases import (
    Row,
    rows_to_trials,
)
from faults.cases.files_acts import (
    changes_while_batch,
    companion_sizes,
    dangling_input,
    deep_path,
    ending_only,
    folder_in_batch_unreadable,
    folder_link_at,
    guide_is_image,
    hard_linked_out,
    hidden_companions,
    identical_again,
    in_place_on_append_only,
    json_into_image,
    kept_permissions,
    link_to_input,
    literal_glob,
    long_in_batch,
    long_input,
    long_report,
    loop_at,
    mask_is_image,
    missing_named,
    name_no_text,
    named_in,
    named_out,
    odd_suffix_case,
    one_empty_of_three,
    others_file,
    outputs_twice,
    over_further_input,
    over_psf,
    readonly_folder,
    readonly_own_file,
    readonly_report,
    renamed_meanwhile,
    repeated_partial,
    results_as_inputs,
    results_in_input_folder,
    resumed_after_change,
    resumed_after_own_edit,
    socket_at,
    special,
    through_linked_folder,
    twin_names,
    twin_outputs,
    unchanged_time,
    unreadable_file,
    unreadable_folder,
    zarr_out_with_slash,
    zarr_over_user_folder,
)
from faults.cases.formats import ROWS as FORMATS
from faults.cases.texts import ROWS as TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every thirtieth."""
    yield from rows_to_trials([*ROWS, *FORMATS, *TEXTS], small=small, step=30)


NAMES = {
    "a line break": "a\nb.tif",
    "a carriage return": "a\rb.tif",
    "a tab": "a\tb.tif",
    "a space at the end": "in.tif ",
    "a dot at the end": "in.tif.",
    "no letters": "...tif",
    "emoji": "🔬 cells 👩‍🔬.tif",
    "per cent signs": "100%s %d.tif",
    "braces": "{0} {folder}.tif",
    "brackets of markup": "[bold red]x[reset].tif",
    "quotes": 'it\'s "it".tif',
    "a backslash": "a\\b.tif",
    "right-to-left text": "\u202egpj.tif",
    "a leading tilde": "~root.tif",
    "a dollar sign": "$HOME.tif",
    "a leading hyphen": "-x.tif",
    "CON": "CON.tif",
    "a colon": "in:stream.tif",
}
OUTS = {
    "emoji": "🔬.tif",
    "a line break": "a\nb.tif",
    "braces": "{0}{folder}.tif",
    "per cent signs": "%s%n.tif",
    "brackets of markup": "[red].tif",
    "a space before its ending": "out .tif",
    "several endings": "out.tif.tif.ome.tif",
}
ROWS = [
    *(
        Row(f"input whose name holds {what}", partial(named_in, name), "restored, nothing harmed")
        for what, name in NAMES.items()
    ),
    *(
        Row(f"result whose name holds {what}", partial(named_out, name), "saved under that name")
        for what, name in OUTS.items()
    ),
    Row("result named by its ending only", ending_only, "refused: the name is missing"),
    *(
        Row(f"missing file named {name}", partial(missing_named, name), "the name as it is, once")
        for name in ("{path}.tif", "%(path)s.tif", "[red]x[bold].tif", "a  b.tif")
    ),
    Row("input whose name is no text", name_no_text, "restored, report and methods too"),
    Row(
        "NFC and NFD in a batch",
        partial(twin_names, lambda n: unicodedata.normalize("NFD", n)),
        "refused: two results of one name",
    ),
    Row(
        "capital twins in a batch",
        partial(twin_names, str.upper),
        "refused: two results of one name",
    ),
    Row("results NFC and NFD", partial(twin_outputs, "é.tif", "é.tif"), "both, or refused"),
    Row(
        "results that differ in capitals",
        partial(twin_outputs, "O.tif", "o.tif"),
        "both, or refused",
    ),
    Row("input of 255 bytes", long_input, "restored"),
    Row("name of 255 bytes in a batch", long_in_batch, "restored or refused; the other is done"),
    Row("report of 255 bytes", long_report, "saved"),
    Row("folder deeper than a path may be long", deep_path, "restored, or refused in words"),
    Row("file of a batch that looks like a pattern", literal_glob, "that file and no other"),
    Row("folder that may not be written to", readonly_folder, "refused before work"),
    Row("file that may not be read", unreadable_file, "refused"),
    Row("folder that may not be entered", unreadable_folder, "refused"),
    Row("folder of a batch that may not be read", folder_in_batch_unreadable, "refused"),
    Row("overwriting a file of somebody else", others_file, "refused, file whole"),
    Row("overwriting one's own read-only file", readonly_own_file, "refused, file whole"),
    Row("report where nothing may be written", readonly_report, "refused before work"),
    Row("overwriting a private file", kept_permissions, "its permissions stay"),
    Row("overwriting one of two hard links", hard_linked_out, "the other keeps its bytes"),
    *(
        Row(f"{what} as {role}", partial(special, make, role), "refused at once, nothing touched")
        for role, what, make in (
            ("-o", "FIFO", os.mkfifo),
            ("-o", "socket", socket_at),
            ("-o", "loop of links", loop_at),
            ("-o", "link to a folder", folder_link_at),
            ("in", "socket", socket_at),
            ("batch", "FIFO", os.mkfifo),
            ("--mask", "FIFO", os.mkfifo),
            ("--mask", "folder", os.mkdir),
            ("--report", "FIFO", os.mkfifo),
            ("--report", "loop of links", loop_at),
            ("--from-recipe", "FIFO", os.mkfifo),
            ("--from-recipe", "socket", socket_at),
        )
    ),
    Row("input replaced through a linked folder", through_linked_folder, "refused"),
    *(
        Row(
            f"two results at {first} and {second}",
            partial(outputs_twice, (first, second)),
            "refused before work",
        )
        for first, second in (
            ("out.tif", "./out.tif"),
            ("out.tif", "way/out.tif"),
            ("sub/../out.tif", "out.tif"),
        )
    ),
    *(
        Row(f"mask replaced by {option}", partial(over_further_input, option), "refused")
        for option in ("-o", "--uncertainty", "--residual")
    ),
    Row("PSF replaced by the result", over_psf, "refused"),
    Row("mask that is the image", mask_is_image, "refused: all is marked"),
    Row("guide that is the image", guide_is_image, "refused or said"),
    Row("one file named in three ways in a batch", changes_while_batch, "restored once"),
    Row("companions of other systems in a batch", hidden_companions, "left out, and said"),
    Row("empty file among three", one_empty_of_three, "two done, one named, exit 1"),
    Row("results below their inputs, twice", results_in_input_folder, "second refused"),
    Row("results of an earlier batch as inputs", results_as_inputs, "refused by their names"),
    Row("input changed before going on", resumed_after_change, "restored anew"),
    Row("result edited before going on", resumed_after_own_edit, "kept, or said"),
    Row("result beyond a link and ..", renamed_meanwhile, "where the system leads"),
    Row("input by a link of another ending", link_to_input, "read by its bytes"),
    Row("input by a dangling link", dangling_input, "refused"),
    Row("times of the input", unchanged_time, "untouched"),
    Row("input that is read-only", in_place_on_append_only, "restored"),
    Row("Zarr replaced that holds a foreign file", zarr_over_user_folder, "refused or kept"),
    Row("Zarr with a slash behind its name", zarr_out_with_slash, "saved"),
    Row("report over the input", json_into_image, "refused"),
    Row("files called as our working files", repeated_partial, "left as they are"),
    Row("endings in capitals", odd_suffix_case, "OME-TIFF by its name"),
    Row("one run twice", identical_again, "same bytes"),
    Row("picture and residual", companion_sizes, "add up to the input"),
]
