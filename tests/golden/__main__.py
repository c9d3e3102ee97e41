"""`make golden`: compare the pixels of all recipes with those that were frozen.

    PYTHONPATH=tests python -m golden [--check | --freeze | --add] [--match TEXT]...

Freeze before a change that must not change pixels, and check after it. A pixel that is meant to
change is frozen anew, in the commit that changes it, which says why; with --match, other machines
of the file then keep only its block means. Another processor has other
last digits: there `--add` adds those that the file lacks of this machine, of a state that a machine
in the file has confirmed. Ends with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from contextlib import redirect_stderr
from pathlib import Path

from golden.processor import choose_blas_kernels


def main() -> int:
    """Freeze or check; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make golden", description=__doc__)
    parser.add_argument("--freeze", action="store_true", help="write hashes.json anew")
    parser.add_argument("--add", action="store_true", help="add this machine's pixels to it")
    parser.add_argument("--check", action="store_true", help="compare with it, as without options")
    parser.add_argument(
        "--match", action="append", help="check or freeze only recipes that begin so"
    )
    arguments = parser.parse_args()
    if (arguments.freeze or arguments.add) and (
        arguments.check or arguments.freeze == arguments.add
    ):
        parser.error("--freeze and --add take no other option")
    if arguments.add and arguments.match:
        parser.error("--add writes all recipes")
    with tempfile.TemporaryDirectory() as home:
        _set_environment(Path(home))
        return _run(freeze=arguments.freeze, add=arguments.add, match=tuple(arguments.match or ()))


def _set_environment(home: Path) -> None:
    """Set home folder, one thread and no screen before any import."""
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    os.environ.update(dict.fromkeys(names, str(home)))
    os.environ["NAPARI_CONFIG"] = str(home / "settings.yaml")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.update(choose_blas_kernels())
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    logging.disable(logging.WARNING)


def _run(*, freeze: bool, add: bool, match: tuple[str, ...]) -> int:
    from golden.checking import find_changes, find_disagreements, merge_parts, run_interfaces
    from golden.hashes import (
        add_machine,
        find_machine,
        has_hash,
        make_machine_key,
        read_hashes,
        refreeze,
        write_hashes,
    )
    from golden.recipes import RECIPES

    began, kept, failed = time.monotonic(), {}, 0
    file = {} if freeze and not match else read_hashes()
    machine = find_machine(file) if file else None
    if freeze and match and machine is None:
        print("This machine is not in the file; freeze all recipes, or add it first.")
        return 1
    chosen = [recipe for recipe in RECIPES if recipe.name.startswith(match or ("",))]
    if add:
        chosen = [recipe for recipe in chosen if not has_hash(file, recipe.name, machine)]
    for recipe in chosen:
        with open(os.devnull, "w", encoding="utf-8") as quiet, redirect_stderr(quiet):
            outcomes = run_interfaces(recipe)
        wrong = find_disagreements(outcomes)
        wrong += [] if freeze or add else find_changes(recipe, outcomes, file, machine=machine)
        for sentence in wrong:
            print(f"{recipe.name}: {sentence}", flush=True)
        failed += bool(wrong)
        kept[recipe.name] = merge_parts(outcomes)
    if freeze and not failed and not match:
        write_hashes([make_machine_key()], kept)
    if freeze and not failed and machine is not None:
        frozen = {**file["recipes"], **refreeze(file, kept, machine)}
        in_order = {recipe.name: frozen[recipe.name] for recipe in RECIPES if recipe.name in frozen}
        write_hashes(file["machines"], in_order)
    if add and not failed:
        new = [] if machine is not None else [make_machine_key()]
        write_hashes([*file["machines"], *new], add_machine(file, kept, machine))
    compared = "compared coarsely" if machine is None else "compared by bytes"
    verb = "frozen" if freeze or add else compared
    print(f"{len(chosen)} recipes {verb}, {failed} wrong, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
