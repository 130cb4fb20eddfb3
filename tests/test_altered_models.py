"""Thousands of altered model files: none is read as something else than what was saved."""

import json
from random import Random

import pytest
import torch
from helpers import small_pair

import aevb
from aevb.errors import ModelFileError
from aevb.storage import RunFolder, checkpoints
from aevb.storage.description import describe

WEIGHTS, CONFIG = "model.safetensors", "config.json"
JSON_BYTES = b'{}[]",:0123456789.-+eEtruefalsn \n\\\x00\xff'


def one_byte(content, random):
    at = random.randrange(len(content))
    content[at] ^= random.randrange(1, 256)


def some_bytes(content, random):
    for _ in range(random.randrange(2, 9)):
        one_byte(content, random)


def other_bytes(content, random):
    """Bytes that mean something in JSON: they leave more texts readable than any bytes do."""
    for _ in range(random.randrange(1, 4)):
        content[random.randrange(len(content))] = random.choice(JSON_BYTES)


def cut(content, random):
    del content[random.randrange(len(content)) :]


def leave_out(content, random):
    at = random.randrange(len(content))
    del content[at : at + random.randrange(1, 33)]


def insert(content, random):
    at = random.randrange(len(content) + 1)
    content[at:at] = random.randbytes(random.randrange(1, 33))


def repeat(content, random):
    at = random.randrange(len(content))
    content[at:at] = content[at : at + random.randrange(1, 65)]


def swap(content, random):
    size = random.randrange(1, min(65, len(content) // 3))
    a, b = sorted(random.randrange(len(content) - size) for _ in range(2))
    if b - a >= size:
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


def blank(content, random):
    at = random.randrange(len(content))
    size = len(content[at : at + random.randrange(1, 65)])
    content[at : at + size] = bytes(size)


ALTERATIONS = (one_byte, some_bytes, other_bytes, cut, leave_out, insert, repeat, swap, blank)


def altered(content, seed):
    """The content with one alteration, which is none of nothing."""
    random = Random(seed)
    while True:
        new = bytearray(content)
        ALTERATIONS[seed % len(ALTERATIONS)](new, random)
        if new != content:
            return bytes(new)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pair = small_pair(dtype=torch.float32)
    aevb.save(folder, *pair, facts={"remark": "of the test"})
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


def test_an_altered_config_is_refused_or_describes_the_same_model(saved):
    folder, pair = saved
    file = folder / CONFIG
    content = file.read_bytes()
    before = [describe(module) for module in pair]
    read = []
    for seed in range(500):
        file.write_bytes(altered(content, seed))
        loaded = []
        if not refused(lambda: loaded.extend(aevb.load(folder))):  # noqa: B023
            read.append(seed)
            assert [describe(module) for module in loaded] == before
    file.write_bytes(content)
    assert 10 < len(read) < 250  # blanks, and the remark, which is no part of the model


def test_altered_values_of_a_config_are_refused_or_describe_the_same_model(saved):
    # One value for another of the tree, which stays JSON: what an alteration of bytes seldom is.
    folder, pair = saved
    file = folder / CONFIG
    content = file.read_bytes()
    before = [describe(module) for module in pair]
    values = [None, True, False, 0, 1, -1, 10**9, 0.5, "", "MLP", [], {}, [1], {"external": "a"}]
    for seed in range(500):
        random = Random(seed)
        tree = json.loads(content)
        places = list(spots(tree))
        holder, key = random.choice(places)
        holder[key] = random.choice([*values, *(h[k] for h, k in places)])
        file.write_text(json.dumps(tree, default=str) if acyclic(tree) else "[]")
        loaded = []
        if not refused(lambda: loaded.extend(aevb.load(folder))):  # noqa: B023
            assert [describe(module) for module in loaded] == before
    file.write_bytes(content)


def spots(tree):
    """Every (holder, key) of a tree."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from spots(value)


def acyclic(tree):
    try:
        json.dumps(tree)
    except ValueError:
        return False
    return True


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
