"""The posterior q: z = g(noise, x) and log q(z given x).

amortized    its numbers are a network's of x
per datum    each row has numbers of its own, found by its place in the data set
global       one distribution for all rows
exact        Bayes' rule itself, over codes that can be listed or in closed form
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from aevb import distributions
from aevb.conditional import Chain, Conditional, Informed, borrow, for_densities
from aevb.enumeration import enumerate_codes
from aevb.errors import UsageError
from aevb.families import Family, MultivariateNormal, Normal, OneHotCategorical
from aevb.model import Model


class Batch(NamedTuple):
    """Data with the number of each row in its data set.

    `key` names the random numbers of a treatment that is done inside the step.
    Shapes: `x` (N, *X), `rows` (N,) and `key` () int64.
    Example:
        >>> batch = Batch(torch.zeros(3, 5), torch.tensor([0, 4, 9]))
        >>> per_datum(10, 2)(batch).batch_shape
        torch.Size([3])
    """

    x: Tensor
    rows: Tensor | None = None
    key: Tensor | None = None


def has_rows(posterior: nn.Module) -> bool:
    """Whether each row has numbers of its own in a posterior, of anyone's make.

    Example:
        >>> has_rows(per_datum(3, 2)), has_rows(nn.Linear(5, 4))
        (True, False)
    """
    return bool(getattr(posterior, "per_row", False))


def as_batch(batch: Batch | Tensor) -> Batch:
    """A plain tensor is a batch whose rows have no number.

    Shapes: x (N, *X).
    Example:
        >>> as_batch(torch.zeros(3, 5)).rows is None
        True
    """
    return batch if isinstance(batch, Batch) else Batch(batch)


class Posterior(nn.Module, ABC):
    """q(z given x).

    Shapes: a batch of N data to a distribution with batch (N,) and event (D,). Units: nats.
    Errors: UsageError from `numbers`, `outputs`, `given` and `renewed` for a posterior that is not
    one network and a family, such as a ladder.
    Source: Kingma & Welling (2013), section 2.2.
    Example:
        >>> q = mean_field(nn.Linear(5, 4))
        >>> q(torch.zeros(3, 5)).batch_shape, q.numbers(torch.zeros(3, 5)).shape
        (torch.Size([3]), torch.Size([3, 4]))
    """

    per_row = False
    """Whether each row of one data set has numbers of its own, which say nothing of other rows."""
    exact = False
    """Whether it is p(z given x) of a model, whatever the model's numbers become."""
    decodings = 1
    """How often the decoder stands in the graph of a step."""

    @abstractmethod
    def forward(self, batch: Batch | Tensor) -> Distribution:
        """q of each datum."""

    def numbers(self, batch: Batch | Tensor) -> Tensor:
        """What the network says of each datum before the family makes it a distribution.

        Shapes: (N, outputs); of a chain, the numbers of its first link.
        """
        raise _refusal(self)

    def outputs(self, size: int) -> int:
        """How many numbers encode q over `size` latent dimensions."""
        raise _refusal(self)

    def given(self, numbers: Tensor) -> Distribution:
        """q with these numbers (N, outputs) in place of the network's; all else is shared."""
        raise _refusal(self)

    def renewed(self, n: int, outputs: int) -> "PerDatum":
        """The same family with free numbers, zeros at first, for n data: all else is shared."""
        raise _refusal(self)


class OfNumbers(Posterior):
    """A posterior by a conditional, of the condition that a subclass picks from the batch.

    Shapes: as any posterior; the condition (N, ...). Errors: as `Posterior`.
    Example:
        >>> class OfTwoColumns(OfNumbers):
        ...     def condition(self, batch):
        ...         return batch.x[:, :2]
        >>> OfTwoColumns(Conditional(nn.Linear(2, 4), Normal()))(torch.zeros(3, 5)).batch_shape
        torch.Size([3])
    """

    def __init__(self, conditional: nn.Module) -> None:
        super().__init__()
        self.conditional = conditional

    @abstractmethod
    def condition(self, batch: Batch) -> Tensor:
        """What q is conditioned on, (N, ...)."""

    def forward(self, batch: Batch | Tensor) -> Distribution:
        distribution: Distribution = self.conditional(self.condition(as_batch(batch)))
        return distribution

    def numbers(self, batch: Batch | Tensor) -> Tensor:
        raw: Tensor = self._first.network(self.condition(as_batch(batch)))
        return for_densities(raw)

    def outputs(self, size: int) -> int:
        chain = self.conditional
        return self._first.family.outputs(chain.sizes[0] if isinstance(chain, Chain) else size)

    def given(self, numbers: Tensor) -> Distribution:
        q: Distribution = self._first.family(numbers, 1)
        chain = self.conditional
        if not isinstance(chain, Chain):
            return q
        return distributions.Chain(q, chain.links[1:], chain.sizes, chain.reverse, chain.noises)

    def renewed(self, n: int, outputs: int) -> "PerDatum":
        chain = self.conditional
        new: nn.Module = free(n, outputs, self._first.family)
        if isinstance(chain, Chain):
            new = Chain([new, *chain.links[1:]], chain.sizes, chain.reverse)
        return PerDatum(new)

    @property
    def _first(self) -> Conditional:
        """The network and the family that a datum's own numbers go through."""
        chain: Any = self.conditional
        # The later links of one that is informed ask for x beside these numbers.
        whole = isinstance(chain, Chain) and not isinstance(chain, Informed)
        first = chain.links[0] if whole else chain
        if not isinstance(first, Conditional):
            raise _refusal(first)
        return first


