"""Coordinate-ascent variational Bayes for the Bayesian mixture of Gaussians (Bishop 2006, 10.2).

p(pi) = Dir(a0),  p(mu_k, Lambda_k) = N(mu_k; m0, (b0 Lambda_k)^-1) Wishart(Lambda_k; W0, v0)
    q = prod_n q(z_n) Dir(pi; a) prod_k N(mu_k; m_k, (b_k Lambda_k)^-1) Wishart(Lambda_k; W_k, v_k)

E: q(z_nk = 1) ~ exp rho_nk,  rho_nk = E[log pi_k] + E[log N(x_n; mu_k, Lambda_k^-1)]
M: the numbers of q from the counts, means and scatter under q(z)

bound = sum_n log sum_k exp rho_nk - KL(q(pi) || p(pi)) - sum_k KL(q(mu_k, Lambda_k) || p)
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from aevb.algorithms.em import moments, responsibilities
from aevb.algorithms.learner import State
from aevb.algorithms.monotone import Expectation, Monotone
from aevb.errors import DataError, UsageError
from aevb.gaussian_mixture import GaussianMixture
from aevb.posterior import ExactPosterior, Posterior


class NormalWishart(NamedTuple):
    """Numbers of Dirichlet and Normal-Wishart laws, of one component or of K.

        Dir(pi; a),   N(mu; m, (b Lambda)^-1) Wishart(Lambda; W, v)

    Shapes: `concentration` a (...), `precision` b (...), `means` m (..., X), `freedom` v (...), and
    `covariances` W^-1 / v (..., X, X), in whose terms E[Lambda] is their inverse.
    Source: Bishop (2006), equations 10.39 and 10.40.
    """

    concentration: Tensor
    precision: Tensor
    means: Tensor
    freedom: Tensor
    covariances: Tensor

    @classmethod
    def prior_for(cls, x: Tensor, components: int) -> Self:
        """A prior of the size of the data: a = 1 / K, b = 1, their mean, v = X, their covariance.

        It is that of scikit-learn's `BayesianGaussianMixture`, with W0^-1 the covariance of the
        rows (N, X) by N - 1. In float64.
        Errors: DataError where that covariance is singular.
        Example:
            >>> prior = NormalWishart.prior_for(torch.tensor([[0.0], [2.0]]), 4)
            >>> float(prior.concentration), prior.means.tolist(), prior.covariances.tolist()
            (0.25, [1.0], [[2.0]])
        """
        x = x.double()
        width = x.shape[1]
        number = torch.ones((), dtype=x.dtype, device=x.device)
        covariance = torch.cov(x.mT).reshape(width, width)
        if not bool(torch.linalg.cholesky_ex(covariance).info == 0):
            raise DataError(
                "the rows have a singular covariance, and the prior is of their size: leave out "
                "columns that do not vary or follow from others, or choose EM"
            )
        return cls(number / components, number, x.mean(0), number * width, covariance / width)

    @property
    def log_det_inverse_scale(self) -> Tensor:
        """log det W^-1."""
        width = self.means.shape[-1]
        factor = torch.linalg.cholesky(self.covariances)
        log_det: Tensor = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det + width * self.freedom.log()

    @property
    def expected_log_det(self) -> Tensor:
        """E[log det Lambda], Bishop's equation 10.65."""
        width = self.means.shape[-1]
        return _digamma(self.freedom, width) + width * math.log(2) - self.log_det_inverse_scale

    def squares(self, x: Tensor) -> Tensor:
        """(x - m)^T E[Lambda] (x - m) of each component, (N, X) to (N, K)."""
        factor = torch.linalg.cholesky(self.covariances)
        rest = (x.unsqueeze(-2) - self.means).movedim(0, -1)  # (K, X, N)
        white: Tensor = torch.linalg.solve_triangular(factor, rest, upper=False)
        return white.square().sum(-2).mT


def _digamma(freedom: Tensor, width: int) -> Tensor:
    """sum_i digamma((v + 1 - i) / 2), i = 1 ... X."""
    steps = torch.arange(width).to(freedom)
    total: Tensor = torch.digamma((freedom.unsqueeze(-1) - steps) / 2).sum(-1)
    return total


