"""A model, a posterior and their learner from the settings of a run, sized for its data."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aevb.algorithms import uncertain
from aevb.conditional import Conditional, class_and_code
from aevb.data import Binarization, Dataset
from aevb.data.checks import check_resolution
from aevb.data.maps import rows_of
from aevb.errors import DataError, UsageError
from aevb.families import Family, Masked
from aevb.model import Model
from aevb.networks import (
    MLP,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    Leading,
    ObservedInput,
    StandardizedInput,
    Standardizer,
)
from aevb.posterior import Posterior, with_class
from aevb.priors import VampPrior
from aevb.randomness import Stream, generator, torch_seeded
from aevb.refinement import refined
from aevb.settings import Settings
from aevb.storage.description import ACTIVATIONS
from aevb.storage.exact_models import build_exact, settle_exact
from aevb.storage.gradients import settle_gradient
from aevb.storage.latents import (
    check_algorithm,
    check_latents,
    classes_of,
    code_sizes,
    make_ladder,
    make_posterior,
    make_prior,
    prior_for,
)
from aevb.storage.learners import ALGORITHMS
from aevb.storage.likelihoods import LIKELIHOODS, OF_CLASSES
from aevb.storage.settings import pick, refuse

ROWS_FOR_START = 10_000
CELLS_LOOKED_AT = 4_000_000
BETWEEN = 200
"""The width of the networks between layers, where those to the data are convolutional."""


def build(settings: Settings, data: Dataset) -> tuple[Model, Posterior]:
    """The model and posterior that the settings name, sized and started for the data.

    Weights are drawn from (seed, INITIALIZATION); the decoder's last bias starts at the marginals
    of the training rows.
    Errors: UsageError for unknown names, or a posterior and prior that do not go together;
    DataError for data outside the likelihood's domain.
    """
    return _assembled(settings, data, settings.latent_dim, _latents)


def build_with_class(settings: Settings, data: Dataset, classes: int) -> tuple[Model, Posterior]:
    """The same for a code (y, z) that begins with one of so many classes, as a one-hot vector.

        p(y) p(z) p(x given y, z),   q(y given x) q(z given x, y),   each class as likely as another

    The widths of the settings are those of the classifier q(y given x), of what the encoder of z is
    told of x, and, from the other end, of the decoder.
    Errors: UsageError for other latents than mean-field under standard-normal in one layer; those
    of `build`.
    Source: Kingma et al. (2014), "Semi-supervised learning with deep generative models", section 3.
    """
    latents = settings.posterior, prior_for(settings.posterior, settings.prior), settings.layers
    if latents != ("mean-field", "standard-normal", 1):
        raise UsageError(
            "a model with classes has --posterior mean-field, --prior standard-normal and one "
            f"layer, found {settings.posterior}, {settings.prior} and {settings.layers}"
        )
    make = partial(_class_and_code, classes=classes)
    return _assembled(settings, data, classes + settings.latent_dim, make)


Latents = Callable[[Settings, Dataset], tuple[nn.Module, Posterior]]


def _assembled(
    settings: Settings, data: Dataset, code: int, latents: Latents
) -> tuple[Model, Posterior]:
    """A decoder of codes of that size, and prior and posterior over them."""
    first = data.train.take(_spread(len(data.train), ROWS_FOR_START))
    if settings.exact:
        return build_exact(settings, data, first)
    if not data.is_image and settings.network == "convolutional":
        raise UsageError("--network convolutional needs images: the data are a table, choose mlp")
    pick(ACTIVATIONS, settings.activation, "--activation")
    check_latents(settings.posterior, settings.prior, settings.layers, settings.latent_dim)
    family: Family = pick(LIKELIHOODS, settings.likelihood, "--likelihood")(data, settings)
    if settings.likelihood not in OF_CLASSES:
        refuse(settings, ["classes"], f"--likelihood {settings.likelihood}")
    if data.source.missing:
        family = Masked(family)
    with torch_seeded(generator(settings.seed, Stream.INITIALIZATION), torch.device("cpu")):
        decoder = _decoder(replace(settings, latent_dim=code), data, family)
        prior, posterior = latents(settings, data)
    model = Model(prior, Conditional(decoder, family))
    family.fit(first)
    for part in posterior.modules():
        if isinstance(part, Standardizer):
            part.fit(first)
    for part in (model.likelihood, model.prior):
        if isinstance(part, Conditional | VampPrior):
            part.start_at(first)
    if settings.algorithm == "full-bayes":
        model = uncertain(model, settings.weight_draws, settings.seed)
    if settings.algorithm == "semi-amortized":
        posterior = refined(posterior, model, settings.refine)
    # Parameters are float32 where products are in bfloat16.
    dtype = torch.float64 if settings.precision == "float64" else torch.float32
    return model.to(dtype), posterior.to(dtype)


def check_domain(model: Model, data: Dataset) -> None:
    """Hold every row of the data to the likelihood: DataError at the first cell outside its domain.

    They are read again only where what was seen when they were opened does not settle it.
    A column of an array whose values differ by less than 32 bits can tell is refused too; tables
    and frames were looked at as they were read.
    """
    _check_resolution(data)
    family = model.family
    # What was binarized lies in {0, 1} by construction, and in every discrete domain.
    if family is None or data.train.binarize is not Binarization.NONE or _fits(family, data):
        return
    everything = replace(data.train, index=np.arange(len(data.source.values)))
    for positions, x in everything.chunks(max(1, 10_000_000 // everything.width)):
        try:
            family.check(x, int(positions[0]) + 1)
        except DataError as error:
            raise DataError(f"{data.name}: {error}") from error


def _fits(family: Family, data: Dataset) -> bool:
    """Whether the extremes of the columns lie in the domain, and with them all that they bound.

    That is so since every domain is, for each cell, an interval or the whole numbers in one.
    """
    if data.source.extremes is None:
        return False
    x = torch.from_numpy(data.source.extremes.reshape(3, -1)) * data.train.scale
    if data.source.missing:
        x = torch.cat([x, torch.full_like(x[:1], torch.nan)])
    return bool(family.inside(x).all())


def _check_resolution(data: Dataset) -> None:
    """DataError for a column that differs so little, beside its size, that rounding blurs it."""
    values = data.train.values
    if values.dtype.itemsize < 4 or values.dtype == np.float32:
        return  # nothing is rounded here: tables were looked at as they were read
    most = max(10, min(ROWS_FOR_START, CELLS_LOOKED_AT // data.train.width))
    some = data.train.index[_spread(len(data.train), most)]
    x = np.asarray(rows_of(values, some), np.float64).reshape(len(some), -1)
    check_resolution(data.name, np.fmin.reduce(x), np.fmax.reduce(x))


def settle_latents(settings: Settings) -> Settings:
    """Prior, objective and its gradient, where they were left open: those that suit the posterior.

    The objective is estimator B where KL(q || p) has a closed form, else A, which samples it; or
    what the algorithm has for one.
    Errors: UsageError for names that there are not, or a combination that makes no sense.
    """
    pick(ALGORITHMS, settings.algorithm, "--algorithm")
    if settings.exact:
        return settle_exact(settings)
    if settings.network == "linear":
        refuse(settings, ["activation"], "--network linear")
        if settings.hidden:
            raise UsageError(
                f"--network linear has no hidden layers, found {settings.hidden[0]}: leave "
                "--hidden out, or choose mlp"
            )
    posterior = settings.posterior
    check_latents(posterior, settings.prior, settings.layers, settings.latent_dim)
    check_algorithm(settings)
    prior, classes = prior_for(posterior, settings.prior), classes_of(settings)
    latent_classes = classes if classes > 1 else None
    return settle_gradient(replace(settings, prior=prior, latent_classes=latent_classes))


def _decoder(settings: Settings, data: Dataset, family: Family) -> nn.Module:
    width, size = math.prod(data.shape), code_sizes(settings)[0]
    outputs, activation = family.outputs(width), ACTIVATIONS[settings.activation]
    network: nn.Module
    if settings.network != "convolutional":
        network = MLP(size, settings.hidden[::-1], outputs, activation)
    elif outputs % width:
        raise UsageError(
            f"--network convolutional cannot give the {outputs} numbers of --likelihood "
            f"{settings.likelihood}: choose mlp"
        )
    else:
        network = ConvolutionalDecoder(
            size, settings.hidden, data.shape, outputs // width, activation
        )
    return network if settings.layers == 1 else Leading(network, size)


def _latents(settings: Settings, data: Dataset) -> tuple[nn.Module, Posterior]:
    """Prior and posterior; of two that share parameters, the one that has them is made first."""
    sizes, classes = code_sizes(settings), classes_of(settings)
    hidden = settings.hidden if settings.network == "mlp" else ()
    between = hidden or (BETWEEN,)
    width, rows = math.prod(data.shape), len(data.train)
    unit = data.in_unit_interval
    name = prior_for(settings.posterior, settings.prior)

    def encoder(outputs: int) -> nn.Module:
        return _encoder(settings, data, outputs)

    if settings.posterior == "ladder":
        prior = make_prior(name, sizes, between, None, width, unit)
        return prior, make_ladder(sizes, between, prior, encoder)
    posterior = make_posterior(settings.posterior, sizes, between, rows, encoder, classes)
    prior = make_prior(name, sizes, between, posterior.conditional, width, unit, classes)
    return prior, posterior


def _class_and_code(settings: Settings, data: Dataset, classes: int) -> tuple[nn.Module, Posterior]:
    """Prior and posterior over a class and a code."""
    activation, size = ACTIVATIONS[settings.activation], settings.latent_dim
    width = settings.hidden[0] if settings.network == "mlp" and settings.hidden else BETWEEN
    posterior = with_class(
        _encoder(settings, data, classes),
        _encoder(settings, data, width),
        MLP(width + classes, (width,), 2 * size, activation),
        [classes, size],
    )
    return class_and_code(classes, size), posterior


def _encoder(settings: Settings, data: Dataset, outputs: int) -> nn.Module:
    """A network from rows to so many numbers."""
    activation = ACTIVATIONS[settings.activation]
    missing = data.source.missing > 0
    if settings.network == "convolutional":
        image_shape = (data.shape[0] * (1 + missing), *data.shape[1:])
        network: nn.Module = ConvolutionalEncoder(image_shape, settings.hidden, outputs, activation)
        return ObservedInput(network) if missing else network
    width = math.prod(data.shape)
    network = MLP(width * (1 + missing), settings.hidden, outputs, activation)
    network = ObservedInput(network) if missing else network
    return network if data.in_unit_interval else StandardizedInput(network, width)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` positions spread evenly over n."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