def _refusal(found: nn.Module) -> UsageError:
    return UsageError(
        "a posterior whose numbers can be refined for each datum is one network and a family, as "
        f"aevb.amortized makes it, found {type(found).__name__}: leave it as it is"
    )


class Amortized(OfNumbers):
    """One network for all data: the condition is x itself.

    Source: Kingma & Welling (2013), section 2.2, the recognition model.
    Example:
        >>> Amortized(Conditional(nn.Linear(5, 4), Normal()))(torch.zeros(3, 5)).event_shape
        torch.Size([2])
    """

    def condition(self, batch: Batch) -> Tensor:
        return batch.x


class PerDatum(OfNumbers):
    """Free parameters for each datum: the condition is the row's number.

    Shapes: as any posterior. Errors: UsageError for a batch without row numbers.
    Source: stochastic variational inference without amortization (Hoffman et al. 2013).
    Example:
        >>> q = per_datum(10, 2)
        >>> q(Batch(torch.zeros(3, 5), torch.tensor([0, 4, 9]))).event_shape
        torch.Size([2])
    """

    per_row = True

    def condition(self, batch: Batch) -> Tensor:
        if batch.rows is None:
            raise UsageError(
                "a posterior with free parameters for each datum needs the number of each row: "
                "pass Batch(x, rows) instead of x alone"
            )
        return batch.rows

    @property
    def n(self) -> int:
        """How many data have numbers."""
        table: Any = self._first.network
        return int(table.n)

    def put(self, numbers: Tensor) -> None:
        """Give the first M rows other numbers, (M, outputs)."""
        table: Any = self._first.network.table
        with torch.no_grad():
            table[: len(numbers)] = numbers.to(table) / FreeParameters.GAIN


class Global(OfNumbers):
    """One distribution for all data: the condition is always the same row of a table.

    It is the posterior of a parameter that all data share, and what an amortized one collapses to.
    Shapes: as any posterior.
    Example:
        >>> everywhere(2)(torch.zeros(3, 5)).batch_shape
        torch.Size([3])
    """

    def condition(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch.x), dtype=torch.int64, device=batch.x.device)


class FromPrior(Posterior):
    """The prior, whatever x is: where importance sampling and annealing may begin.

    Shapes: as any posterior. `prior` is the model's, whose parameters are shared.
    Example:
        >>> from aevb.conditional import standard_normal
        >>> FromPrior(standard_normal(2))(torch.zeros(3, 5)).batch_shape
        torch.Size([3])
    """

    prior: nn.Module

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        borrow(self, prior=prior)

    def forward(self, batch: Batch | Tensor) -> Distribution:
        law: Distribution = self.prior()
        distribution: Distribution = law.expand(torch.Size((len(as_batch(batch).x),)))
        return distribution


class ExactPosterior(Posterior):
    """p(z given x) by Bayes' rule, at the model's present numbers.

        q(z given x) = p(x, z) / p(x)

    The model's codes can be listed, so that p(x) is a sum, or it has a closed form of its own, as a
    linear-Gaussian model has. The bound is log p(x) itself. Over codes it has no parameters, and
    gives the model's no gradient: there the bound is stationary in q, so that the gradient of
    log p(x, z) at draws, or over all codes, is that of log p(x) (Fisher's identity).
    Shapes: as any posterior; over listed codes each datum takes a pass over all of them. Errors:
    UsageError for a model of neither kind.
    Source: Dempster, Laird & Rubin (1977), the E step.
    Example:
        >>> from aevb import bernoulli, families
        >>> from aevb.conditional import Unconditional
        >>> model = Model(Unconditional(families.Bernoulli(), 3), bernoulli(nn.Linear(3, 5)))
        >>> ExactPosterior(model)(torch.ones(2, 5)).probs.shape
        torch.Size([2, 8])
    """

    exact = True
    model: Model

    def __init__(self, model: Model) -> None:
        super().__init__()
        borrow(self, model=model)

    def forward(self, batch: Batch | Tensor) -> Distribution:
        x = as_batch(batch).x
        with torch.no_grad():
            closed = self.model.posterior_given(x)
            if closed is not None:
                return closed
            table = enumerate_codes(self.model, x)
        if table is None:
            raise UsageError(
                "the exact posterior needs codes that can be listed, at most 65,536 of them, or a "
                "model that has a closed form of it: choose another posterior"
            )
        return table.posterior


