"""Thousands of altered model files: none is read as something else than what was saved."""

import copy
import json
from random import Random

import pytest
import torch
from damage import altered
from helpers import small_pair

import aevb
from aevb.errors import ModelFileError
from aevb.storage import RunFolder, checkpoints
from aevb.storage.description import describe

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pair = small_pair(dtype=torch.float32)
    aevb.save(folder, *pair, facts={"remark": "of the test, " * 20})
    return folder, pair


def refused(read):
    """Whether something is refused with one sentence; another error is the test's failure."""
    sentence = None
    try:
        read()
    except ModelFileError as error:
        sentence = str(error)
    assert sentence is None or ("\n" not in sentence and len(sentence) < 600)
    return sentence is not None


def test_three_thousand_altered_weight_files_are_refused(saved):
    folder, _ = saved
    file = folder / WEIGHTS
    content = file.read_bytes()
    read = []
    for seed in range(3000):
        file.write_bytes(altered(content, seed))
        if not refused(lambda: aevb.load(folder)):
            read.append(seed)
    file.write_bytes(content)
    aevb.load(folder)
    assert read == []


def test_every_flipped_bit_of_a_weight_file_is_refused(saved):
    folder, _ = saved
    file = folder / WEIGHTS
    content = file.read_bytes()
    for at in range(len(content)):
        new = bytearray(content)
        new[at] ^= 1 << (at % 8)
        file.write_bytes(new)
        assert refused(lambda: aevb.load(folder)), at
    file.write_bytes(content)


def loads(folder, pair):
    """Whether a folder is read at all, and then as the pair that was saved."""
    loaded = []
    if refused(lambda: loaded.extend(aevb.load(folder))):
        return False
    for then, now in zip(pair, loaded, strict=True):
        assert describe(then) == describe(now)
        assert all(torch.equal(v, now.state_dict()[k]) for k, v in then.state_dict().items())
    return True


def test_an_altered_config_is_refused_or_describes_the_same_model(saved):
    folder, pair = saved
    file = folder / CONFIG
    content = file.read_bytes()
    read = 0
    for seed in range(500):
        file.write_bytes(altered(content, seed))
        read += loads(folder, pair)
    file.write_bytes(content)
    assert 10 < read < 250  # blanks, and the remark, which is no part of the model


def test_altered_values_of_a_config_are_refused(saved):
    # One value for another of the tree, which stays JSON: what an alteration of bytes seldom is.
    folder, pair = saved
    file = folder / CONFIG
    content = file.read_bytes()
    values = [None, True, False, 0, 1, -1, 10**9, 0.5, "", "MLP", [], {}, [1], {"external": "a"}]
    whole, read = json.dumps(json.loads(content)), set()
    for seed in range(500):
        random = Random(seed)
        text = whole
        while text == whole:
            tree = json.loads(content)
            places = list(spots(tree))
            holder, key = random.choice(places)
            holder[key] = copy.deepcopy(random.choice([*values, *(h[k] for h, k in places)]))
            text = json.dumps(tree)
        file.write_text(text)
        if loads(folder, pair):
            read.add(key)
    file.write_bytes(content)
    assert read == {"remark"}  # which is no part of the model


def spots(tree):
    """Every (holder, key) of a tree."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from spots(value)


def test_altered_metrics_are_refused_or_read_as_records(tmp_path):
    run = RunFolder(tmp_path)
    for epoch in range(1, 4):
        run.append_metrics({"epoch": epoch, "train": {"elbo": -1.5}, "validation": None})
    content = (tmp_path / "metrics.jsonl").read_bytes()
    for seed in range(500):
        (tmp_path / "metrics.jsonl").write_bytes(altered(content, seed))
        found = []
        if not refused(lambda: found.extend(run.history())):  # noqa: B023
            assert all(type(record["epoch"]) is int for record in found)


def test_altered_checkpoints_are_refused_or_read_as_they_were(tmp_path):
    place = checkpoints.save(tmp_path, 1, {"a": torch.arange(5.0)}, {"t": 1})
    for name in ("state.safetensors", "state.json", "manifest.json"):
        content = (place / name).read_bytes()
        for seed in range(300):
            (place / name).write_bytes(altered(content, seed))
            found = []
            if not refused(lambda: found.append(checkpoints.load(place))):  # noqa: B023
                assert name == "manifest.json"  # a blank for another
                assert torch.equal(found[0].tensors["a"], torch.arange(5.0))
                assert found[0].facts == {"t": 1}
        (place / name).write_bytes(content)
