"""ONNX: a model as three graphs that run without torch, in onnxruntime or a browser."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aevb import __version__
from aevb.errors import ModelFileError, UsageError, reason
from aevb.exchange.graphs import DECOMPOSITIONS, Bound, Decoder, Encoder, parameters_of
from aevb.files import replace_atomically
from aevb.model import Model
from aevb.posterior import PerDatum, Posterior
from aevb.refinement import Refined

OPSET = 18
"""Of 2022: what onnxruntime, its web version and the converters to other formats all know."""


class Graph(NamedTuple):
    """A file: the map, an example of each input, the letters of its first axes, output names."""

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: tuple[str, ...]
    outputs: tuple[str, ...]
    about: str


def export_onnx(target: str | Path, model: Model, posterior: Posterior) -> list[Path]:
    """Write `encoder.onnx`, `decoder.onnx` and `bound.onnx` into a folder, each in one step.

        encoder   x (N, X)                    to  mean (N, D), scale (N, D) or scale_tril (N, D, D)
        decoder   z (N, D)                    to  expectation (N, X)
        bound     x (N, X), noise (S, N, D)   to  elbo (N,)

    Shapes: N and S are free. Units: nats; x as the model sees it. Everything is float32, whatever
    the model was trained in; the noise of `bound` is standard normal, and its bound is estimator B
    where the divergence has a closed form. Data outside the likelihood's domain are not refused: a
    graph cannot.
    Errors: UsageError without the packages of the extra `onnx`, for free parameters in the place of
    an encoder, for one that is refined, or for modules that have no ONNX form; ModelFileError for a
    folder that cannot be written. Nothing is written unless all three can be made.
    Source: Kingma & Welling (2013), equation 7, for the bound.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> files = export_onnx("line-onnx", model, model.exact_encoder())  # doctest: +SKIP
        >>> [path.name for path in files]  # doctest: +SKIP
        ['encoder.onnx', 'decoder.onnx', 'bound.onnx']
    """
    _require_packages()
    if isinstance(posterior, PerDatum):
        raise UsageError(
            "a posterior with free parameters for each datum has no encoder to export to ONNX: "
            "train with an encoder (--posterior mean-field)"
        )
    if isinstance(posterior, Refined):
        raise UsageError(
            "the steps for each datum of a posterior that is refined have no ONNX form: train "
            "without them (--algorithm aevb)"
        )
    content = {name: _compile(name, graph) for name, graph in _graphs(model, posterior).items()}
    folder = Path(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, graph in content.items():
            replace_atomically(folder / name, graph)
    except OSError as error:
        raise ModelFileError(f"{folder} cannot be written ({reason(error)})") from error
    return [folder / name for name in content]


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"exporting to ONNX needs {error.name}: pip install 'aevb[onnx]'"
        ) from error


def _graphs(model: Model, posterior: Posterior) -> dict[str, Graph]:
    """The three graphs of copies in float32, with examples of 3 data and 2 samples."""
    model = copy.deepcopy(model).float().eval()
    posterior = copy.deepcopy(posterior).float().eval()
    with torch.no_grad():
        (latent,) = model.prior().event_shape
        z = torch.zeros(3, latent)
        x = model.expectation(z).float().flatten(1)
        spread = "scale" if parameters_of(posterior(x))[1].ndim == 2 else "scale_tril"
    noise = torch.zeros(2, 3, latent)
    return {
        "encoder.onnx": Graph(
            Encoder(posterior),
            {"x": x},
            ("N",),
            ("mean", spread),
            f"The posterior q(z given x): x (N, X) to its mean (N, D) and its {spread}.",
        ),
        "decoder.onnx": Graph(
            Decoder(model),
            {"z": z},
            ("N",),
            ("expectation",),
            "The likelihood's expectation: z (N, D) to E[x given z] (N, X); classes for classes.",
        ),
        "bound.onnx": Graph(
            Bound(model, posterior),
            {"x": x, "noise": noise},
            ("N", "S"),
            ("elbo",),
            "The evidence lower bound in nats: x (N, X) and standard normal noise (S, N, D) to "
            "elbo (N,), larger is better.",
        ),
    }


def _compile(name: str, graph: Graph) -> bytes:
    """The bytes of one file."""
    data, samples = torch.export.Dim("N"), torch.export.Dim("S")
    free = {"x": {0: data}, "z": {0: data}, "noise": {0: samples, 1: data}}
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                graph.module,
                tuple(graph.inputs.values()),
                dynamic_shapes=tuple(free[key] for key in graph.inputs),
                strict=False,
            ).run_decompositions(DECOMPOSITIONS)
            made = torch.onnx.export(
                program,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert made is not None
            return _finish(made.model_proto, name, graph)
    except Exception as error:  # whatever the exporter meets in a module of somebody's own
        raise UsageError(
            f"{name} cannot be made: the model has a part without an ONNX form "
            f"({reason(_root(error))})"
        ) from error


def _finish(proto: Any, name: str, graph: Graph) -> bytes:
    """Say what the file is, call the free axes N and S, and leave out where it was made."""
    import onnx

    proto.producer_name, proto.producer_version = "aevb", __version__
    proto.doc_string = graph.about
    proto.graph.name = name.removesuffix(".onnx")
    del proto.metadata_props[:]
    for part in (proto.graph, *proto.functions):
        _forget(part)
    first = [value.type.tensor_type.shape.dim[0] for value in proto.graph.input]
    letters = {axis.dim_param: letter for axis, letter in zip(first, graph.axes, strict=True)}
    for value in (*proto.graph.input, *proto.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in letters:
                axis.dim_param = letters[axis.dim_param]
    del proto.graph.value_info[:]  # inferred again by whoever reads the file
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _forget(part: Any) -> None:
    """Leave out the stack traces that the exporter notes: they name folders of this machine."""
    del part.metadata_props[:]
    for node in part.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*getattr(part, "initializer", ()), *getattr(part, "value_info", ())):
        del value.metadata_props[:]
    for value in (*part.input, *part.output):
        if not isinstance(value, str):
            del value.metadata_props[:]


def _root(error: BaseException) -> BaseException:
    """What began it: the exporter wraps an error in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that no model here needs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