def divergence(q: NormalWishart, p: NormalWishart) -> Tensor:
    """KL(q(mu, Lambda) || p(mu, Lambda)) of each component of q from one law p, (K,) nats.

        Wishart:  v0/2 log(|W0| / |W|) + v/2 (tr(W0^-1 W) - X) + log G(v0/2) / G(v/2)
                  + (v - v0)/2 digamma_X(v/2),   G the multivariate gamma function
        normal:   1/2 (X (b0/b - 1 - log(b0/b)) + b0 v (m - m0)^T W (m - m0))

    Source: Bishop (2006), equations 10.74 and 10.77; Penny (2001), "KL-divergences of normal,
    gamma, Dirichlet and Wishart densities".
    """
    width = q.means.shape[-1]
    inverse = torch.linalg.inv(q.covariances)
    trace = p.freedom / q.freedom * (p.covariances * inverse).sum((-2, -1))
    apart = q.means - p.means
    square = (apart.unsqueeze(-2) @ inverse @ apart.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    ratio = p.precision / q.precision
    normal = 0.5 * (width * (ratio - 1 - ratio.log()) + p.precision * square)
    scales = p.freedom / 2 * (q.log_det_inverse_scale - p.log_det_inverse_scale)
    gammas = torch.mvlgamma(p.freedom / 2, width) - torch.mvlgamma(q.freedom / 2, width)
    moved = (q.freedom - p.freedom) / 2 * _digamma(q.freedom, width)
    whole: Tensor = normal + scales + q.freedom / 2 * (trace - width) + gammas + moved
    return whole


@dataclass(frozen=True)
class Coordinates(Expectation):
    """Of each datum also q(z), (N, K). `log_evidence` is its share of the bound, `kl` of the
    divergences."""

    shares: Tensor


@dataclass
class MeanField(Monotone[Coordinates]):
    """The learner: coordinate ascent on the bound of the Bayesian mixture of Gaussians.

    Each step updates q(z), then q(pi, mu, Lambda), both in closed form: the bound, on the log
    evidence of all data divided by N, never falls. `model` is a mixture with full covariances; it
    is kept at the means of q, E[pi], m_k and E[Lambda_k]^-1, for all that takes a model; what q
    itself predicts is `log_prob`. It begins at the responsibilities of the model as it is given,
    or at those of `begin`. `prior` is in the units of the model's numbers; without one it is
    `NormalWishart.prior_for` the data.
    Shapes: a batch of all N = `rows` data; no noise. Units: nats per datum.
    Errors: UsageError for another model, or a minibatch; TrainingError where the bound falls.
    Source: Bishop (2006), section 10.2, equations 10.46 to 10.81; Attias (1999).
    Example:
        >>> from aevb.algorithms.em import start_at_clusters
        >>> x = torch.tensor([[-1.0], [-1.2], [5.0], [5.2], [5.1]]).double()
        >>> model = GaussianMixture(3, 1).double()
        >>> start_at_clusters(model, x, seed=0)
        >>> learner = MeanField(model, 5, NormalWishart.prior_for(x, 3))
        >>> state = learner.init()
        >>> for _ in range(3):
        ...     learner.step(state, x)
        >>> learner.log_prob(state, x).shape
        torch.Size([5])
    """

    prior: NormalWishart | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, GaussianMixture) or self.model.covariance != "full":
            raise UsageError(
                "mean-field coordinate ascent is for a mixture of Gaussians with full covariances: "
                "make the model one, or choose another algorithm"
            )
        self._mixture = self.model
        super().__post_init__()

    def _posterior(self) -> Posterior:
        return ExactPosterior(self.model)

    def init(self) -> State:
        """The state; its numbers of q are filled in by `begin` or by the first step."""
        state = super().init()
        k, width = self._mixture.components, self._mixture.width
        shapes = {"means": (k, width), "covariances": (k, width, width)}
        for name in NormalWishart._fields:
            shape = shapes.get(name, (k,))
            state.extra[name] = torch.zeros(shape, dtype=torch.float64, device=state.totals.device)
        return state

    def _prior_for(self, u: Tensor) -> NormalWishart:
        if self.prior is not None:
            return self.prior
        return NormalWishart.prior_for(u, self._mixture.components)

    def numbers(self, state: State) -> NormalWishart:
        """q(pi, mu, Lambda) of all components."""
        return NormalWishart(**{name: state.extra[name] for name in NormalWishart._fields})

    def _expect(self, state: State, x: Tensor) -> Coordinates:
        if not bool(state.extra["freedom"].any()):
            self.begin(state, x, responsibilities(self._mixture, x).shares)
        q, u = self.numbers(state), self._mixture.standardize(x).double()
        width = u.shape[1]
        log_pi = torch.digamma(q.concentration) - torch.digamma(q.concentration.sum())
        log_normal = 0.5 * (
            q.expected_log_det - width * (math.log(2 * math.pi) + 1 / q.precision) - q.squares(u)
        )
        rho = log_pi + log_normal + self._log_jacobian(x)
        norm = torch.logsumexp(rho, -1)
        log_shares = rho - norm.unsqueeze(-1)
        shares = log_shares.exp()
        everything = self._global_divergence(q, self._prior_for(u)) / self.rows
        kl = (shares * (log_shares - log_pi)).sum(-1) + everything
        return Coordinates(norm - everything, kl, shares)

    def _log_jacobian(self, x: Tensor) -> Tensor:
        """log det of the change to the units of the data, (): 0 where they are the model's."""
        if not self._mixture.standardized:
            return torch.zeros((), dtype=torch.float64, device=x.device)
        deviation: Tensor = self._mixture.likelihood.family.deviation  # type: ignore[assignment,union-attr]
        return -deviation.double().log().sum()

    def _global_divergence(self, q: NormalWishart, p: NormalWishart) -> Tensor:
        """KL(q(pi) || p(pi)) + sum_k KL(q(mu_k, Lambda_k) || p), () nats."""
        prior = Dirichlet(p.concentration.expand_as(q.concentration))
        return kl_divergence(Dirichlet(q.concentration), prior) + divergence(q, p).sum()

    def _maximize(self, state: State, x: Tensor, found: Coordinates) -> float:
        self.begin(state, x, found.shares)
        return 0.0

    def begin(self, state: State, x: Tensor, shares: Tensor) -> None:
        """Set q(pi, mu, Lambda) to what follows from q(z) = shares (N, K), the model to its means.

        They are Bishop's equations 10.58 and 10.60 to 10.63.
        """
        seen = moments(self._mixture, x, shares)
        p = self._prior_for(self._mixture.standardize(x).double())
        counts = seen.counts
        precision = p.precision + counts
        freedom = p.freedom + counts
        sums = p.precision * p.means + counts.unsqueeze(-1) * seen.means
        means = sums / precision.unsqueeze(-1)
        apart = seen.means - p.means
        outer = apart.unsqueeze(-1) * apart.unsqueeze(-2)
        pull = p.precision * counts / precision
        inverse_scale = (
            p.freedom * p.covariances
            + counts[:, None, None] * seen.scatter
            + pull[:, None, None] * outer
        )
        covariances = inverse_scale / freedom[:, None, None]
        concentration = p.concentration + counts
        q = NormalWishart(concentration, precision, means, freedom, covariances)
        for name, part in q._asdict().items():
            state.extra[name].copy_(part)
        self._mixture.put(concentration / concentration.sum(), means, covariances)

    def log_prob(self, state: State, x: Tensor) -> Tensor:
        """log of what q predicts for new rows, (N, X) to (N,) nats: a mixture of Student's t.

            p(x) = sum_k a_k / sum a  St(x; m_k, (1 + b_k) v_k / (b_k c_k) C_k, c_k)
            c_k = v_k + 1 - X degrees of freedom,  C_k = W_k^-1 / v_k

        Source: Bishop (2006), equations 10.81 and 10.82.
        """
        q, u = self.numbers(state), self._mixture.standardize(x).double()
        width = u.shape[1]
        freedom = q.freedom + 1 - width
        wider = (1 + q.precision) * q.freedom / (q.precision * freedom)
        log_det = q.log_det_inverse_scale - width * q.freedom.log() + width * wider.log()
        squares = q.squares(u) / wider
        log_t = (
            torch.lgamma((freedom + width) / 2)
            - torch.lgamma(freedom / 2)
            - 0.5 * (width * torch.log(freedom * math.pi) + log_det)
            - (freedom + width) / 2 * torch.log1p(squares / freedom)
        )
        log_weights = q.concentration.log() - q.concentration.sum().log()
        return torch.logsumexp(log_weights + log_t, -1) + self._log_jacobian(x)
