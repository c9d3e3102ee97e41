"""Imported networks are read as lists of operators; unsafe or costly ones are refused."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch

from napari_dip.engine.operators.network_features import FeatureGraph
from napari_dip.errors import RefusedError
from napari_dip.io import ImageHeader
from napari_dip.io.exported_networks.exported_program import (
    extract_subgraph,
    read_program,
    read_weight,
)
from napari_dip.tasks.invert_features import InvertFeatures
from napari_dip.tasks.network_import.loading import NetworkSource, load_network
from programs import (
    make_convolution,
    make_entries,
    make_small_program,
    make_step,
    refer_to,
    write_archive,
)


def write_program(folder, steps=None, weights=None, **options):
    steps_made, drawn = make_small_program()
    content = make_entries(steps or steps_made, drawn if weights is None else weights, **options)
    return write_archive(folder / "net.pt2", content)


def read_refusal(call):
    with pytest.raises(RefusedError) as caught:
        call()
    return caught.value.reason


def compute_layer(folder, layer, steps=None, pixels=None, **options):
    loaded = read_program(write_program(folder, steps, **options))
    description = extract_subgraph(loaded, layer)
    kept = {
        name: torch.from_numpy(read_weight(loaded, name))
        for name in description.pop("weight_names")
    }
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return FeatureGraph(description, kept)(image if pixels is None else pixels), kept, image


def test_a_layer_is_what_torch_computes_by_hand(tmp_path):
    got, kept, image = compute_layer(tmp_path, "body.3")
    first = torch.conv2d(image, kept["p_first"], padding=1).relu()
    wanted = torch.conv2d(first, kept["p_second"], padding=1).relu()
    torch.testing.assert_close(got, wanted)


def test_only_the_weights_that_a_layer_needs_are_kept(tmp_path):
    loaded = read_program(write_program(tmp_path))
    assert extract_subgraph(loaded, "body.1")["weight_names"] == ["p_first"]
    assert list(loaded.list_layers()) == ["body.0", "body.1", "body.2", "body.3", "body"]


def test_a_rectifier_in_place_leaves_the_layer_before_it_alone(tmp_path):
    steps_of_small, _ = make_small_program()
    steps_of_small[1]["target"] = "torch.ops.aten.relu_.default"
    before, kept, image = compute_layer(tmp_path, "body.0", steps_of_small)
    torch.testing.assert_close(before, torch.conv2d(image, kept["p_first"], padding=1))
    assert float(before.min()) < 0


def test_what_is_read_under_the_old_name_after_a_change_in_place_is_the_new_value(tmp_path):
    steps_of_small, _ = make_small_program()
    steps_of_small[1]["target"] = "torch.ops.aten.relu_.default"
    steps_of_small[2] = make_convolution("conv", "p_second", "conv_1", "body.2")  # not "act"
    got, kept, image = compute_layer(tmp_path, "body.2", steps_of_small)
    first = torch.conv2d(image, kept["p_first"], padding=1).relu()
    torch.testing.assert_close(got, torch.conv2d(first, kept["p_second"], padding=1))


def test_a_layer_whose_result_later_steps_change_twice_is_as_it_was_given(tmp_path):
    steps_of_small, _ = make_small_program()
    inputs = {"self": refer_to("conv"), "other": refer_to("conv")}
    doubled = make_step("torch.ops.aten.add_.Tensor", "sum", "body.1", **inputs)
    changed = make_step("torch.ops.aten.relu_.default", "act", "body.1", self=refer_to("sum"))
    steps = [steps_of_small[0], doubled, changed, steps_of_small[2]]
    got, kept, image = compute_layer(tmp_path, "body.0", steps)
    torch.testing.assert_close(got, torch.conv2d(image, kept["p_first"], padding=1))
    after, kept, _ = compute_layer(tmp_path, "body.2", steps)
    torch.testing.assert_close(after, torch.conv2d((2 * got).relu(), kept["p_second"], padding=1))


def test_another_view_of_what_was_changed_in_place_is_refused(tmp_path):
    sizes = {"as_ints": [1, 4, 16, 16]}
    steps_of_small, _ = make_small_program()
    view = make_step(
        "torch.ops.aten.view.default", "seen", "body.v", self=refer_to("conv"), size=sizes
    )
    changed = make_step("torch.ops.aten.relu_.default", "act", "body.1", self=refer_to("conv"))
    late = make_convolution("seen", "p_second", "conv_1", "body.2")
    loaded = read_program(write_program(tmp_path, [steps_of_small[0], view, changed, late]))
    no = read_refusal(lambda: extract_subgraph(loaded, "body.2"))
    assert no.code == "network-broken" and "in place" in no.sentence


def test_weights_of_an_odd_layout_come_as_they_are_meant(tmp_path):
    _, drawn = make_small_program()
    turned = drawn["p_first"].transpose(0, 1, 3, 2)
    changes = {"p_first": {"strides": [9, 9, 1, 3]}}
    loaded = read_program(write_program(tmp_path, changes=changes))
    np.testing.assert_array_equal(read_weight(loaded, "p_first"), turned)


@pytest.mark.parametrize(
    "lie",
    [
        {"sizes": [2**40, 1, 3, 3]},
        {"sizes": [2**40, 1, 3, 3], "strides": [0, 0, 0, 0]},
        {"sizes": [4, 1, 3, -3]},
        {"strides": [9, 9, 300, 1]},
        {"offset": 1},
        {"offset": -1},
        {"use_pickle": True},
    ],
)
def test_weights_that_claim_more_than_is_there_are_refused(tmp_path, lie):
    path = write_program(tmp_path, changes={"p_first": lie})
    no = read_refusal(lambda: read_weight(read_program(path), "p_first"))
    assert no.code == "network-broken"


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "net/..\\outside", "C:/outside"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    path = write_program(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"mine")
    assert "leads out" in read_refusal(lambda: read_program(path)).sentence


def test_compressed_entries_are_refused_so_that_nothing_can_grow(tmp_path):
    content = {**make_entries(*make_small_program()), "data/weights/weight_9": bytes(2**20)}
    path = write_archive(tmp_path / "net.pt2", content, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    assert "compressed" in read_refusal(lambda: read_program(path)).sentence


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("net.pt2", "network-type"),
        ("net.pth", "network-type"),
        ("net.ts", "network-type"),
    ],
)
def test_pickles_are_refused_unopened_whatever_their_name(tmp_path, name, code):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    assert read_refusal(lambda: read_program(tmp_path / name)).code == code
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("inner", "kind"), [("constants.pkl", "TorchScript"), ("data.pkl", "pickle of PyTorch")]
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_of_code_are_named_for_what_they_are(tmp_path, inner, kind, compression):
    content = {inner: pickle.dumps(Bomb(tmp_path / "executed"))}
    path = write_archive(tmp_path / "net.pt2", content, compression=compression)
    no = read_refusal(lambda: read_program(path))
    assert no.code == "network-type" and kind in no.sentence and "torch.export" in no.remedy
    assert not (tmp_path / "executed").exists()


def test_a_program_whose_weights_an_older_torch_has_pickled_is_refused(tmp_path):
    content = make_entries(*make_small_program())
    del content["data/weights/model_weights_config.json"]
    content["data/weights/model.pt"] = pickle.dumps(Bomb(tmp_path / "executed"))
    path = write_archive(tmp_path / "net.pt2", content)
    assert "pickled the weights" in read_refusal(lambda: read_program(path)).sentence
    assert not (tmp_path / "executed").exists()


def write_changed_model(folder, change):
    content = make_entries(*make_small_program())
    model = json.loads(content["models/model.json"])
    change(model)
    content["models/model.json"] = json.dumps(model).encode()
    return write_archive(folder / "net.pt2", content)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model["schema_version"].update(major=9),
        lambda model: model["graph_module"].pop("graph"),
        lambda model: model["graph_module"]["graph"].update(nodes=[{"target": 7}]),
        lambda model: model["graph_module"]["signature"]["input_specs"].append(
            {"custom_obj": {"arg": {"name": "o"}, "custom_obj_name": "o"}}
        ),
        lambda model: model["graph_module"]["signature"]["input_specs"].append(
            {"user_input": {"arg": {"as_tensor": {"name": "y"}}}}
        ),
        lambda model: model["graph_module"]["graph"]["nodes"][0]["inputs"].append(
            {"name": "groups", "arg": {"as_graph": {"name": "g", "graph": {}}}}
        ),
    ],
)
def test_a_graph_that_lacks_sense_or_holds_objects_is_refused(tmp_path, change):
    path = write_changed_model(tmp_path, change)
    assert read_refusal(lambda: read_program(path)).code == "network-broken"


def test_steps_that_need_each_other_are_refused(tmp_path):
    steps_of_small, _ = make_small_program()
    steps_of_small[0] = make_convolution("act_1", "p_first", "conv", "body.0")
    loaded = read_program(write_program(tmp_path, steps_of_small))
    assert (
        "before what it needs" in read_refusal(lambda: extract_subgraph(loaded, "body.3")).sentence
    )


@pytest.mark.parametrize(
    "operator", ["aten.normal_.default", "aten.from_file.default", "mine.run.default"]
)
def test_the_graph_carries_out_nothing_but_what_is_allowed(operator):
    description = {"image": "x", "output": "y", "steps": [[operator, {}, ["y"], False]]}
    with pytest.raises(ValueError, match="not allowed"):
        FeatureGraph(description, {})


def test_every_operator_that_is_allowed_exists():
    from napari_dip.engine.operators.network_features import ALLOWED_OPERATORS

    for name in ALLOWED_OPERATORS:
        _, family, kind = name.split(".")
        assert hasattr(getattr(torch.ops.aten, family), kind), name


def test_an_operator_after_the_layer_does_not_matter(tmp_path):
    steps_of_small, _ = make_small_program()
    odd = make_step("torch.ops.mine.run.default", "odd", "head", x=refer_to("act_1"))
    loaded = read_program(write_program(tmp_path, [*steps_of_small, odd]))
    assert "odd" not in str(extract_subgraph(loaded, "body.3"))


def test_a_wrong_layer_is_refused_with_the_nearest_names(tmp_path):
    no = read_refusal(lambda: extract_subgraph(read_program(write_program(tmp_path)), "bady.3"))
    assert no.code == "layer-unknown" and "body.3" in no.remedy


class TestInSubprocess:
    """Each of these starts a process: few, and of files whose refusal needs no torch."""

    @pytest.mark.long
    def test_an_operator_that_is_not_allowed_is_refused_by_name(self, tmp_path):
        steps_of_small, _ = make_small_program()
        odd = make_step(
            "torch.ops.aten.from_file.default", "odd", "head", filename=refer_to("act_1")
        )
        path = write_program(tmp_path, [*steps_of_small, odd])
        with pytest.raises(RefusedError, match=r"aten.from_file.default") as refused:
            load_network(NetworkSource(network=str(path), weights=None), "head", (32, 32))
        assert refused.value.code == "network-operator"

    @pytest.mark.long
    @pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
    def test_what_takes_more_memory_than_is_allowed_is_refused(self, tmp_path, monkeypatch):
        content = {**make_entries(*make_small_program())}
        content["models/model.json"] += b" " * (2**24 - len(content["models/model.json"]))
        path = write_archive(tmp_path / "net.pt2", content)
        network_file = NetworkSource(network=str(path), weights=None)
        monkeypatch.setattr("napari_dip.tasks.network_import.loading.MAX_LOADING_BYTES", 2**22)
        with pytest.raises(RefusedError) as refused:
            load_network(network_file, "body.3", (32, 32))
        assert refused.value.code == "network-limits"


@pytest.mark.parametrize(
    ("network", "weights", "code"),
    [
        ("", None, "network-missing"),
        ("net.pth", None, "network-type"),
        ("none.pt2", None, "file-missing"),
        ("vgg16", None, "weights-missing"),
        ("vgg16", "none.safetensors", "file-missing"),
    ],
)
def test_bad_file_names_are_refused_before_anything_is_opened(network, weights, code):
    no = NetworkSource(network=network, weights=weights).refuse_files()
    assert no is not None and no.code == code


def test_a_text_file_is_refused_before_a_layer_is_asked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("not a network")
    header = ImageHeader(name="a", shape=(32, 32), dtype="uint8", axes="YX")
    no = InvertFeatures(network=str(tmp_path / "notes.txt")).plan(header, {}, "YX")
    assert no.code == "network-foreign" and "notes.txt" in no.message
