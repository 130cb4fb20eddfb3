"""Crafted model folders, by what the sentence says that refuses them.

The name of a case begins with the way by which its folder is read (see hostile_probe.py).
"""

import math
import os
import pickle
import shutil
import struct

import safetensors.torch
import torch
from crafted import (
    CONFIG,
    METRICS,
    NAME,
    REPORT,
    TRACE,
    WEIGHTS,
    Trap,
    activated,
    bomb,
    cast,
    certified,
    config,
    decoder,
    entry,
    family,
    flipped,
    forged,
    framed,
    header,
    instead,
    likelihood,
    link,
    loop,
    metadata,
    metrics,
    mlp,
    nested,
    nothing,
    numpy_saved,
    renamed,
    repeated,
    replaced,
    report,
    settings,
    shaped,
    shift,
    sparse,
    strange_manifest,
    tensors,
    terabyte,
    torch_saved,
    tree,
    twice,
    waiting_checkpoint,
    weights,
)

LONG = "x" * 100_000
OF_DATA = "a folder of images"
MLP = {"in_features": 2, "hidden": [5], "out_features": 128, "activation": {"activation": "relu"}}
IMAGES = {
    "in_features": 10**7,
    "channels": [10**7, 10**7],
    "image_shape": [10**7] * 3,
    "outputs": 10**7,
    "activation": {"activation": "relu"},
}
PRIOR = ('{"class": "Model", "arguments": {"likelihood": null, "prior": ', "}}")
RUN = f"__import__('os').system('touch {TRACE}')"
PICKLES = [pickle.dumps(Trap(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
SAID = {
    "config.json cannot be read as JSON": {
        "load: config is a pickle": config(PICKLES[-1]),
        "load: config is Python": config(RUN.encode()),
        "load: config is empty": config(b""),
        "load: config is cut": config(lambda former: former[:-20]),
        "load: config begins with a byte-order mark": config(lambda c: b"\xef\xbb\xbf" + c),
        "load: config in UTF-16": config(lambda former: former.decode().encode("utf-16")),
        "load: config is no UTF-8": config(b'{"format": "\xff\xfe"}'),
        "load: config with a zero byte": config(b'{"format": 4\0}'),
        "load: config of blanks": config(b" " * 900_000),
        "load: a number of 900,000 digits": config(b'{"format": ' + b"9" * 900_000 + b"}"),
        "load: lists in lists": nested(100_000, "[", "]"),
        "load: objects in objects": nested(100_000, '{"a":', "}"),
        "load: config is /etc/passwd": replaced(CONFIG, link("/etc/passwd")),
        "load: config links to itself": replaced(CONFIG, loop),
    },
    "config.json cannot be read as JSON (a key is given twice)": {
        "load: a key given twice": config(b'{"format": 4, "format": 2}'),
        "load: a key given twice, deep": config(b'{"model": {"class": {"a": 1, "a": 2}}}'),
        "load: a key given twice with an escape": config(b'{"format": 4, "f\\u006frmat": 1}'),
    },
    "is no number in JSON": {
        "load: NaN": config(b'{"format": 4, "model": NaN}'),
        "load: infinity": config(b'{"format": 4, "model": -Infinity}'),
        "load: a number beyond all": config(b'{"format": 4, "model": 1e999}'),
        "history: an epoch of NaN": metrics(b'{"epoch": 1, "train": NaN}\n'),
        "evaluation: NaN": report(b'{"importance": NaN}'),
    },
    "is no plain file": {
        "load: config is a pipe": replaced(CONFIG, os.mkfifo),
        "load: config is /dev/zero": replaced(CONFIG, link("/dev/zero")),
        "load: config is a folder": replaced(CONFIG, os.mkdir),
        "load: weights are a pipe": replaced(WEIGHTS, os.mkfifo),
        "load: weights are /dev/zero": replaced(WEIGHTS, link("/dev/zero")),
        "load: weights are the terminal": replaced(WEIGHTS, link("/dev/tty")),
        "load: weights are a folder": replaced(WEIGHTS, os.mkdir),
        "history: metrics are a pipe": replaced(METRICS, os.mkfifo),
        "history: metrics are /dev/zero": replaced(METRICS, link("/dev/zero")),
        "evaluation: a pipe": replaced(REPORT, os.mkfifo),
    },
    "must hold a JSON object, found list": {
        "load: config is no object": config(b"[1, 2]"),
        "evaluation: a list": report(b"[]"),
    },
    "config.json is larger than 16 MiB": {
        "load: config of 100 MB": sparse(CONFIG, 100_000_000),
        "load: config of 16 MiB and some bytes": config(b'{"format": 4}' + b" " * (1 << 24)),
    },
    "config.json does not exist": {
        "load: config is missing": replaced(CONFIG, nothing),
        "load: the folder is missing": shutil.rmtree,
    },
    "config.json has format": {
        "load: a future format": tree(lambda c: c.update(format=5)),
        "load: no format": tree(lambda c: c.pop("format")),
        "load: format is a text": tree(lambda c: c.update(format="3")),
        "load: format is true": tree(lambda c: c.update(format=True)),
        "load: format is 3.0": tree(lambda c: c.update(format=3.0)),
        "load: format is long": tree(lambda c: c.update(format=LONG)),
    },
    "config.json describes no model and posterior": {
        "load: a description of a text": tree(lambda c: c.update(model=LONG)),
        "load: no model": tree(lambda c: c.pop("model")),
        "load: the model is a posterior": tree(lambda c: c.update(model=c["posterior"])),
        "load: the posterior is a model": tree(lambda c: c.update(posterior=c["model"])),
    },
    "is nested too deeply": {
        "load: lists in lists, not so deep": nested(900, "[", "]"),
        "load: models in models": nested(100, *PRIOR),
    },
    "has more than 10000 items": {
        "load: a list of a million": mlp(hidden=[1] * 200_000),
        "load: layers in three hundred networks": tree(
            lambda c: likelihood(c).update(
                network=[{"class": "MLP", "arguments": MLP | {"hidden": [1] * 900}}] * 300
            )
        ),
    },
    "names nothing that this version knows": {
        "load: objects in objects, not so deep": nested(600, '{"a": ', "}"),
        "load: class is os.system": instead(
            {"class": "os.system", "arguments": {"command": f"touch {TRACE}"}}
        ),
        "load: class is builtins.eval": instead(
            {"class": "builtins.eval", "arguments": {"source": RUN}}
        ),
        "load: class is torch.nn.Linear": instead(
            {"class": "torch.nn.Linear", "arguments": {"in_features": 2, "out_features": 64}}
        ),
        "load: class is unknown": instead({"class": "Perceptron", "arguments": MLP}),
        "load: class is one of torch": instead({"class": "Linear", "arguments": MLP}),
        "load: class is a dunder": instead({"class": "__class__", "arguments": {}}),
        "load: class with a look-alike letter": instead({"class": "\u041cLP", "arguments": MLP}),
        "load: class with an invisible letter": instead({"class": "MLP\u200b", "arguments": MLP}),
        "load: class in full-width letters": instead(
            {"class": "\uff2d\uff2c\uff30", "arguments": MLP}
        ),
        "load: class in a list": instead({"class": ["MLP"], "arguments": MLP}),
        "load: class and a module": instead({"class": "MLP", "arguments": MLP, "module": "os"}),
        "load: arguments in a list": instead({"class": "MLP", "arguments": [2, [5], 128]}),
        "load: instructions of Hydra": instead({"_target_": "os.system", "command": "true"}),
        "load: instructions of jsonpickle": instead({"py/reduce": [{"py/function": "os.system"}]}),
        "load: external is a number": instead({"external": 5}),
        "load: activation by a dotted path": activated({"activation": "torch.nn.ReLU"}),
        "load: activation by an import": activated({"activation": RUN}),
        "load: activation by Hydra": activated({"_target_": "os.system", "command": "true"}),
        "load: activation by jsonpickle": activated(
            {"__reduce__": ["os.system", ["true"]], "py/reduce": [{"py/function": "os.system"}]}
        ),
        "load: activation is os.system": activated(
            {"class": "os.system", "arguments": {"command": f"touch {TRACE}"}}
        ),
    },
    "is a module of your own": {
        "load: external is os.system": instead({"external": "os.system"}),
        "load: external with a line break and a colour": instead(
            {"external": "a\n\x1b[31mb" * 500}
        ),
        "load: external with half a letter": instead({"external": "\ud800"}),
        "load: activation is external": activated({"external": RUN}),
    },
    "the arguments of MLP are not those of the class": {
        "load: an argument that is not the class's": mlp(bias=True),
        "load: dunder arguments": mlp(__init__=1, self=2),
        "load: an argument left out": tree(lambda c: decoder(c)["arguments"].pop("hidden")),
    },
    "network.activation does not fit MLP": {
        "load: activation is a class": activated({"class": "MLP", "arguments": MLP}),
        "load: activation is none": activated(None),
    },
    "expected a size between 0 and 10000000": {
        "load: a negative width": mlp(hidden=[-5]),
        "load: negative outputs": mlp(out_features=-1),
        "load: a huge width": mlp(hidden=[10**300]),
    },
    "every layer needs at least 1 unit": {"load: a width of 0": mlp(hidden=[0])},
    "should be a valid integer": {
        "load: a width of true": mlp(in_features=True),
        "load: a width of 2.5": mlp(in_features=2.5),
        "load: a text for a width": mlp(in_features="2"),
        "load: a long text for a width": mlp(in_features=LONG),
    },
    "boolean": {"load: a text for a flag": family(sigmoid_mean="no")},
    "min_variance": {
        "load: a text for a variance": family(min_variance="0"),
        "load: a negative variance": family(min_variance=-0.5),
    },
    "cannot be built": {
        "load: an image of 10**21 pixels": instead(
            {"class": "ConvolutionalDecoder", "arguments": IMAGES}
        ),
        "load: noise of a hundred axes": family(noise_shape=[10**7] * 100),
    },
    "Family": {
        "load: a network for a family": tree(lambda c: likelihood(c).update(family=decoder(c)))
    },
    "model.prior": {
        "load: no prior": tree(lambda c: c["model"]["arguments"].update(prior=None)),
    },
    # the weights
    "model.safetensors is damaged: its header claims": {
        **{
            f"load: weights are a pickle of protocol {n}": weights(trap)
            for n, trap in enumerate(PICKLES)
        },
        "load: weights are of torch.save": weights(torch_saved),
        "load: weights are an archive of numpy": weights(numpy_saved),
        "load: weights are a zip bomb": weights(bomb),
        "load: a header of 2**62 bytes": weights(struct.pack("<Q", 1 << 62) + b"{}"),
        "load: a header of 2**63 bytes": weights(struct.pack("<Q", 1 << 63) + b"{}"),
        "load: a header of 2**64 - 1 bytes": weights(b"\xff" * 8 + b"{}"),
        "load: a header of 10 MiB": weights(framed(b'{"a":[' + b"[]," * 3_400_000 + b"0]}")),
        "load: a deep header": weights(framed(b"[" * 50_000 + b"]" * 50_000)),
        "load: weights are /etc/passwd": replaced(WEIGHTS, link("/etc/passwd")),
    },
    "model.safetensors is damaged: its header cannot be read": {
        "load: weights are empty": weights(b""),
        "load: weights are 7 bytes": weights(b"\0" * 7),
        "load: weights are cut in the header": weights(lambda former: former[:50]),
        "load: a header longer than the file": weights(struct.pack("<Q", 1 << 13) + b'{"a": '),
        "load: a pickle for a header": weights(framed(PICKLES[-1])),
        "load: a header in a list": weights(framed([])),
        "load: a header in lists": weights(framed(b"[" * 3_000 + b"]" * 3_000)),
        "load: a header in UTF-16": weights(framed('{"a": 1}'.encode("utf-16"))),
        "load: a header without types": weights(framed({"model.x": {"shape": [1]}})),
        "load: a tensor twice": weights(twice),
        "load: a field twice": weights(repeated),
        "load: a negative shape": entry(shape=[-64]),
        "load: a shape of fractions": entry(shape=[64.0]),
        "load: a shape of flags": entry(shape=[True] * 64),
        "load: a shape of texts": entry(shape=["six"]),
        "load: a shape of shapes": entry(shape=[[6]]),
        "load: an endless shape": entry(shape=[math.inf]),
        "load: a shape as an object": entry(shape={"64": 1}),
        "load: a checksum that is no text": metadata(lambda m: m | {"sha256": 5}),
        "load: metadata in a list": metadata(lambda m: []),
    },
    "model.safetensors is damaged: it has": {
        "load: weights cut": weights(lambda former: former[:-4]),
        "load: weights without their last byte": weights(lambda former: former[:-1]),
        "load: weights and more": weights(lambda former: former + b"\0" * 4),
        "load: weights and one byte more": weights(lambda former: former + b"\0"),
        "load: weights of 1 TB": sparse(WEIGHTS, 1 << 40),
        "load: weights of 4 TB as described, and none of them": terabyte(whole=False),
    },
    "model.safetensors is damaged: it cannot be read": {
        "load: weights are the process's own memory": replaced(WEIGHTS, link("/proc/self/mem")),
        "load: weights link to themselves": replaced(WEIGHTS, loop),
    },
    "model.safetensors is damaged ('Error while deserializing": {
        "load: offsets beyond the file": entry(data_offsets=[0, 1 << 40]),
        "load: offsets at the end of numbers": entry(data_offsets=[2**64 - 4, 2**64]),
        "load: offsets backwards": entry(data_offsets=[256, 0]),
        "load: offsets below zero": entry(data_offsets=[-256, 0]),
        "load: offsets are texts": entry(data_offsets=["0", "256"]),
        "load: no offsets": entry(data_offsets=[]),
        "load: tensors over each other": header(shift),
    },
    "there is not enough memory for it": {
        "load: weights of 4 TB as described": terabyte(whole=True),
    },
    "model.safetensors does not exist": {
        "load: weights are missing": replaced(WEIGHTS, nothing),
        "load: weights link nowhere": replaced(WEIGHTS, link("nowhere")),
    },
    "do not match its checksum": {
        "load: a flipped bit": weights(flipped(-1)),
        "load: a checksum of zeros": metadata(lambda m: m | {"sha256": "0" * 64}),
        "load: another format in the header": metadata(lambda m: m | {"format": "tf"}),
    },
    "no checksum": {
        "load: no metadata": weights(lambda c: safetensors.torch.save(safetensors.torch.load(c))),
        "load: no checksum": metadata(lambda m: {"format": "pt"}),
        "load: an empty checksum": metadata(lambda m: m | {"sha256": ""}),
        "load: half a checksum": metadata(lambda m: m | {"sha256": m["sha256"][:32]}),
        "load: a checksum in capitals": metadata(lambda m: m | {"sha256": "A" * 64}),
    },
    "one checksum once": {
        "load: a checksum twice": metadata(lambda m: m | {"copy": m["sha256"]}),
    },
    f"{NAME} has shape (8, 8), expected (128,)": {"load: another shape": entry(shape=[8, 8])},
    f"{NAME} has shape (1, 128), expected (128,)": {
        "load: one axis more": tensors(lambda found: found.update({NAME: found[NAME][None]})),
    },
    f"{NAME} has shape (127,), expected (128,)": {
        "load: a shorter tensor": tensors(
            lambda found: found.update({NAME: found[NAME][:-1].clone()})
        ),
    },
    f"{NAME} has shape (4294967296, 4294967296, 4294967296), expected (128,)": {
        "load: more elements than numbers reach": entry(shape=[2**32, 2**32, 2**32]),
    },
    f"{NAME} has shape (1, 1, 1": {"load: a shape of a thousand axes": entry(shape=[1] * 1000)},
    f"{NAME} has shape None, expected (128,)": {
        "load: a missing tensor": tensors(lambda found: found.pop(NAME)),
    },
    "body.0.bias has shape None, expected (5,)": {
        "load: a pickle behind an empty header": weights(framed({}, PICKLES[-1])),
    },
    "body.0.bias has shape (5,), expected": {
        "load: layers of 10**7 x 10**7": mlp(in_features=10**7, hidden=[10**7] * 900),
        "load: a description of another's shapes": mlp(hidden=[6]),
    },
    "has shape (1,), expected None": {
        "load: one tensor more": tensors(lambda found: found.update(more=torch.zeros(1))),
    },
    "has shape (128,), expected None": {
        "load: a name out of the folder": renamed("../../../../etc/passwd"),
        "load: a name from the root": renamed("/etc/passwd"),
        "load: a name with a line break": renamed("model\nweights\x1b[2J"),
        "load: a name of 5000 letters": renamed("m" * 5000),
        "load: a name with dunders": renamed("model.__class__.__init__"),
    },
    "is of type I32": {
        "load: another type": entry(dtype="I32"),
        "load: integers": cast(torch.int32),
    },
    "is of type BOOL": {"load: flags": cast(torch.bool)},
    "is of type F8_E4M3": {"load: numbers of eight bits": cast(torch.float8_e4m3fn)},
    "is of type C64": {"load: complex numbers": cast(torch.complex64)},
    ", expected F16 or BF16 or F32 or F64": {
        "load: a type that is none": entry(dtype="../../F32"),
        "load: a type in a list": entry(dtype=["F32"]),
        "load: a long type": entry(dtype=LONG[:2000]),
    },
    f"not finite, in {NAME}": {
        "load: a NaN": tensors(lambda found: found[NAME][1:2].fill_(math.nan)),
        "load: an infinite weight": tensors(lambda found: found[NAME][1:2].fill_(-math.inf)),
    },
    "it was saved with another description of the model": {
        "load: a description of another activation": activated({"activation": "tanh"}),
        "load: a description of another variance": family(min_variance=0.5),
    },
    # the rest of a run folder
    "was saved from Python and has no settings": {
        "settings: settings are a list": tree(lambda c: c.update(settings=[1])),
        "settings: settings are missing": tree(lambda c: c.pop("settings")),
        "dataset: settings are a text": tree(lambda c: c.update(settings="digits")),
    },
    "unexpected keyword argument": {
        "settings: an unknown setting": settings(run=RUN),
        "settings: an unknown setting with a line break": settings(**{"a\nb" * 500: 1}),
    },
    "hidden: expected whole numbers": {
        "settings: hidden is a long text": settings(hidden=LONG),
    },
    "network: input should be 'mlp', 'convolutional' or 'linear'": {
        "settings: network is a list": settings(network=["mlp"]),
        "settings: network is an object": settings(network={"class": "MLP"}),
    },
    "beta: input should be greater than or equal to 0": {
        "settings: a beta below zero": settings(beta=-1),
    },
    "data: expected a name": {"settings: data are a number": settings(data=5)},
    "epochs: expected a whole number": {
        "settings: epochs beyond all": settings(epochs="1e999"),
    },
    "config.json: data must be an object": {
        "shape: data are a list": tree(lambda c: c.update(data=[1])),
        "dataset: data are a list": tree(lambda c: c.update(data=[1])),
        "dataset: data are a text": tree(lambda c: c.update(data=LONG)),
    },
    "does not say the shape of its data": {
        "shape: data are missing": tree(lambda c: c.pop("data")),
        "shape: a text": shaped("64"),
        "shape: texts": shaped(["64"]),
        "shape: no axis": shaped([]),
        "shape: a negative axis": shaped([-64]),
        "shape: a flag": shaped([True]),
        "shape: a huge axis": shaped([10**30]),
        "shape: a thousand axes": shaped([1] * 1000),
    },
    # The run may be whole and its data not: that is another mistake, with another exit code.
    OF_DATA: {
        "dataset: data are /etc/passwd": settings(data="../../../../../../etc/passwd"),
        "dataset: data have a name of 5000 letters": settings(data="x" * 5000),
        "dataset: data are a program": settings(data="/bin/sh"),
    },
    "metrics.jsonl, line 1, is damaged": {
        "history: metrics are a pickle": metrics(PICKLES[-1] + b"\n"),
        "history: a list for an epoch": metrics(b"[1]\n"),
        "history: a number for an epoch": metrics(b"5\n"),
        "history: an epoch without its number": metrics(b'{"train": {}}\n'),
        "history: an epoch given twice": metrics(b'{"epoch": 1, "epoch": 2}\n'),
        "history: lists in lists": metrics(b"[" * 100_000 + b"]" * 100_000 + b"\n"),
    },
    "evaluation.json cannot be read as JSON": {"evaluation: a pickle": report(PICKLES[-1])},
    "evaluation.json is no report of an evaluation": {
        "evaluation: a text for a certificate": report(b'{"importance": "-90"}'),
        "evaluation: a certificate of nothing": report(b'{"elbo": {}}'),
        "evaluation: a text for a mean": certified(mean="-90 nats"),
        "evaluation: a list for a method": certified(method=["importance"]),
        "evaluation: a fraction of a sample": certified(samples=0.5),
    },
    "step-000000001 is damaged": {
        "checkpoint: a manifest that vouches for a pickle": forged,
        "checkpoint: a manifest of other files": strange_manifest,
        "checkpoint: facts are a pipe": waiting_checkpoint,
    },
}
CASES = {name: (make, said) for said, group in SAID.items() for name, make in group.items()}
