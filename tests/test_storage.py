"""Model files: what goes in comes out, the same for every process and other programs.

What is damaged or crafted is refused: see test_altered_models.py and test_hostile_models.py.
"""

import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from crafted import parts
from torch import nn
from zoo.pairs import (
    MLP,
    PAIRS,
    D,
    Own,
    X,
    binary,
    bound,
    decoder,
    perturbed,
    plain,
    small,
    with_own,
)

import aevb
from aevb.conditional import Conditional
from aevb.errors import ModelFileError, TrainingError, UsageError
from aevb.families import Bernoulli, Columns, Normal
from aevb.posterior import Amortized, PerDatum
from aevb.storage.description import ACTIVATIONS, CLASSES, describe, restore
from aevb.storage.files import parse_json, read_json


def refusal(folder, modules=None):
    """The one sentence that a folder is refused with."""
    with pytest.raises(ModelFileError) as caught:
        aevb.load(folder, modules)
    sentence = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in sentence
    assert 0 < len(sentence) < 1000
    return sentence


# --- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_saved_model_gives_the_same_bound_to_the_bit(tmp_path, name, dtype):
    build, data = PAIRS[name]
    model, posterior = (module.to(dtype) for module in perturbed(build))
    x = data(torch.Generator().manual_seed(2))
    before = bound(model, posterior, x, dtype)
    aevb.save(tmp_path, model, posterior)
    again = aevb.load(tmp_path)
    assert torch.isfinite(before).all()
    after = bound(*again, x, dtype)
    if name == "convolutional" and dtype == torch.float64:
        # Torch's own products differ in the last bit with where their buffers lie.
        assert torch.allclose(before, after, rtol=1e-14, atol=0)
    else:
        assert torch.equal(before, after)
    assert not any(module.training for module in again)
    for then, now in zip((model, posterior), again, strict=True):
        assert describe(then) == describe(now)
        assert {k: v.requires_grad for k, v in then.named_parameters()} == {
            k: v.requires_grad for k, v in now.named_parameters()
        }


def test_the_round_trips_cover_every_class_of_the_table():
    seen = set()
    for build, _ in PAIRS.values():
        for module in build():
            seen |= {type(part).__name__ for part in module.modules()} & set(CLASSES)
    assert seen == set(CLASSES)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_described_and_restored(name):
    network = aevb.MLP(2, [3], 1, ACTIVATIONS[name])
    again = restore(json.loads(json.dumps(describe(network))), {}, "network")
    assert type(again.body[1]) is ACTIVATIONS[name]


def test_a_trained_model_goes_on_training_after_loading(saved):
    model, posterior = aevb.load(saved)
    data = aevb.data.split(table())
    learner = aevb.AEVB(model, posterior)
    before = {k: v.clone() for k, v in learner.init().parameters.items()}
    aevb.train(learner, data, aevb.Plan(epochs=1))
    assert all(not torch.equal(before[k], v) for k, v in learner.init().parameters.items())


def table(rows=40):
    values = np.random.default_rng(0).integers(0, 2, (rows, X)).astype(np.uint8)
    return aevb.data.Source("table", values, (X,), "bernoulli", "0 and 1", "none")


def test_facts_join_the_config_and_do_not_disturb_loading(tmp_path):
    aevb.save(tmp_path, *small(), facts={"remark": [1, 2]})
    assert read_json(tmp_path / "config.json")["remark"] == [1, 2]
    aevb.load(tmp_path)


@pytest.mark.parametrize(
    "facts",
    [{"model": "mine"}, {"format": 1}, {"loss": math.nan}, {"at": Path("a")}, {"x": "x" * 2**24}],
    ids=["a name that is taken", "the format", "NaN", "a path", "more than is read"],
)
def test_facts_that_would_spoil_the_folder_are_refused_in_a_sentence(saved, facts):
    before = {path: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(UsageError) as caught:
        aevb.save(saved, *small(), facts=facts)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert before == {path: path.read_bytes() for path in saved.iterdir()}


def test_a_diverged_model_leaves_the_good_one_that_is_there(saved):
    before = {path: path.read_bytes() for path in saved.iterdir()}
    model, posterior = plain(lambda: aevb.bernoulli(aevb.MLP(D, [7], X)))()
    nn.init.constant_(model.likelihood.network.body[0].weight, math.inf)
    with pytest.raises(TrainingError, match="not finite"):
        aevb.save(saved, model, posterior)
    assert before == {path: path.read_bytes() for path in saved.iterdir()}


def of_columns(families, groups):
    """A model of tables, of a family for each group of columns."""
    family = Columns(families, groups)
    width = sum(map(len, groups))
    network = aevb.MLP(1, [], family.outputs(width))
    encoder = aevb.mean_field(aevb.MLP(width, [], 2))
    return aevb.Model(aevb.standard_normal(1), Conditional(network, family)), encoder


@pytest.mark.parametrize("width", [2_100, 20_000])
def test_a_model_of_many_columns_is_read_back(tmp_path, width):
    half = [list(range(0, width, 2)), list(range(1, width, 2))]
    model, posterior = of_columns([Normal(), Bernoulli()], half)
    names = [f"the count of cells in region {i:06d} of the plate" for i in range(width)]
    aevb.save(tmp_path, model, posterior, facts={"data": {"columns": names}})
    again = aevb.load(tmp_path)[0]
    assert again.likelihood.family.columns == model.likelihood.family.columns


def test_a_model_that_no_file_may_hold_is_refused_before_it_is_written(tmp_path):
    pair = of_columns([Normal() for _ in range(5_000)], [[i] for i in range(5_000)])
    with pytest.raises(UsageError, match="more than 10000 items"):
        aevb.save(tmp_path / "new", *pair)
    assert not (tmp_path / "new").exists()


def test_saving_where_nothing_can_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelFileError, match="cannot be written"):
        aevb.save(tmp_path / "file", *small())


