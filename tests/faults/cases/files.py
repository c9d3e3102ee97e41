"""Files as careless, unlucky and malicious people have them: read rightly, refused, or left."""

from __future__ import annotations

import os
import unicodedata
from functools import partial
from typing import TYPE_CHECKING

from faults.cases import (
    Case,
    cases_to_trials,
)
from faults.cases.files_checks import (
    check_bare_extension,
    check_changed_input,
    check_colliding_outputs,
    check_dangling_input,
    check_deep_path,
    check_edited_result,
    check_empty_file_in_batch,
    check_equivalent_names,
    check_equivalent_outputs,
    check_extra_input_as_output,
    check_file_listed_twice,
    check_foreign_file_in_zarr,
    check_foreign_output,
    check_foreign_working_files,
    check_glob_characters,
    check_guide_equal_to_image,
    check_hard_linked_output,
    check_hidden_files,
    check_input_name,
    check_input_untouched,
    check_kept_permissions,
    check_linked_input,
    check_linked_input_folder,
    check_long_name,
    check_long_name_in_batch,
    check_long_report_name,
    check_mask_equal_to_image,
    check_missing_file,
    check_non_utf8_name,
    check_output_name,
    check_parent_of_link,
    check_psf_as_output,
    check_read_only_folder,
    check_read_only_input,
    check_read_only_output,
    check_repeated_bytes,
    check_report_folder,
    check_report_over_image,
    check_residual_is_difference,
    check_results_as_inputs,
    check_results_below_inputs,
    check_special_file,
    check_unreadable_file,
    check_unreadable_folder,
    check_unreadable_subfolder,
    check_upper_case_suffix,
    check_zarr_output_with_slash,
    make_folder_link,
    make_link_loop,
    make_socket,
)
from faults.cases.formats import CASES as FORMATS
from faults.cases.texts import CASES as TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every thirtieth."""
    yield from cases_to_trials([*CASES, *FORMATS, *TEXTS], small=small, step=30)


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
CASES = [
    *(
        Case(
            f"input whose name holds {what}",
            partial(check_input_name, name),
            "restored, nothing harmed",
        )
        for what, name in NAMES.items()
    ),
    *(
        Case(
            f"result whose name holds {what}",
            partial(check_output_name, name),
            "saved under that name",
        )
        for what, name in OUTS.items()
    ),
    Case("result named by its ending only", check_bare_extension, "refused: the name is missing"),
    *(
        Case(
            f"missing file named {name}",
            partial(check_missing_file, name),
            "the name as it is, once",
        )
        for name in ("{path}.tif", "%(path)s.tif", "[red]x[bold].tif", "a  b.tif")
    ),
    Case("input whose name is no text", check_non_utf8_name, "restored, report and methods too"),
    Case(
        "NFC and NFD in a batch",
        partial(check_equivalent_names, lambda n: unicodedata.normalize("NFD", n)),
        "refused: two results of one name",
    ),
    Case(
        "capital twins in a batch",
        partial(check_equivalent_names, str.upper),
        "refused: two results of one name",
    ),
    Case(
        "results NFC and NFD",
        partial(check_equivalent_outputs, "é.tif", "é.tif"),
        "both, or refused",
    ),
    Case(
        "results that differ in capitals",
        partial(check_equivalent_outputs, "O.tif", "o.tif"),
        "both, or refused",
    ),
    Case("input of 255 bytes", check_long_name, "restored"),
    Case(
        "name of 255 bytes in a batch",
        check_long_name_in_batch,
        "restored or refused; the other is done",
    ),
    Case("report of 255 bytes", check_long_report_name, "saved"),
    Case("folder deeper than a path may be long", check_deep_path, "restored, or refused in words"),
    Case(
        "file of a batch that looks like a pattern", check_glob_characters, "that file and no other"
    ),
    Case("folder that may not be written to", check_read_only_folder, "refused before work"),
    Case("file that may not be read", check_unreadable_file, "refused"),
    Case("folder that may not be entered", check_unreadable_folder, "refused"),
    Case("folder of a batch that may not be read", check_unreadable_subfolder, "refused"),
    Case("overwriting a file of somebody else", check_foreign_output, "refused, file whole"),
    Case("overwriting one's own read-only file", check_read_only_output, "refused, file whole"),
    Case("report where nothing may be written", check_report_folder, "refused before work"),
    Case("overwriting a private file", check_kept_permissions, "its permissions stay"),
    Case(
        "overwriting one of two hard links", check_hard_linked_output, "the other keeps its bytes"
    ),
    *(
        Case(
            f"{what} as {role}",
            partial(check_special_file, make, role),
            "refused at once, nothing touched",
        )
        for role, what, make in (
            ("-o", "FIFO", os.mkfifo),
            ("-o", "socket", make_socket),
            ("-o", "loop of links", make_link_loop),
            ("-o", "link to a folder", make_folder_link),
            ("in", "socket", make_socket),
            ("batch", "FIFO", os.mkfifo),
            ("--mask", "FIFO", os.mkfifo),
            ("--mask", "folder", os.mkdir),
            ("--report", "FIFO", os.mkfifo),
            ("--report", "loop of links", make_link_loop),
            ("--from-recipe", "FIFO", os.mkfifo),
            ("--from-recipe", "socket", make_socket),
        )
    ),
    Case("input replaced through a linked folder", check_linked_input_folder, "refused"),
    *(
        Case(
            f"two results at {first} and {second}",
            partial(check_colliding_outputs, (first, second)),
            "refused before work",
        )
        for first, second in (
            ("out.tif", "./out.tif"),
            ("out.tif", "way/out.tif"),
            ("sub/../out.tif", "out.tif"),
        )
    ),
    *(
        Case(f"mask replaced by {option}", partial(check_extra_input_as_output, option), "refused")
        for option in ("-o", "--uncertainty", "--residual")
    ),
    Case("PSF replaced by the result", check_psf_as_output, "refused"),
    Case("mask that is the image", check_mask_equal_to_image, "refused: all is marked"),
    Case("guide that is the image", check_guide_equal_to_image, "refused or said"),
    Case("one file named in three ways in a batch", check_file_listed_twice, "restored once"),
    Case("companions of other systems in a batch", check_hidden_files, "left out, and said"),
    Case("empty file among three", check_empty_file_in_batch, "two done, one named, exit 1"),
    Case("results below their inputs, twice", check_results_below_inputs, "second refused"),
    Case(
        "results of an earlier batch as inputs", check_results_as_inputs, "refused by their names"
    ),
    Case("input changed before going on", check_changed_input, "restored anew"),
    Case("result edited before going on", check_edited_result, "kept, or said"),
    Case("result beyond a link and ..", check_parent_of_link, "where the system leads"),
    Case("input by a link of another ending", check_linked_input, "read by its bytes"),
    Case("input by a dangling link", check_dangling_input, "refused"),
    Case("times of the input", check_input_untouched, "untouched"),
    Case("input that is read-only", check_read_only_input, "restored"),
    Case("Zarr replaced that holds a foreign file", check_foreign_file_in_zarr, "refused or kept"),
    Case("Zarr with a slash behind its name", check_zarr_output_with_slash, "saved"),
    Case("report over the input", check_report_over_image, "refused"),
    Case("files called as our working files", check_foreign_working_files, "left as they are"),
    Case("endings in capitals", check_upper_case_suffix, "OME-TIFF by its name"),
    Case("one run twice", check_repeated_bytes, "same bytes"),
    Case("image and residual", check_residual_is_difference, "add up to the input"),
]
