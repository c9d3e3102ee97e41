"""A prior is built by its row of the table, and its name is compared nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import napari_dip
from fit_inputs import make_plain_fit_input
from napari_dip.tasks.base import DEFAULT_PRIOR
from napari_dip.tasks.priors import registry
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from syntax_trees import list_nodes

PACKAGE = Path(napari_dip.__file__).parent
#: Names of the rows in the registry; a noise model names the row that it goes with.
ROWS = {name for name, value in vars(registry).items() if value in PRIOR_SPECS.values()}
NOISE_MODELS = Path("tasks/noise_models/registry.py")
#: Names of priors in recipes and reports, without those that are words of another meaning.
KEYS = {name for row in PRIOR_SPECS.values() for name in (row.key, row.choice)}
KEYS -= {"guided", "pixels", "none"}


def iterate_modules():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "priors":
            yield path.relative_to(PACKAGE), list_nodes(path.read_text(encoding="utf-8"))


def test_no_task_names_a_row():
    strangers = {
        place
        for place, nodes in iterate_modules()
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == registry.__name__
        if ROWS & {alias.name for alias in node.names}
    }
    assert strangers == {NOISE_MODELS}


@pytest.mark.long
def test_the_name_of_a_prior_stands_in_the_table_alone():
    holders = {
        (place, node.value)
        for place, nodes in iterate_modules()
        if place != Path("public_types.py")  # its types are generated from the table
        for node in nodes
        if isinstance(node, ast.Constant) and node.value in KEYS
    }
    assert holders == {(Path("tasks/base.py"), DEFAULT_PRIOR)}


@pytest.mark.parametrize("key", sorted(PRIOR_SPECS.keys() - {"zssr", "recompression", "guided"}))
def test_each_row_builds_a_prior_whose_network_takes_its_input(key):
    scene = make_plain_fit_input((16, 20))
    prior = PRIOR_SPECS[key].build_prior(scene, torch.Generator().manual_seed(0))
    draw = prior.draw_step_input(torch.Generator().manual_seed(0))
    estimate = prior.estimate(prior.network(draw.network_input))
    assert estimate.mean.shape == (1, 1, 16, 20)