# --- modules of the user's own -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Own, MLP])
def test_an_own_module_is_asked_for_by_its_path_and_works_when_handed_in(tmp_path, kind):
    model, posterior = perturbed(lambda: with_own(kind()))
    model.likelihood.network.norm.num_batches_tracked += 3
    aevb.save(tmp_path, model.eval(), posterior)
    sentence = refusal(tmp_path)
    assert "model.likelihood.network" in sentence
    assert kind.__name__ in sentence
    assert "modules" in sentence
    path = "model.likelihood.network"
    again = aevb.load(tmp_path, modules={path: kind()})
    x = binary(torch.Generator().manual_seed(2))
    assert torch.equal(bound(model, posterior, x), bound(*again, x))
    assert again[0].likelihood.network.norm.num_batches_tracked == 3


def test_a_whole_model_of_the_users_own_cannot_come_from_the_file(tmp_path):
    class Mine(aevb.Model):
        pass

    aevb.save(tmp_path, Mine(aevb.standard_normal(D), aevb.bernoulli(decoder())), small()[1])
    assert refusal(tmp_path).startswith("model is a module of your own")
    given = Mine(aevb.standard_normal(D), aevb.bernoulli(decoder()))
    assert aevb.load(tmp_path, modules={"model": given})[0] is given


def test_an_own_module_of_another_shape_is_refused(tmp_path):
    aevb.save(tmp_path, *with_own(Own()))
    other = Own()
    other.out = nn.Linear(D, X + 1)
    assert "out" in refusal(tmp_path, {"model.likelihood.network": other})


def test_external_modules_are_described_by_name_only():
    assert describe(Own()) == {"external": "zoo.pairs.Own"}
    described = describe(PerDatum(Conditional(Own(), Normal(), 0)))
    assert described["class"] == "PerDatum"
    assert describe(Amortized(Own()))["arguments"] == {"conditional": describe(Own())}


def test_an_activation_outside_the_table_is_handed_in(tmp_path):
    model, posterior = plain(lambda: aevb.bernoulli(aevb.MLP(D, [5], X, nn.Mish)))()
    aevb.save(tmp_path, model, posterior)
    path = "model.likelihood.network.activation"
    said = refusal(tmp_path)
    assert path in said
    assert "Mish" in said
    again, _ = aevb.load(tmp_path, modules={path: nn.Mish})
    assert isinstance(again.likelihood.network.body[1], nn.Mish)


def test_a_module_in_both_places_is_saved(tmp_path):
    shared = aevb.MLP(D, [4], D)
    model = aevb.Model(
        aevb.standard_normal(D), aevb.bernoulli(nn.Sequential(shared, nn.Linear(D, X)))
    )
    posterior = aevb.mean_field(nn.Sequential(nn.Linear(X, D), shared, nn.Linear(D, 2 * D)))
    aevb.save(tmp_path, model, posterior)
    assert (tmp_path / "model.safetensors").exists()


# --- what is JSON ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
    ],
)
def test_json_that_others_would_read_otherwise_is_refused(content):
    assert parse_json(b'{"a": 1.5}') == {"a": 1.5}
    try:
        found = parse_json(content)
    except ValueError:
        found = None
    assert found is None


# --- the weights file ----------------------------------------------------------------------------


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(saved):
    content = (saved / "model.safetensors").read_bytes()
    stated = parts(content)[0]["__metadata__"]["sha256"].encode()
    assert content.count(stated) == 1
    assert hashlib.sha256(content.replace(stated, b"0" * 64)).hexdigest().encode() == stated


def test_other_programs_read_the_file(tmp_path):
    model, posterior = small()
    aevb.save(tmp_path, model, posterior)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        names = set(file.keys())
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert names == tensors.keys()
    for prefix, module in (("model", model), ("posterior", posterior)):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensors.pop(f"{prefix}.{name}"), tensor)
    assert not tensors


def test_the_data_begin_where_words_do(saved):
    (length,) = struct.unpack("<Q", (saved / "model.safetensors").read_bytes()[:8])
    assert length % 8 == 0


def test_another_process_writes_the_same_bytes(saved, tmp_path):
    code = (
        "import sys, aevb; model, posterior = aevb.load(sys.argv[1]);"
        "aevb.save(sys.argv[2], model, posterior)"
    )
    again = tmp_path / "again"
    other_order = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code, saved, again], check=True, env=other_order)
    file = "model.safetensors"
    assert (again / file).read_bytes() == (saved / file).read_bytes()


def test_saving_takes_about_two_copies_of_the_weights(tmp_path):
    code = (
        "import resource, sys, aevb, torch;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10;"
        "build = lambda n: (aevb.Model(aevb.standard_normal(n), aevb.bernoulli("
        "aevb.MLP(n, [], n))), aevb.mean_field(aevb.MLP(n, [], 2)));"
        "aevb.save(sys.argv[1], *build(10)); aevb.load(sys.argv[1]); pair = build(4000);"
        "before = peak(); aevb.save(sys.argv[1], *pair); saved = peak();"
        "aevb.load(sys.argv[1]); print(saved - before, peak() - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True
    )
    size = (tmp_path / "model.safetensors").stat().st_size >> 20
    saving, both = map(int, out.stdout.split())
    assert size > 60
    assert saving < 2.5 * size
    assert both < 3.5 * size
