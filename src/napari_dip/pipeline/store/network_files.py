"""Save the fitted network of a run, and read the network files that other runs use.

A network of several images is applied to each; that of one image is what a fit of another begins
with. A network is saved as safetensors, or as a package of the BioImage Model Zoo: TorchScript with
test tensors and a page. https://github.com/bioimage-io/spec-bioimage-io describes its fields.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile, ZipInfo, is_zipfile

import numpy as np

from napari_dip.errors import Refusal, RefusedError, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable, render_text
from napari_dip.io.atomic import write_atomically
from napari_dip.io.outputs import NETWORK_SUFFIXES, lock_outputs, resolve_output
from napari_dip.io.paths import compute_file_sha256, stat_readable_file
from napari_dip.pipeline.assess.methods_section import PAPERS, list_paper_keys
from napari_dip.pipeline.assess.report import select_repeatable_fields
from napari_dip.pipeline.plan.costs import group_channels
from napari_dip.pipeline.plan.joint_training import make_joint_unit_id
from napari_dip.pipeline.plan.types import INFERENCE, JOINT, JointNetwork
from napari_dip.pipeline.store.checkpoints import parse_outcome
from napari_dip.pipeline.store.result_files import convert_to_failure, format_json
from napari_dip.pipeline.store.tensor_file import (
    DAMAGE_ERRORS,
    group_tensors,
    read_metadata,
    read_tensors,
    write_tensors,
)
from napari_dip.pipeline.torch_state import load_torch, use_default_torch_state
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from napari_dip.tasks.shared_settings import can_train_jointly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from napari_dip.engine.fit.trainer import FinalInference
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.calibrate.types import RunPlan
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit
    from napari_dip.public_types import FilePath, Report

#: Schema of network files; increased when older files would be misread.
NETWORK_FILE_SCHEMA = 3
#: Name of the network file among the inputs of a run.
NETWORK_FILE_INPUT = "network_file"
#: Version of the model description: the oldest whose fields suffice.
BIOIMAGE_FORMAT_VERSION = "0.5.4"
#: Parts of a TorchScript file that running it does not need. They hold paths of this computer.
_DEBUG_ENTRIES = re.compile(r"\.debug_pkl$|/traced_inputs")
#: DOI or arXiv number at the end of a paper's entry; arXiv has DOIs of this form.
_DOI_PATTERN = re.compile(r"(?:doi:|arXiv:(?=\d))(\S+?)\.?$")


def pop_network_file(inputs: dict[str, Any]) -> JointNetwork | None:
    """Remove the network of other images from extra inputs and return it; None if there is none."""
    path = inputs.pop(NETWORK_FILE_INPUT, None)
    return None if path is None else read_network(path)


def read_network(path: FilePath) -> JointNetwork:
    """Read the description of a network file, without importing torch or verifying the weights.

    Raises
    ------
    RefusedError
        If the file is no network file, or cannot be read.
    """
    file_path, _ = stat_readable_file(path)
    printable = make_printable(str(file_path))
    if is_zipfile(file_path):
        raise RefusedError("joint-package", path=printable)
    digest, is_unfit = compute_file_sha256(file_path), False
    try:
        metadata = read_metadata(file_path)
        is_unfit = "network" not in metadata and "fitted_network" in metadata
        description = metadata["network"]
        if description["schema"] != NETWORK_FILE_SCHEMA:
            raise ValueError(f"its schema is {description['schema']}")
        return JointNetwork(
            path=os.fspath(path),
            sha256=digest,
            task=str(description["task"]),
            settings=dict(description["settings"]),
            preset=str(description["preset"]),
            version=str(description["version"]),
            restarts=int(description["restarts"]),
            prior_key=str(description["prior_key"]),
            widths=tuple(int(width) for width in description["widths"]),
            uses_half_resolution=bool(description["uses_half_resolution"]),
            groups=tuple(tuple(int(c) for c in group) for group in description["groups"]),
            files=tuple(str(file["name"]) for file in description["files"]),
            outcomes=tuple(parse_outcome(outcome) for outcome in description["outcomes"]),
        )
    except DAMAGE_ERRORS as error:
        why = "it was not written as one, or it is damaged"
        why = render_text("network-unfit") if is_unfit else why
        raise RefusedError("joint-broken", path=printable, why=why) from error


def read_fitted_network(network: JointNetwork) -> JointNetwork:
    """Return a network of a plan as it was fitted, which may have been after the plan was made."""
    return network if network.sha256 else read_network(network.path)


def read_network_weights(network: JointNetwork) -> dict[str, dict[str, Any]]:
    """Read and verify the weights of a network file, by series and parameter name.

    Raises
    ------
    RefusedError
        If the weights are damaged, or the file has changed since the run was planned.
    """
    path, printable = Path(network.path), make_printable(network.path)
    if compute_file_sha256(path) != network.sha256:
        why = "it has changed since it was looked at"
        raise RefusedError("joint-broken", path=printable, why=why)
    try:
        tensors = read_tensors(path)
        if network.is_of_one_image:
            return {network.outcomes[0].joint_network_name: tensors}
        return group_tensors(tensors)
    except DAMAGE_ERRORS as error:
        why = "its weights are damaged"
        raise RefusedError("joint-broken", path=printable, why=why) from error


def list_network_outcomes(run_plan: RunPlan, outcomes: Sequence[UnitOutcome]) -> list[UnitOutcome]:
    """Return the outcomes of the network's own fits that are not among `outcomes` yet.

    The first note on joint training is replaced by one that names the network's file.
    """
    if run_plan.network is None:
        return []
    name = make_printable(run_plan.network.name)
    note_key = "network-start" if run_plan.network.is_of_one_image else "joint-network-file"
    existing_ids = {outcome.unit_id for outcome in outcomes}
    series_names = {unit.joint_network_name for unit in run_plan.units}
    missing_outcomes = []
    for outcome in run_plan.network.outcomes:
        if outcome.joint_network_name not in series_names or outcome.unit_id in existing_ids:
            continue
        if outcome.role == JOINT:
            note = make_note(note_key, name=name, count=outcome.region_count)
            outcome = replace(outcome, notes=(note, *outcome.notes[1:]))
        missing_outcomes.append(outcome)
    return missing_outcomes


def describe_file(header: ImageHeader, sha256: str) -> dict[str, Any]:
    """Return what a network file says of an image that the network was fitted to."""
    return {"name": header.name, "sha256": sha256, "shape": list(header.shape), "axes": header.axes}


def describe_network(
    run_plan: RunPlan,
    files: Sequence[Mapping[str, Any]],
    outcomes: Iterable[UnitOutcome],
    *,
    restarts: int,
    uses_half_resolution: bool,
) -> dict[str, Any]:
    """Return the description in a network file, in plain JSON types.

    Parameters
    ----------
    run_plan : RunPlan
        Of the run, or of the first file that it was fitted to.
    files : sequence of mapping
        Of each file that it was fitted to, by `describe_file`.
    outcomes : iterable of UnitOutcome
        Outcomes of its fit and of the fine-tuning probes.
    restarts : int
        Number of networks for each group of channels.
    uses_half_resolution : bool
    """
    from napari_dip.version import __version__

    recipe, fit_config = run_plan.recipe, run_plan.fit_config
    groups = group_channels(run_plan.task_plan, run_plan.header)
    return {
        "schema": NETWORK_FILE_SCHEMA,
        "version": __version__,
        "task": recipe.task.spec.name,
        "settings": recipe.task.to_dict(),
        "preset": recipe.run_settings.preset,
        "recipe": recipe.to_dict(),
        "restarts": restarts,
        "prior_key": fit_config.prior_key,
        "widths": list(fit_config.widths),
        "uses_half_resolution": uses_half_resolution,
        "groups": [list(group) for group in groups],
        "files": list(files),
        "outcomes": [outcome.to_dict() for outcome in outcomes],
        "device": run_plan.device,
        "threads": run_plan.threads,
    }


def refuse_network(plan: Plan) -> Refusal | None:
    """Refuse to save the network of a run that has none, or one for each tile."""
    has_network = PRIOR_SPECS[plan.fit_config.prior_key].has_network
    return None if has_network and not plan.tiles else make_refusal("network-none")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunNetwork:
    """Network of the last fit of a run, with its weights and what describes them.

    Attributes
    ----------
    run_plan : RunPlan
    unit : WorkUnit
        The last one that the network was applied to.
    outcome : UnitOutcome
    weights : mapping of str to Tensor
    report : Report
    offset, scale : tuple of float
        Grey value of 0 in network units, and grey values of 1, for each channel of the unit.
    build : callable
        Returns the network with these weights, and the input that it had.
    """

    run_plan: RunPlan = field(repr=False)
    unit: WorkUnit
    outcome: UnitOutcome
    weights: Mapping[str, Any] = field(repr=False)
    report: Report = field(repr=False)
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    build: Callable[[], FinalInference] = field(repr=False)

    def save(self, path: FilePath, *, overwrite: bool = False) -> Path:
        """Save the network; see `napari_dip.public_types.FittedNetwork`."""
        headers = (self.run_plan.header, *self.run_plan.extra_headers.values())
        inputs = [header.path for header in headers if header.path]
        check = partial(resolve_output, path, inputs, overwrite, suffixes=NETWORK_SUFFIXES)
        with lock_outputs(check, path) as target:
            try:
                self.write(target, overwrite=overwrite)
            except Exception as error:
                raise convert_to_failure(error, target) from error
        return Path(path)

    def write(self, target: Path, *, overwrite: bool) -> None:
        """Write the network to a path that was checked."""
        if target.suffix.lower() != ".zip":
            start = {"network": self._describe_start()} if self.can_start_fit else {}
            write_tensors(target, self.weights, {"fitted_network": self.to_dict(), **start})
            return
        files = self._make_package()
        with write_atomically(target, overwrite=overwrite) as path, ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(ZipInfo(name), content)  # without a time: equal bytes

    @property
    def can_start_fit(self) -> bool:
        """Whether the fit of another image can begin with it.

        It was fitted from random weights to one plane, once and to the end, to all its channels
        together, and has the image as input.
        """
        run_plan, outcome = self.run_plan, self.outcome
        channels = [unit.channels for unit in run_plan.units if unit.has_estimate]
        is_single = channels == [self.unit.channels] and not run_plan.layout.is_volume
        is_of_other_images = run_plan.tiles or run_plan.network is not None
        is_usual = is_single and not is_of_other_images and not outcome.is_ended_by_user
        return is_usual and can_train_jointly(run_plan.task_plan, outcome.prior_key)

    def _describe_start(self) -> dict[str, Any]:
        """Return the network as one of one image, for the fit of another."""
        name = self.unit.weights_name
        outcome = replace(
            self.outcome,
            unit_id=make_joint_unit_id(name),
            notes=(),
            evidence=(),
            is_refined=False,
            role=JOINT,
            joint_network_name=name,
            region_count=1,
        )
        return describe_network(
            self.run_plan,
            [describe_file(self.run_plan.header, self.report["input_sha256"])],
            [outcome],
            restarts=1,
            uses_half_resolution=self.report["fit"]["half_resolution"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return image, recipe, noise and limits of the network, in plain JSON types."""
        description = {
            "source": self.run_plan.header.name,
            "unit": self.unit.id,
            "channels": [channel + 1 for channel in self.unit.channels],
            "offset": self.offset,
            "scale": self.scale,
            "left_out": self._list_left_out(),
            "recipe": self.report["recipe"],
            "report": select_repeatable_fields(self.report),
        }
        plain: dict[str, Any] = json.loads(format_json(description))
        return plain

    def _list_left_out(self) -> list[str]:
        """Return one sentence for each thing that is done in a run, and not by the network."""
        unit_count = sum(unit.has_estimate for unit in self.run_plan.units)
        uses_noise = PRIOR_SPECS[self.outcome.prior_key].input_traits.is_random_noise
        conditions = {
            "network-units": True,
            "network-before": True,
            "network-size": True,
            "network-half": self.report["fit"]["half_resolution"],
            "network-passes": True,
            "network-others": unit_count > 1 and self.unit.role != INFERENCE,
            "network-average": uses_noise,
            "network-joint": self.unit.role == INFERENCE,
            "network-ended": self.outcome.is_ended_by_user,
            "network-device": self.run_plan.device != "cpu",
        }
        facts = {"count": unit_count, "refined": self.outcome.is_refined}
        return [render_text(key, **facts) for key, holds in conditions.items() if holds]

    def _make_package(self) -> dict[str, bytes]:
        """Return the files of a package by name, after a check of the saved module."""
        load_torch()
        with use_default_torch_state(self.run_plan.threads):
            module = self.build().eval()
            source = module.source.contiguous()
            output = module(source)
            script = _make_torchscript(module, source, output)
        arrays = {"test_input.npy": source.numpy(), "test_output.npy": output.numpy()}
        model = self._serialise_model(*(array.shape for array in arrays.values()))
        units = zip(self.unit.channels, self.offset, self.scale, strict=True)
        page = render_text(
            "network-page",
            title=model["name"],
            program=f"napari-dip {self.report['version']}",
            source=make_printable(self.run_plan.header.name),
            sha256=self.report["input_sha256"],
            input=model["inputs"][0]["description"],
            output=model["outputs"][0]["description"],
            left_out="\n".join(f"- {sentence}" for sentence in self._list_left_out()),
            units="\n".join(
                f"| {channel + 1} | {offset!r} | {scale!r} |" for channel, offset, scale in units
            ),
            noise=format_json(self.report["noise"]),
            recipe=format_json(self.report["recipe"]),
        )
        return {
            "rdf.yaml": format_json(model).encode(),  # JSON is YAML
            "README.md": page.encode(),
            "weights.pt": script,
            **{name: _format_array(array) for name, array in arrays.items()},
        }

    def _serialise_model(
        self, source_shape: tuple[int, ...], shape: tuple[int, ...]
    ) -> dict[str, Any]:
        """Return the description of the model by the specification of the BioImage Model Zoo."""
        torch, task = load_torch(), self.report["task"]
        stem = re.sub(r"[^\w.-]+", " ", self.run_plan.header.name, flags=re.ASCII)[:80].strip()
        traits = PRIOR_SPECS[self.outcome.prior_key].input_traits
        kind = "network-input-noise" if traits.is_random_noise else "network-input-image"
        tensors = ("input", kind, source_shape), ("output", "network-output", shape)
        inputs, outputs = (
            {
                "id": name,
                "description": render_text(text_key),
                "axes": self._serialise_axes(tensor_shape),
                "test_tensor": {"source": f"test_{name}.npy"},
                "data": {"type": "float32"},
            }
            for name, text_key, tensor_shape in tensors
        )
        papers = [PAPERS[key] for key in list_paper_keys(self.report)]
        return {
            "type": "model",
            "format_version": BIOIMAGE_FORMAT_VERSION,
            "name": f"{task} of {stem}",
            "description": render_text("network-summary"),
            "documentation": {"source": "README.md"},
            "authors": [{"name": f"napari-dip {self.report['version']}"}],
            "cite": [
                {
                    "text": paper,
                    "doi": match[1] if "/" in match[1] else f"10.48550/arXiv.{match[1]}",
                }
                for paper in papers
                if (match := _DOI_PATTERN.search(paper))
            ],
            "tags": ["napari-dip", "deep-image-prior", task],
            "inputs": [inputs],
            "outputs": [outputs],
            "weights": {
                "torchscript": {"source": "weights.pt", "pytorch_version": torch.__version__}
            },
            "config": {"napari_dip": self.to_dict()},
        }

    def _serialise_axes(self, shape: tuple[int, ...]) -> list[dict[str, Any]]:
        """Return the axes of a tensor (1, C, *grid)."""
        grid_axes = self.run_plan.layout.grid_axes
        names = [f"channel{number}" for number in range(1, shape[1] + 1)]
        axes: list[dict[str, Any]] = [
            {"type": "batch", "size": 1},
            {"type": "channel", "channel_names": names},
        ]
        for letter, size in zip(grid_axes, shape[2:], strict=True):
            kind = {"type": "time"} if letter == "T" else {"type": "space", "id": letter.lower()}
            axes.append({"size": size, **kind})
        return axes


def _make_torchscript(module: FinalInference, source: Any, output: Any) -> bytes:
    """Return the bytes of a module as TorchScript, without paths of this computer.

    Raises
    ------
    ValueError
        If it does not give the same output for the source.
    """
    torch, saved, stripped = load_torch(), BytesIO(), BytesIO()
    with warnings.catch_warnings():  # sizes become constants, and torch.export is no such format
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, (source,), check_trace=False), saved)
        with ZipFile(saved) as archive, ZipFile(stripped, "w") as target:
            for name in archive.namelist():
                if not _DEBUG_ENTRIES.search(name):
                    target.writestr(ZipInfo(name), archive.read(name))
        if not torch.equal(torch.jit.load(BytesIO(stripped.getvalue()))(source), output):
            raise ValueError("the saved network gives other pixels than the run")
    return stripped.getvalue()


def _format_array(array: Any) -> bytes:
    """Return the bytes of an array as NPY file."""
    content = BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()
