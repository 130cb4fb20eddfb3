"""Makers of crafted files: each is a function of a folder, in which it leaves what nobody wrote."""

import io
import json
import math
import os
import pickle
import shutil
import struct
import zipfile
from functools import partial

import numpy as np
import safetensors.torch
import torch

from aevb.storage import checkpoints
from aevb.storage.files import sha256, to_json
from aevb.storage.sealed import seal

WEIGHTS, CONFIG = "model.safetensors", "config.json"
METRICS, REPORT = "metrics.jsonl", "evaluation.json"
NAME = "model.likelihood.network.head.bias"
TRACE = "trace-of-foreign-code"


class Trap:
    def __reduce__(self):
        return os.system, (f"touch {TRACE}",)


def put(name, content):
    """Bytes in the place of a file, or what becomes of its own."""

    def make(folder):
        new = content(read(folder, name)) if callable(content) else content
        (folder / name).write_bytes(new)

    return make


def read(folder, name):
    file = folder / name
    return file.read_bytes() if file.exists() else b""


def flipped(at):
    """A change of one bit."""

    def change(former):
        content = bytearray(former)
        content[at] ^= 1
        return bytes(content)

    return change


weights, config = partial(put, WEIGHTS), partial(put, CONFIG)
metrics, report = partial(put, METRICS), partial(put, REPORT)


def tree(change):
    """A change of the description."""

    def content(former):
        value = json.loads(former)
        change(value)
        return json.dumps(value).encode()

    return config(content)


def likelihood(value):
    return value["model"]["arguments"]["likelihood"]["arguments"]


def decoder(value):
    return likelihood(value)["network"]


def family(**arguments):
    """A change of the family of the prior."""
    return tree(
        lambda c: c["model"]["arguments"]["prior"]["arguments"]["family"]["arguments"].update(
            arguments
        )
    )


def mlp(**arguments):
    return tree(lambda c: decoder(c)["arguments"].update(arguments))


def activated(value):
    return mlp(activation=value)


def instead(value):
    """Something else in the place of the decoder."""
    return tree(lambda c: likelihood(c).update(network=value))


def parts(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def framed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def resealed(header, data):
    """A file whose checksum is right, whatever its header says."""
    header["__metadata__"]["sha256"] = "0" * 64
    blank = framed(header, data)
    return blank.replace(b"0" * 64, sha256(blank).encode(), 1)


def header(change, end=resealed):
    """A change of the header of the weights, which are sealed again."""

    def content(former):
        facts, data = parts(former)
        change(facts)
        return end(facts, data)

    return weights(content)


def entry(**fields):
    return header(lambda h: h[NAME].update(fields))


def renamed(name):
    return header(lambda h: h.update({name: h.pop(NAME)}))


def metadata(change):
    """A change of what is said of the weights, not sealed again."""
    return header(lambda h: h.update(__metadata__=change(h["__metadata__"])), framed)


def tensors(change):
    """A change of the tensors themselves, which are sealed again."""

    def content(former):
        found, facts = safetensors.torch.load(former), parts(former)[0]["__metadata__"]
        change(found)
        return b"".join(seal(found, {"description": facts["description"]}))

    return weights(content)


def cast(dtype):
    return tensors(lambda found: found.update({k: v.to(dtype) for k, v in found.items()}))


def bomb(former):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    return file.getvalue()


def torch_saved(former):
    file = io.BytesIO()
    torch.save({"model": Trap(), **safetensors.torch.load(former)}, file)
    return file.getvalue()


def numpy_saved(former):
    file = io.BytesIO()
    np.savez(file, trap=np.array([Trap()], dtype=object))
    return file.getvalue()


def shift(facts):
    """Two tensors over the same bytes, with the bytes of the second left to none."""
    own = facts[NAME]["data_offsets"]
    twin = next(k for k, v in facts.items() if k not in ("__metadata__", NAME))
    start = facts[twin]["data_offsets"][0]
    facts[NAME]["data_offsets"] = [start, start + own[1] - own[0]]


def twice(former):
    """The same tensor twice in the header: one to look at, one to load."""
    facts, data = parts(former)
    again = json.dumps({NAME: facts[NAME] | {"shape": [10**7]}})[1:-1]
    return framed((json.dumps(facts)[:-1] + ", " + again + "}").encode(), data)


def repeated(former):
    field = b'"format":"pt",'
    (length,) = struct.unpack("<Q", former[:8])
    return struct.pack("<Q", length + len(field)) + former[8:].replace(field, field * 2, 1)


def sparse(name, size):
    def make(folder):
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return make


def terabyte(whole):
    """A description and a header that agree on 4 TB, of which none is written."""
    shapes = {"body.0.weight": [10**6, 10**6], "body.0.bias": [10**6], "head.weight": [128, 10**6]}

    def make(folder):
        mlp(in_features=10**6, hidden=[10**6])(folder)
        facts, _ = parts(read(folder, WEIGHTS))
        start = 0
        for name, item in facts.items():
            if name == "__metadata__":
                continue
            item["shape"] = shapes.get(
                name.removeprefix("model.likelihood.network."), item["shape"]
            )
            stop = start + 4 * math.prod(item["shape"])
            item["data_offsets"], start = [start, stop], stop
        content = framed(facts)
        (folder / WEIGHTS).write_bytes(content)
        if whole:
            sparse(WEIGHTS, len(content) + start)(folder)

    return make


def replaced(name, make):
    """Something that is no plain file, or nothing, in the place of a file."""

    def remake(folder):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return remake


def nothing(path):
    pass


def link(target):
    return lambda path: path.symlink_to(target)


def loop(path):
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


def certified(**fields):
    """A report whose certificate is whole but for some fields."""
    texts = ("method", "estimand", "direction", "unit", "data", "binarize")
    whole = dict.fromkeys(texts, "") | {"samples": 1, "n": 1, "mean": -1.0}
    importance = whole | {"standard_error": None, "monte_carlo_error": 0.0} | fields
    return report(to_json({"importance": importance}))


def checkpoint(folder):
    """One checkpoint under a fixed name, whole."""
    shutil.rmtree(folder / "checkpoints")
    return checkpoints.save(folder / "checkpoints", 1, {"a": torch.ones(3)}, {"t": 1})


def forged(folder):
    """A manifest that vouches for a file of no tensors."""
    place, trap = checkpoint(folder), pickle.dumps(Trap())
    (place / "state.safetensors").write_bytes(trap)
    manifest = {"state.safetensors": sha256(trap)}
    manifest["state.json"] = sha256((place / "state.json").read_bytes())
    (place / "manifest.json").write_bytes(to_json(manifest))


def waiting_checkpoint(folder):
    replaced("state.json", os.mkfifo)(checkpoint(folder))


def strange_manifest(folder):
    put("manifest.json", to_json({"../../../etc/passwd": "0" * 64}))(checkpoint(folder))


def nested(n, left, right, inside="1"):
    return config(
        f'{{"format": 4, "posterior": null, "model": {left * n}{inside}{right * n}}}'.encode()
    )


def shaped(value):
    return tree(lambda c: c["data"].update(shape=value))


def settings(**values):
    return tree(lambda c: c["settings"].update(values))
