"""A prior is built by its row of the table, and its name is compared nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import napari_dip
from fit_inputs import make_plain_fit_input
from napari_dip.tasks.priors import registry
from napari_dip.tasks.priors.registry import PRIOR_SPECS

PACKAGE = Path(napari_dip.__file__).parent
#: Names of the rows in the registry, and modules that choose among them: tasks and noise models.
ROWS = {name for name, value in vars(registry).items() if value in PRIOR_SPECS.values()}
CHOOSERS = {path.relative_to(PACKAGE) for path in (PACKAGE / "tasks").glob("*.py")}
CHOOSERS |= {Path("tasks/noise_models/registry.py")}
#: Keys of priors that are also settings of a user, or words of another meaning.
SETTINGS = {prior.setting or key for key, prior in PRIOR_SPECS.items()} | {"guided", "pixels"}


def parsed():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "priors":
            yield path.relative_to(PACKAGE), ast.parse(path.read_text(encoding="utf-8"))


def test_only_tasks_and_noise_models_choose_a_row():
    strangers = {
        place
        for place, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == registry.__name__
        if ROWS & {alias.name for alias in node.names}
    }
    assert strangers <= CHOOSERS


def test_a_fit_never_asks_for_the_name_of_its_prior():
    compared = [
        (place, node.lineno)
        for place, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if ast.unparse(side) in {f"{row}.key" for row in ROWS} and "fit_input" in ast.unparse(node)
    ]
    assert compared == []


def test_keys_that_no_user_sets_stand_in_the_table_and_in_that_of_old_names_alone():
    inner = PRIOR_SPECS.keys() - SETTINGS
    assert inner
    holders = {
        place
        for place, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in inner
    }
    assert holders <= {Path("pipeline/recipe.py"), Path("pipeline/assess/references.py")}


@pytest.mark.parametrize("key", sorted(PRIOR_SPECS.keys() - {"zssr", "recompression", "guided"}))
def test_each_row_builds_a_prior_whose_network_takes_its_input(key):
    scene = make_plain_fit_input((16, 20))
    prior = PRIOR_SPECS[key].build(scene, torch.Generator().manual_seed(0))
    draw = prior.draw_training_input(torch.Generator().manual_seed(0))
    estimate = prior.estimate(prior.net(draw.network_input))
    assert estimate.mean.shape == (1, 1, 16, 20)
