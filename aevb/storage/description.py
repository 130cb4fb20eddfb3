"""Models as data: a tree of names and numbers, restored by a closed table of classes.

Every class in the table keeps its constructor arguments under their own names; so a module is
described by its class's name and those arguments, and built by calling the class with them. Nothing
in a file can name anything outside the table. A module of the user's own is noted as `external`
and restored by handing it in again.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from torch.distributions import Distribution

from aevb import conditional, families, networks, posterior, priors, refinement
from aevb import distributions as zoo
from aevb.errors import AevbError, ModelFileError, name_shortly, reason, shortly
from aevb.gaussian_mixture import Components, GaussianMixture
from aevb.linear_gaussian import LinearGaussian
from aevb.model import Model

CLASSES: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Model,
        LinearGaussian,
        GaussianMixture,
        Components,
        conditional.Conditional,
        conditional.Unconditional,
        conditional.Chain,
        conditional.Averaged,
        conditional.Informed,
        priors.VampPrior,
        posterior.Amortized,
        posterior.PerDatum,
        posterior.Global,
        posterior.ExactPosterior,
        posterior.Ladder,
        refinement.Refined,
        posterior.FreeParameters,
        networks.MLP,
        networks.Leading,
        networks.ConvolutionalEncoder,
        networks.ConvolutionalDecoder,
        networks.StandardizedInput,
        networks.ObservedInput,
        networks.MADE,
        families.Normal,
        families.MultivariateNormal,
        families.Standardized,
        families.Bernoulli,
        families.ContinuousBernoulli,
        families.Categorical,
        families.OneHotCategorical,
        families.OneHotCategoricals,
        families.Poisson,
        families.NegativeBinomial,
        families.Elementwise,
        families.DiscretizedLogistic,
        families.Ordinal,
        families.ZeroInflatedNegativeBinomial,
        families.LowRankMultivariateNormal,
        families.Dirichlet,
        families.Elliptical,
        families.VonMisesFisher,
        families.HypersphericalUniform,
        families.Mixture,
        families.Columns,
        families.Masked,
        families.Planar,
        families.Radial,
        families.Householder,
        families.Sylvester,
        families.RealNVP,
        families.InverseAutoregressive,
        families.MaskedAutoregressive,
    )
}
DISTRIBUTIONS: dict[str, type[Distribution]] = {
    name: kind
    for name, kind in vars(zoo).items()
    if isinstance(kind, type) and issubclass(kind, Distribution)
}
"""What a family may be of: all of `aevb.distributions`."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky-relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}
MAX_WIDTH = 10_000_000
MAX_DEPTH = 20
MAX_ITEMS = 10_000


def describe(value: Any, known: dict[int, str] | None = None, path: str = "model") -> Any:
    """The JSON tree of a module or of one of its arguments.

    `known` holds the modules that were described before, by their identity, with their paths: what
    is met again is shared.
    Example:
        >>> describe(networks.MLP(2, [3], 1))["arguments"]["hidden"]
        [3]
    """
    known = {} if known is None else known
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list | nn.ModuleList):
        return [describe(item, known, f"{path}.{i}") for i, item in enumerate(value)]
    if isinstance(value, type) and value in ACTIVATIONS.values():
        return {"activation": next(k for k, v in ACTIVATIONS.items() if v is value)}
    if isinstance(value, type) and value in DISTRIBUTIONS.values():
        return {"distribution": next(k for k, v in DISTRIBUTIONS.items() if v is value)}
    if type(value) is dict:
        return {"numbers": value}
    kind = value if isinstance(value, type) else type(value)
    if CLASSES.get(kind.__name__) is type(value):
        if id(value) in known:
            return {"shared": known[id(value)]}
        arguments = {
            name: describe(getattr(value, name), known, f"{path}.{name}")
            for name in _arguments(kind)
        }
        known[id(value)] = path
        return {"class": kind.__name__, "arguments": arguments}
    return {"external": f"{kind.__module__}.{kind.__qualname__}"}


