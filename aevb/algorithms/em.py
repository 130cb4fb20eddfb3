"""Expectation maximization (Dempster, Laird & Rubin 1977), where both steps are exact.

    E: q(z) = p(z given x; theta)
    M: theta = argmax Q,  Q = mean_n E_q[log p(x_n, z)]

    log p(x; theta_new) - log p(x; theta) >= Q(theta_new) - Q(theta) >= 0

With the exact posterior the bound is log p(x) itself.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aevb.algorithms.learner import State
from aevb.algorithms.monotone import Expectation, Monotone
from aevb.distributions import kl
from aevb.errors import TrainingError, UsageError
from aevb.gaussian_mixture import GaussianMixture
from aevb.linear_gaussian import LinearGaussian, em_step
from aevb.posterior import ExactPosterior, Posterior

REG = 1e-6
"""Added to the variances of a mixture, as scikit-learn's `reg_covar`."""


@dataclass(frozen=True)
class Responsibilities(Expectation):
    """Of each datum also the probabilities of the components, (N, K)."""

    shares: Tensor


class Moments(NamedTuple):
    """What a mixture needs of the data: counts N_k (K,), means (K, X), scatter as its covariances.

    A component that holds no more of the data than rounding does has no moments: `live` (K,).
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor
    live: Tensor


@dataclass
class EM(Monotone[Expectation]):
    """The learner: exact EM for a mixture of Gaussians or a linear-Gaussian model.

        mixture          N_k = sum_n r_nk,  pi_k = N_k / N,  mu_k = sum_n r_nk x_n / N_k,
                         Sigma_k = sum_n r_nk (x_n - mu_k)(x_n - mu_k)^T / N_k + reg I
        linear-Gaussian  see `em_step`;  b is the mean of the data

    A batch is all N = `rows` data. The log-likelihood never falls, which is checked at every step:
    what `reg` adds to a mixture's variances, against collapse onto a datum, may cost of Q what is
    allowed for. A component that has lost its data, N_k below rounding, keeps its place and gets
    weight zero.
    Shapes: a batch of N data; no noise. Units: nats per datum.
    Errors: UsageError for another model, or a minibatch; TrainingError for a component without
    spread in some direction where `reg` is 0, or a log-likelihood that falls.
    Source: Bishop (2006), "Pattern recognition and machine learning", sections 9.2 and 12.2;
    Rubin & Thayer (1982), "EM algorithms for ML factor analysis".
    Example:
        >>> from aevb.gaussian_mixture import gaussian_mixture
        >>> model = gaussian_mixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0])
        >>> learner = EM(model, rows=4)
        >>> state = learner.init()
        >>> for _ in range(50):
        ...     learner.step(state, torch.tensor([[-1.0], [-1.2], [5.0], [5.2]]))
        >>> model.means.flatten().detach()
        tensor([-1.1000,  5.1000])
    """

    reg: float = REG

    def __post_init__(self) -> None:
        if not isinstance(self.model, GaussianMixture | LinearGaussian):
            raise UsageError(
                "exact EM is for a mixture of Gaussians or a linear-Gaussian model, found "
                f"{type(self.model).__name__}: choose generalized EM, or another algorithm"
            )
        if not self.reg >= 0:
            raise UsageError(f"reg must not be negative, found {self.reg}")
        super().__post_init__()

    def _posterior(self) -> Posterior:
        return ExactPosterior(self.model)

    def _expect(self, state: State, x: Tensor) -> Expectation:
        if isinstance(self.model, GaussianMixture):
            return responsibilities(self.model, x)
        assert isinstance(self.model, LinearGaussian)
        divergence = kl(self.posterior(x), self.model.prior())
        assert divergence is not None
        return Expectation(self.model.log_prob(x), divergence)

    def _maximize(self, state: State, x: Tensor, found: Expectation) -> float:
        if isinstance(self.model, GaussianMixture):
            assert isinstance(found, Responsibilities)
            return maximize_mixture(self.model, x, found.shares, self.reg)
        assert isinstance(self.model, LinearGaussian)
        mean = x.double().mean(0)
        rest = x.double() - mean
        noise = self.model.variance if self.model.noise_shape else self.model.variance[0]
        weight, variance, _ = em_step(
            self.model.weight.detach().double(), noise.detach().double(), rest.mT @ rest / len(x)
        )
        self.model.put(weight, mean, variance)
        return 0.0

    def _condition(self, x: Tensor) -> float:
        with torch.no_grad():
            if isinstance(self.model, LinearGaussian):
                matrices, variances = self.model.posterior_precision(), self.model.variance
            else:
                assert isinstance(self.model, GaussianMixture)
                x = self.model.standardize(x)
                _, _, matrices = self.model.numbers()
                full = _full(self.model)
                variances = matrices.diagonal(dim1=-2, dim2=-1) if full else matrices
                matrices = matrices if full else torch.eye(1).to(x)
            beside_the_spread = (x.abs().amax(0) / variances.sqrt()).max()
            return float(beside_the_spread) + _magnified(matrices)


def _magnified(matrices: Tensor) -> float:
    """By how much solving with the worst of these matrices magnifies rounding.

    It is that of the correlations: scales of rows and columns do not matter to Cholesky's factors
    (van der Sluis 1969).
    """
    deviations = matrices.diagonal(dim1=-2, dim2=-1).sqrt()
    correlations = matrices / deviations.unsqueeze(-1) / deviations.unsqueeze(-2)
    least = torch.linalg.eigvalsh(correlations.double()).min()
    return 1 / max(float(least), torch.finfo(matrices.dtype).eps)


def responsibilities(model: GaussianMixture, x: Tensor) -> Responsibilities:
    """The E step of a mixture: p(z_k = 1 given x_n), for x (N, X)."""
    table = model.log_joint_by_component(x)
    evidence = torch.logsumexp(table, -1)
    log_shares = table - evidence.unsqueeze(-1)
    shares = log_shares.exp()
    log_ratio = log_shares - torch.log_softmax(model.prior.raw, -1)  # type: ignore[arg-type]
    return Responsibilities(evidence, (shares * log_ratio).sum(-1), shares)


def moments(model: GaussianMixture, x: Tensor, shares: Tensor) -> Moments:
    """Counts, means and scatter of the components, in the units of the model's numbers.

    Shapes: x (N, X), shares (N, K); the scatter is (K, X, X), (K, X) or (K, 1), as the model's
    covariances are; all in float64. Source: Bishop (2006), equations 9.24 to 9.27.
    """
    u, shares = model.standardize(x).double(), shares.double()
    counts = shares.sum(0)
    live = counts > len(x) * torch.finfo(x.dtype).eps
    safe = torch.where(live, counts, 1.0)
    means = (shares.mT @ u) / safe.unsqueeze(-1)
    scatter = []
    for share, mean in zip((shares / safe).mT, means, strict=True):
        rest = u - mean
        if model.covariance == "full":
            scatter.append((share.unsqueeze(-1) * rest).mT @ rest)
        else:
            by_element = share @ rest.square()
            spherical = model.covariance == "spherical"
            scatter.append(by_element.mean(0, keepdim=True) if spherical else by_element)
    return Moments(counts, means, torch.stack(scatter), live)


def maximize_mixture(model: GaussianMixture, x: Tensor, shares: Tensor, reg: float) -> float:
    """The M step of a mixture, in place; by how many nats per datum `reg` may lower log p(x).

    Q has its largest value at the moments themselves; with `reg` added to them it may be below
    that of the numbers before, and log p(x) may fall by as much.
    Errors: TrainingError for a component without spread in some direction.
    """
    seen = moments(model, x, shares)
    before = tuple(t.detach().double() for t in model.numbers())
    wider = seen.scatter + reg * (torch.eye(x.shape[1]).to(seen.scatter) if _full(model) else 1.0)
    _require_spread(model, model.standardize(x).double(), wider, seen.live)
    lost = ~seen.live
    means, wider = seen.means.clone(), wider.clone()
    means[lost], wider[lost] = before[1][lost], before[2][lost]
    model.put(torch.where(lost, 0.0, seen.counts / len(x)), means, wider)
    after = tuple(t.detach().double() for t in model.numbers())
    return max(0.0, _expected(seen, before) - _expected(seen, after)) / len(x)


def _full(model: GaussianMixture) -> bool:
    return model.covariance == "full"


def _require_spread(model: GaussianMixture, u: Tensor, covariances: Tensor, live: Tensor) -> None:
    if _full(model):
        whole = torch.linalg.cholesky_ex(covariances).info == 0
        variances = covariances.diagonal(dim1=-2, dim2=-1)
    else:
        whole, variances = torch.ones_like(live), covariances
    # The variance of rows that are all the same is not always zero, but that of their rounding.
    rounding = 8 * torch.finfo(u.dtype).eps * u.abs().amax(0)
    whole = whole & (variances > rounding.square()).all(-1)
    flat = torch.nonzero(live & ~whole)
    if len(flat):
        raise TrainingError(
            f"component {int(flat[0]) + 1} of the mixture has no spread in some direction, where "
            "its density has no bound: regularize more, or choose fewer components or a simpler "
            "covariance"
        )


def _expected(seen: Moments, numbers: tuple[Tensor, ...]) -> float:
    """Q of these numbers, but for a constant: sum_k N_k (log pi_k - 1/2 (log det + trace)), nats.

    The trace is that of Sigma^-1 (S + (m - mu)(m - mu)^T).
    """
    weights, means, covariances = numbers
    apart = seen.means - means
    if covariances.ndim == 3:
        factor = torch.linalg.cholesky(covariances)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        spread = seen.scatter + apart.unsqueeze(-1) * apart.unsqueeze(-2)
        trace = torch.cholesky_solve(spread, factor).diagonal(dim1=-2, dim2=-1).sum(-1)
    else:
        variances = covariances.expand_as(means)
        log_det = variances.log().sum(-1)
        trace = ((seen.scatter + apart.square()) / variances).sum(-1)
    each = seen.counts * (weights.log() - 0.5 * (log_det + trace))
    return float(each[seen.live].sum())


def start_at_clusters(model: GaussianMixture, x: Tensor, seed: int, reg: float = REG) -> None:
    """Begin a mixture at the clusters that k-means finds, by one M step from its labels.

    They are those of scikit-learn's `GaussianMixture` with `random_state=seed`. A component for
    which there is no cluster, as where rows repeat, begins at weight zero.
    Shapes: x (N, X), more rows than components.
    Errors: UsageError for fewer rows than components.
    Source: Lloyd (1982), with the seeds of Arthur & Vassilvitskii (2007).
    Example:
        >>> model = GaussianMixture(2, 1)
        >>> start_at_clusters(model, torch.tensor([[0.0], [1.0], [10.0], [11.0]]), seed=0)
        >>> model.means.flatten().detach().sort().values.round(decimals=2).tolist()
        [0.5, 10.5]
    """
    from sklearn.cluster import KMeans  # late: it takes a second and 150 MB
    from sklearn.exceptions import ConvergenceWarning

    if len(x) < model.components:
        raise UsageError(
            f"{model.components} components need as many rows at least, found {len(x)}"
        )
    u = model.standardize(x).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters than asked for
        found = KMeans(model.components, n_init=1, random_state=seed).fit(u.numpy(force=True))
    labels = torch.as_tensor(found.labels_, dtype=torch.int64, device=x.device)
    k, width = model.components, model.width
    middle, spread = u.mean(0), u.var(0, unbiased=False) + max(reg, torch.finfo(u.dtype).tiny)
    everything = {
        "full": torch.diag(spread).expand(k, width, width),
        "diagonal": spread.expand(k, width),
        "spherical": spread.mean().expand(k, 1),
    }
    model.put(torch.full((k,), 1 / k), middle.expand(k, width), everything[model.covariance])
    maximize_mixture(model, x, torch.nn.functional.one_hot(labels, k).to(u), reg)