class FreeParameters(nn.Module):
    """A table of `out_features` numbers for each of n data, zeros at first.

        output = 20 table[row]

    A row is visited once in an epoch, where a network's weights are in every step: the factor makes
    an optimizer that moves by its learning rate, as Adam does, move the output 20 times as far.
    Shapes: row numbers (N,) to (N, out_features).
    Example:
        >>> FreeParameters(10, 4)(torch.tensor([0, 9])).shape
        torch.Size([2, 4])
    """

    GAIN = 20.0

    def __init__(self, n: int, out_features: int) -> None:
        super().__init__()
        self.n = n
        self.out_features = out_features
        self.table = nn.Parameter(torch.zeros(n, out_features))

    def forward(self, index: Tensor) -> Tensor:
        return self.GAIN * self.table[index]


class Ladder(nn.Module):
    """A posterior over layers that goes down as the model does, and is told of x at every layer.

        d_1 = max(0, r_1(x)), d_l = max(0, r_l(d_{l-1}));   (m^_l, v^_l) = h_l(d_l)
        q(z_L given x) = N(m^_L, v^_L)
        q(z_l given z_{l+1}, x) = N((m^_l / v^_l + m_l / v_l) v, v),   1/v = 1/v^_l + 1/v_l

    with N(m_l, v_l) = p(z_l given z_{l+1}) of the model: where x says little, the posterior is the
    prior.
    Shapes: `rungs` the networks r_l and `heads` the h_l with 2 D_l outputs, both from the data up;
    `prior` is the model's chain, of diagonal Gaussians, whose parameters are shared. The condition
    is x; z is (..., D_1 + ... + D_L), the layer next to the data first.
    Errors: UsageError for a prior that is not such a chain, or another number of layers.
    Source: Soenderby et al. (2016), "Ladder variational autoencoders", equations 8 to 15.
    Example:
        >>> from aevb.conditional import Unconditional
        >>> links = [Unconditional(Normal(), 2), Conditional(nn.Linear(2, 6), Normal())]
        >>> prior = Chain(links, [2, 3], reverse=True)
        >>> rungs, heads = [nn.Linear(7, 4), nn.Linear(4, 4)], [nn.Linear(4, 6), nn.Linear(4, 4)]
        >>> Ladder(rungs, heads, prior)(torch.zeros(5, 7)).event_shape
        torch.Size([5])
    """

    prior: Any

    def __init__(
        self, rungs: Sequence[nn.Module], heads: Sequence[nn.Module], prior: nn.Module
    ) -> None:
        super().__init__()
        gaussian = isinstance(prior, Chain) and all(type(k.family) is Normal for k in prior.links)
        if not isinstance(prior, Chain) or not gaussian or not prior.reverse:
            raise UsageError(
                "a ladder needs a prior that is a reversed chain of diagonal Gaussians"
            )
        if not len(rungs) == len(heads) == len(prior.links):
            raise UsageError(
                f"a ladder needs a rung and a head for each of the {len(prior.links)} layers, "
                f"found {len(rungs)} and {len(heads)}"
            )
        self.rungs: Sequence[Any] = nn.ModuleList(rungs)  # type: ignore[assignment]
        self.heads: Sequence[Any] = nn.ModuleList(heads)  # type: ignore[assignment]
        borrow(self, prior=prior)

    def forward(self, x: Tensor) -> Distribution:
        said, d = [], x
        for rung, head in zip(self.rungs, self.heads, strict=True):
            d = F.relu(rung(d))
            said.append(for_densities(head(d)))
        *lower, top = said
        below = self.prior.links[1:]
        links = [_merged(link, raw) for link, raw in zip(below, reversed(lower), strict=True)]
        noises = self.prior.noises
        return distributions.Chain(Normal()(top, 1), links, self.prior.sizes, True, noises)