def restore(
    tree: Any, modules: Mapping[str, nn.Module], path: str, built: dict[str, Any] | None = None
) -> Any:
    """Build what `describe` wrote down; external modules come from `modules` by their path.

    `built` gathers the modules by their paths, for what is shared with them.
    Errors: ModelFileError for a name outside the table, arguments that are not the class's or of
    another type, sizes beyond the limits, or an external module that was not handed in.
    """
    if too_many_items(tree):
        raise ModelFileError(f"the description of {path} has more than {MAX_ITEMS} items")
    return _restore(tree, modules, path, {} if built is None else built)


def too_many_items(tree: Any) -> bool:
    """Whether a tree has more items than `restore` takes, counted without recursion.

    The columns that a family is of are not counted: nothing is built of their numbers.
    """
    waiting, count = [tree], 0
    while waiting and count <= MAX_ITEMS:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            waiting.extend(v for k, v in item.items() if k != "columns" or not _all_columns(v))
        elif isinstance(item, list):
            waiting.extend(item)
    return count > MAX_ITEMS


def _all_columns(value: Any) -> bool:
    """Whether these are lists of numbers alone."""
    lists = isinstance(value, list) and all(isinstance(group, list) for group in value)
    return lists and all(type(i) is int for group in value for i in group)


def _restore(tree: Any, modules: Mapping[str, nn.Module], path: str, built: dict[str, Any]) -> Any:
    if path.count(".") > MAX_DEPTH:
        raise ModelFileError(f"the description of {path} is nested too deeply")
    if isinstance(tree, list):
        return tuple(_restore(item, modules, f"{path}.{i}", built) for i, item in enumerate(tree))
    if isinstance(tree, dict):
        return _restore_object(tree, modules, path, built)
    if isinstance(tree, int) and not isinstance(tree, bool) and not 0 <= tree <= MAX_WIDTH:
        raise ModelFileError(
            f"{path} is {shortly(tree, 30)}: expected a size between 0 and {MAX_WIDTH}"
        )
    return tree


def _restore_object(
    tree: dict[str, Any], modules: Mapping[str, nn.Module], path: str, built: dict[str, Any]
) -> Any:
    match tree:
        case {"activation": str(name)} if name in ACTIVATIONS and len(tree) == 1:
            return ACTIVATIONS[name]
        case {"distribution": str(name)} if name in DISTRIBUTIONS and len(tree) == 1:
            return DISTRIBUTIONS[name]
        case {"numbers": dict(numbers)} if len(tree) == 1:
            return numbers
        case {"shared": str(other)} if other in built and len(tree) == 1:
            return built[other]
        case {"external": str(name)} if len(tree) == 1:
            if path not in modules:
                raise ModelFileError(
                    f"{path} is a module of your own ({name_shortly(name)}), which no file can "
                    f"hold: hand it in, aevb.load(folder, modules={{{path!r}: module}})"
                )
            return modules[path]
        case {"class": str(name), "arguments": dict(given)} if name in CLASSES and len(tree) == 2:
            kind = CLASSES[name]
            if set(given) != set(_arguments(kind)):
                raise ModelFileError(f"{path}: the arguments of {name} are not those of the class")
            parts = {k: _restore(v, modules, f"{path}.{k}", built) for k, v in given.items()}
            for argument, value in parts.items():
                if f"{path}.{argument}" not in modules:
                    _require_type(kind, argument, value, path)
            try:
                built[path] = kind(**parts)
                return built[path]
            except (
                AevbError,
                TypeError,
                ValueError,
                AttributeError,
                ArithmeticError,
                RuntimeError,
            ) as error:
                said = reason(error)
                raise ModelFileError(f"{path}: {name} cannot be built ({said})") from error
        case _:
            raise ModelFileError(f"{path} names nothing that this version knows: {shortly(tree)}")


def _require_type(kind: type[nn.Module], argument: str, value: Any, path: str) -> None:
    """Hold an argument to its annotation: a text where a number belongs would fail much later."""
    try:
        _adapter(kind.__name__, argument).validate_python(value, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise ModelFileError(
            f"{path}.{argument} does not fit {kind.__name__}: {said[0].lower()}{said[1:]}, "
            f"found {shortly(value)}"
        ) from error


@cache
def _adapter(name: str, argument: str) -> TypeAdapter[Any]:
    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    return TypeAdapter(get_type_hints(CLASSES[name].__init__)[argument], config=config)


def _arguments(kind: type[nn.Module]) -> list[str]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD]
