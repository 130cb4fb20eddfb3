"""Everything is a conditional distribution: a module from a condition to a distribution.

    condition                   used as
    none                        prior p(z)
    z                           likelihood p(x given z), the decoder
    x                           amortized posterior q(z given x), the encoder
    the datum's index i         posterior with free parameters for each datum

Any `nn.Module` whose `forward` takes the condition and returns a `torch.distributions.Distribution`
may stand in for the classes here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from aevb import distributions
from aevb.distributions.combinators import Average
from aevb.distributions.reparameterization import Noise, Route, route
from aevb.errors import UsageError, at_least
from aevb.families import (
    LIKELIHOOD_MIN_VARIANCE,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Family,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)
from aevb.randomness import Stream, generator, normal


class Conditional(nn.Module):
    """p(y given c): a network takes the condition to numbers, a family makes them a distribution.

    Shapes: the condition (*batch, *C) with `condition_ndim` axes in C; the network sees
    (N, *C) with the batch flattened, so any module for batches fits; the distribution has batch
    shape `batch`.
    Units: log-densities in nats.
    Errors: those of the family, UsageError where the network's output does not fit it, and for a
    condition that is no tensor.
    Example:
        >>> likelihood = Conditional(nn.Linear(2, 5), Bernoulli())
        >>> likelihood(torch.zeros(4, 3, 2)).batch_shape
        torch.Size([4, 3])
    """

    def __init__(self, network: nn.Module, family: Family, condition_ndim: int = 1) -> None:
        super().__init__()
        self.network = network
        self.family = family
        self.condition_ndim = condition_ndim

    def forward(self, condition: Tensor) -> Distribution:
        if not isinstance(condition, Tensor):
            raise UsageError(
                f"the condition is a tensor, found {type(condition).__name__}: what is to be a "
                "posterior is made by aevb.amortized(network, family)"
            )
        batch = condition.shape[: condition.ndim - self.condition_ndim]
        flat = condition.reshape(-1, *condition.shape[len(batch) :])
        raw = for_densities(self.network(flat))
        distribution: Distribution = self.family(raw.reshape(*batch, *raw.shape[1:]), len(batch))
        return distribution

    def with_family(self, family: Family) -> "Conditional":
        """The same network with another family."""
        return Conditional(self.network, family, self.condition_ndim)

    def start_at(self, x: Tensor) -> None:
        """Begin at the columnwise marginals of x (N, ...), where the network has a `start_at`."""
        start = getattr(self.network, "start_at", None)
        if start is not None:
            with torch.no_grad():
                start(self.family.encode_marginals(x))


def borrow(borrower: nn.Module, **modules: nn.Module) -> None:
    """Let a module use others that are not its own: their parameters are not counted twice.

    Example:
        >>> module = nn.Linear(2, 3)
        >>> borrow(module, network=nn.Linear(5, 7))
        >>> module.network.out_features, len(list(module.parameters()))
        (7, 2)
    """
    vars(borrower).update(modules)


def for_densities(raw: Tensor) -> Tensor:
    """What a network gives, in single precision at least: products may have less, densities not.

    Shapes: those of `raw`; units: those of `raw`.
    Example:
        >>> for_densities(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return raw.float() if raw.dtype == torch.bfloat16 else raw


class Unconditional(nn.Module):
    """p(z): a family at numbers of its own, fixed or learned.

    Shapes: no condition; batch shape (), event (size,). `raw` (outputs,) starts at zeros, which is
    N(0, I) for `Normal`.
    Units: log-densities in nats.
    Example:
        >>> Unconditional(Normal(), 2)().log_prob(torch.zeros(2)).exp()
        tensor(0.1592)
    """

    def __init__(self, family: Family, size: int, learned: bool = False) -> None:
        super().__init__()
        self.family = family
        self.size = size
        self.learned = learned
        raw = torch.zeros(family.outputs(size))
        if learned:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def forward(self, condition: Tensor | None = None) -> Distribution:
        distribution: Distribution = self.family(self.raw, 0)
        return distribution


class Chain(nn.Module):
    """Conditionals one after another over one concatenated z: again a conditional.

        p(z given c) = p(a given c) p(b given a) p(...),   z = (a, b, ...)

    Two of them make a model of several stochastic layers: as a prior the deepest layer is drawn
    first, and z has it last (`reverse`); as a posterior the layer next to the data is drawn first.
    Shapes: `sizes` are those of the parts, in the order of drawing; the condition goes to the first
    of `links`, each of the others gets the part before it. Batch as that of the first link.
    Units: nats.
    Errors: UsageError for another number of sizes, or a link without a `family`.
    Source: Rezende et al. (2014), "Stochastic backpropagation", section 2; Burda et al. (2015).
    Example:
        >>> below = Conditional(nn.Linear(2, 6), Normal())
        >>> prior = Chain([Unconditional(Normal(), 2), below], [2, 3], reverse=True)
        >>> prior().event_shape
        torch.Size([5])
    """

    def __init__(
        self, links: Sequence[nn.Module], sizes: Sequence[int], reverse: bool = False
    ) -> None:
        super().__init__()
        self.links: Sequence[Any] = nn.ModuleList(_checked(links, sizes))  # type: ignore[assignment]
        self.sizes = tuple(sizes)
        self.reverse = reverse
        self.noises = _noises(links, sizes)

    def forward(self, condition: Tensor | None = None) -> Distribution:
        links = self._later(condition)
        return distributions.Chain(
            self.links[0](condition), links, self.sizes, self.reverse, self.noises
        )

    def _later(self, condition: Tensor | None) -> Sequence[Callable[[Tensor], Distribution]]:
        """The laws of all parts but the first, each of the part before it."""
        return list(self.links)[1:]


class Averaged(nn.Module):
    """A conditional of whose weights there is a posterior: the average over K draws of them.

        q(theta) = N(mean, diag(deviation^2)),   theta_k = mean + deviation * e_k,  e_k ~ N(0, I)
        p(y given c) = 1/K sum_k p(y given c, theta_k)

    The means are the parameters of `conditional`, by name and place; the draws e_k are kept, so
    that it is one law at every call: what an evaluation says of it holds of what is saved.
    Shapes: P parameters in all, in the order of `conditional.parameters()`; `log_deviation` (P,),
    `noise` (`draws`, P), zeros until `redraw`. The condition and the law as `conditional` has them.
    Units: nats.
    Errors: UsageError for a conditional without parameters, or fewer than one draw.
    Source: Kingma & Welling (2013), appendix F.
    Example:
        >>> likelihood = Averaged(Conditional(nn.Linear(2, 5), Bernoulli()), draws=3)
        >>> likelihood.redraw(seed=0)
        >>> likelihood(torch.zeros(4, 2)).mean.shape
        torch.Size([4, 5])
    """

    START = 0.05
    """The deviation of every weight before anything is learned."""
    noise: Tensor

    def __init__(self, conditional: nn.Module, draws: int = 10) -> None:
        super().__init__()
        size = sum(p.numel() for p in conditional.parameters())
        if not size:
            raise UsageError("there are no weights to average over: the law has no parameters")
        at_least(1, draws, "the number of draws of the weights")
        self.conditional = conditional
        self.draws = draws
        self.log_deviation = nn.Parameter(torch.full((size,), math.log(self.START)))
        self.register_buffer("noise", torch.zeros(draws, size))

    @property
    def family(self) -> Family | None:
        """The family of each of the laws that are averaged, where they have one."""
        return getattr(self.conditional, "family", None)

    def forward(self, condition: Tensor | None = None) -> Distribution:
        given = () if condition is None else (condition,)
        drawn = [self.weights(noise) for noise in self.noise]
        return Average([functional_call(self.conditional, theta, given) for theta in drawn])

    def weights(self, noise: Tensor) -> dict[str, Tensor]:
        """theta = mean + deviation * noise by name, from noise (P,)."""
        means = dict(self.conditional.named_parameters())
        steps = (self.log_deviation.exp() * noise).split([p.numel() for p in means.values()])
        pairs = zip(means.items(), steps, strict=True)
        return {name: mean + step.view_as(mean) for (name, mean), step in pairs}

    def divergence(self) -> Tensor:
        """KL(q(theta) || N(0, I)), nats.

        1/2 sum_p (mean_p^2 + deviation_p^2 - 1 - log deviation_p^2)
        """
        means = torch.cat([p.flatten() for p in self.conditional.parameters()])
        variances = (2 * self.log_deviation).exp()
        return 0.5 * (means.square() + variances - 1 - 2 * self.log_deviation).sum()

    def redraw(self, seed: int, part: int = 0) -> None:
        """Take other draws of the weights from q(theta): one for each seed and part of a model."""
        for k, noise in enumerate(self.noise):
            source = generator(seed, Stream.INITIALIZATION, k, 1 + part)
            noise.copy_(normal(source, noise.shape, noise.dtype))

    def with_family(self, family: Family) -> "Averaged":
        """The same weights, deviations and draws with another family."""
        inner: Any = self.conditional
        other = Averaged(inner.with_family(family), self.draws)
        other.log_deviation, other.noise = self.log_deviation, self.noise
        return other


class Informed(Chain):
    """A chain whose later links are told of the condition beside the part before them.

        p(a, b given c) = p(a given c) p(b given t(c), a) ...,   z = (a, b, ...)

    With a class for a, it is a classifier and an encoder for each class: q(y given x) q(z given x,
    y). The networks of the later links see the vector (t(c), a); what t makes of the condition is
    computed once, however many values of a are tried.
    Shapes: `sizes` are those of the parts, in the order of drawing; the condition (N, C) goes to
    the first of `links`, and through `told` to the others. Batch as that of the first link.
    Units: nats. Errors: as `Chain`.
    Source: Kingma et al. (2014), "Semi-supervised learning with deep generative models", section 3.
    Example:
        >>> from aevb.families import OneHotCategorical
        >>> classifier = Conditional(nn.Linear(7, 3), OneHotCategorical())
        >>> encoder = Conditional(nn.Linear(4 + 3, 2 * 2), Normal())
        >>> q = Informed([classifier, encoder], [3, 2], told=nn.Linear(7, 4))
        >>> q(torch.zeros(5, 7)).event_shape
        torch.Size([5])
    """

    def __init__(self, links: Sequence[nn.Module], sizes: Sequence[int], told: nn.Module) -> None:
        super().__init__(links, sizes)
        self.told = told

    def _later(self, condition: Tensor | None) -> Sequence[Callable[[Tensor], Distribution]]:
        about = for_densities(self.told(condition))
        return [_informed(link, about) for link in list(self.links)[1:]]


def _informed(link: Any, about: Tensor) -> Callable[[Tensor], Distribution]:
    """The law of a part given the one before it, by a network that is told of the condition too."""

    def law(before: Tensor) -> Distribution:
        given = torch.cat([about.expand(*before.shape[:-1], -1), before], dim=-1)
        distribution: Distribution = link(given)
        return distribution

    return law


def _checked(links: Sequence[nn.Module], sizes: Sequence[int]) -> Sequence[nn.Module]:
    """The links of a chain, or a UsageError."""
    if len(links) != len(sizes) or not links:
        raise UsageError(f"{len(links)} links of a chain need as many sizes, found {sizes}")
    for link in links:
        if not isinstance(getattr(link, "family", None), Family):
            raise UsageError(
                f"a link of a chain needs a family, as Conditional has, found {type(link).__name__}"
            )
    return links


def _noises(links: Sequence[Any], sizes: Sequence[int]) -> list[Noise]:
    """The noise that the draw of each part takes."""
    return [_route_of(k.family, size).noise for k, size in zip(links, sizes, strict=True)]


def _route_of(family: Any, size: int) -> Route:
    """How a family's distributions over so many elements are drawn from."""
    own = next((t for t in (*family.parameters(), *family.buffers())), None)
    # Where a model is built without memory, to be filled from a file, torch cannot check logits.
    device = "cpu" if own is None else own.device
    return route(family(torch.zeros(1, family.outputs(size), device=device), 1))


def standard_normal(size: int) -> Unconditional:
    """The prior of the paper, p(z) = N(z; 0, I) over `size` dimensions.

    Shapes: batch (), event (`size`,). Units: nats.
    Source: Kingma & Welling (2013), section 3.
    Example:
        >>> standard_normal(2)().log_prob(torch.zeros(2)).exp()
        tensor(0.1592)
    """
    return Unconditional(Normal(), size)


def class_and_code(classes: int, size: int) -> nn.Module:
    """The prior p(y) p(z) of a class, each as likely as another, and a code from N(0, I).

    Shapes: batch (), event (`classes` + `size`,): y as a one-hot vector, then z. Units: nats.
    Source: Kingma et al. (2014), "Semi-supervised learning with deep generative models", equation
    2.
    Example:
        >>> class_and_code(3, 2)().event_shape
        torch.Size([5])
    """
    either = Unconditional(OneHotCategorical(), classes), standard_normal(size)
    return Chain(either, [classes, size])


def bernoulli(network: nn.Module) -> Conditional:
    """A likelihood for data in {0, 1}; the network gives X logits.

    Shapes: as `Conditional`, event (X,). Units: nats.
    Errors: those of `families.Bernoulli`. Source: as there.
    Example:
        >>> bernoulli(nn.Linear(2, 5))(torch.zeros(3, 2)).event_shape
        torch.Size([5])
    """
    return Conditional(network, Bernoulli())


def continuous_bernoulli(network: nn.Module) -> Conditional:
    """A likelihood for grey levels in [0, 1]; the network gives X logits.

    Shapes: as `Conditional`, event (X,). Units: nats, a density on [0, 1].
    Errors: those of `families.ContinuousBernoulli`. Source: as there.
    Example:
        >>> grey = torch.full((3, 5), 0.3)
        >>> continuous_bernoulli(nn.Linear(2, 5))(torch.zeros(3, 2)).log_prob(grey).shape
        torch.Size([3])
    """
    return Conditional(network, ContinuousBernoulli())


def categorical(network: nn.Module, classes: int) -> Conditional:
    """A likelihood for classes numbered from 0; the network gives `classes` blocks of X logits.

    Shapes: as `Conditional`, event (X,). Units: nats.
    Errors: those of `families.Categorical`. Source: as there.
    Example:
        >>> law = categorical(nn.Linear(2, 4 * 5), classes=4)(torch.zeros(3, 2))
        >>> law.event_shape, bool((law.sample() < 4).all())
        (torch.Size([5]), True)
    """
    return Conditional(network, Categorical(classes))


def poisson(network: nn.Module) -> Conditional:
    """A likelihood for counts; the network gives X log-rates.

    Shapes: as `Conditional`, event (X,). Units: nats.
    Errors: those of `families.Poisson`. Source: as there.
    Example:
        >>> poisson(nn.Identity())(torch.zeros(1, 2)).mean
        tensor([[1., 1.]])
    """
    return Conditional(network, Poisson())


def negative_binomial(network: nn.Module) -> Conditional:
    """A likelihood for over-dispersed counts; the network gives X log-means, X log-counts.

    Shapes: as `Conditional`, event (X,). Units: nats.
    Errors: those of `families.NegativeBinomial`. Source: as there.
    Example:
        >>> law = negative_binomial(nn.Identity())(torch.zeros(1, 2))
        >>> law.mean, law.variance
        (tensor([[1.]]), tensor([[2.]]))
    """
    return Conditional(network, NegativeBinomial())


def gaussian(
    network: nn.Module,
    min_variance: float = LIKELIHOOD_MIN_VARIANCE,
    sigmoid_mean: bool = False,
    noise_shape: tuple[int, ...] | None = None,
) -> Conditional:
    """A likelihood for real data; the network gives X means, X log-variances (see `Normal`).

    Shapes: as `Conditional`, event (X,). Units: nats.
    Errors: those of `families.Normal`. Source: as there.
    Example:
        >>> gaussian(nn.Linear(2, 2 * 5))(torch.zeros(3, 2)).event_shape
        torch.Size([5])
    """
    return Conditional(network, Normal(min_variance, sigmoid_mean, noise_shape))


def full_gaussian(network: nn.Module, min_variance: float = LIKELIHOOD_MIN_VARIANCE) -> Conditional:
    """A likelihood with a full covariance; the network gives X (X + 3) / 2 numbers.

    Shapes: as `Conditional`, event (X,). Units: nats.
    Errors: those of `families.MultivariateNormal`. Source: as there.
    Example:
        >>> full_gaussian(nn.Identity(), min_variance=0.0)(torch.zeros(1, 5)).covariance_matrix
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    return Conditional(network, MultivariateNormal(min_variance))