def _merged(link: nn.Module, raw: Tensor) -> Callable[[Tensor], Distribution]:
    """The law of a layer given the one above: the product of what x and what the model say."""

    def q(above: Tensor) -> Distribution:
        mean, log_variance = raw.chunk(2, dim=-1)
        p: Any = link(above)
        # The weights of the two are a sigmoid: a precision of its own would overflow.
        log_variance_of_p = 2 * p.base_dist.scale.log()
        share = torch.sigmoid(log_variance_of_p - log_variance)
        log_precision = torch.logaddexp(-log_variance, -log_variance_of_p)
        middle = torch.lerp(p.mean, mean.expand_as(share), share)
        normal = distributions.Normal(middle, torch.exp(-0.5 * log_precision), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    return q


def mean_field(network: nn.Module, condition_ndim: int = 1) -> Amortized:
    """The encoder of the paper, N(z; mean(x), diag(variance(x))); the network gives 2D numbers.

    Shapes: batch (N,), event (D,). Units: nats. Source: Kingma & Welling (2013), equation 9.
    Example:
        >>> mean_field(nn.Linear(5, 4))(torch.zeros(3, 5)).event_shape
        torch.Size([2])
    """
    return amortized(network, Normal(), condition_ndim)


def amortized(network: nn.Module, family: Family, condition_ndim: int = 1) -> Amortized:
    """An encoder for any family; the network gives `family.outputs(D)` numbers.

    Shapes: x (N, *X), with `condition_ndim` axes in X; batch (N,), event (D,).
    Errors: those of the family.
    Example:
        >>> from aevb import families
        >>> amortized(nn.Linear(5, 3), families.Bernoulli())(torch.zeros(4, 5)).event_shape
        torch.Size([3])
    """
    return Amortized(Conditional(network, family, condition_ndim))


def with_class(
    classifier: nn.Module, told: nn.Module, encoder: nn.Module, sizes: Sequence[int]
) -> Amortized:
    """q(y given x) q(z given x, y): a class, and a code by an encoder that is told of x and y.

    Shapes: `sizes` (K, D); the classifier gives K logits; `told` gives T numbers about x, which the
    encoder takes beside the K of y, (T + K), to 2D numbers.
    Source: Kingma et al. (2014), "Semi-supervised learning with deep generative models", section 3.
    Example:
        >>> with_class(nn.Linear(7, 3), nn.Linear(7, 4), nn.Linear(7, 4), [3, 2])(
        ...     torch.zeros(5, 7)
        ... ).event_shape
        torch.Size([5])
    """
    links = Conditional(classifier, OneHotCategorical()), Conditional(encoder, Normal())
    return Amortized(Informed(links, sizes, told))


def full_covariance(network: nn.Module) -> Amortized:
    """An encoder with a full covariance; the network gives D (D + 3) / 2 numbers.

    Shapes: batch (N,), event (D,). Units: nats. Errors: those of `families.MultivariateNormal`.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> full_covariance(nn.Linear(7, 5))(torch.zeros(3, 7)).covariance_matrix.shape
        torch.Size([3, 2, 2])
    """
    return amortized(network, MultivariateNormal())


def per_datum(n: int, size: int, family: Family | None = None) -> PerDatum:
    """Free parameters for each of n data over `size` latent dimensions (a diagonal Gaussian).

    Shapes: row numbers (N,) to batch (N,), event (`size`,); N(0, I) at first.
    Errors: as `PerDatum`.
    Example:
        >>> per_datum(10, 2)(Batch(torch.zeros(3, 5), torch.tensor([0, 4, 9]))).batch_shape
        torch.Size([3])
    """
    return PerDatum(_table(n, size, family))


def everywhere(size: int, family: Family | None = None) -> Global:
    """One distribution over `size` latent dimensions for all data (a diagonal Gaussian).

    Shapes: batch (N,), event (`size`,); N(0, I) at first.
    Example:
        >>> everywhere(2)(torch.ones(3, 5)).mean.shape
        torch.Size([3, 2])
    """
    return Global(_table(1, size, family))


def _table(n: int, size: int, family: Family | None) -> Conditional:
    family = Normal() if family is None else family
    return free(n, family.outputs(size), family)


def free(n: int, outputs: int, family: Family) -> Conditional:
    """A family at numbers of its own for each of n rows, whose number is the condition.

    Shapes: row numbers (N,) to a law with batch (N,), from `outputs` numbers of each.
    Example:
        >>> free(10, 4, Normal())(torch.tensor([0, 9])).event_shape
        torch.Size([2])
    """
    return Conditional(FreeParameters(n, outputs), family, condition_ndim=0)
