"""The other oracle: the mixture of Gaussians, whose codes are few enough for exact sums.

p(z) = Cat(z; pi),  z one-hot of K components;   p(x given z_k = 1) = N(x; mu_k, Sigma_k)
p(x) = sum_k pi_k N(x; mu_k, Sigma_k)                                     the evidence
p(z_k = 1 given x) = pi_k N(x; mu_k, Sigma_k) / p(x)                      the responsibilities
"""

from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from aevb.conditional import Conditional, Unconditional
from aevb.errors import DataError, UsageError, at_least
from aevb.families import Family, MultivariateNormal, Normal, OneHotCategorical, Standardized
from aevb.model import Model

COVARIANCES = ("full", "diagonal", "spherical")


class Components(nn.Module):
    """The free numbers of K Gaussians, of which a one-hot code picks one's.

        output = sum_k z_k (mu_k, log-variances of k, what is below the diagonal of its factor)

    Middles start at random, for components that start alike would stay alike.
    Shapes: z (..., K) to what a Gaussian family takes: (..., 2X), and (..., X (X + 3) / 2) where
    `covariance` is full.
    Errors: UsageError for a covariance of another name, no component or no element.
    Example:
        >>> Components(3, 2, "diagonal")(torch.eye(3)).shape
        torch.Size([3, 4])
    """

    def __init__(self, components: int, width: int, covariance: str) -> None:
        super().__init__()
        if covariance not in COVARIANCES:
            raise UsageError(f"covariance must be {', '.join(COVARIANCES)}, found {covariance!r}")
        at_least(1, components, "the number of components")
        at_least(1, width, "the number of elements")
        self.components = components
        self.width = width
        self.covariance = covariance
        self.means = nn.Parameter(torch.zeros(components, width).normal_())
        size = 1 if covariance == "spherical" else width
        self.log_variance = nn.Parameter(torch.zeros(components, size))
        if covariance == "full":
            self.below = nn.Parameter(torch.zeros(components, width * (width - 1) // 2))

    def forward(self, z: Tensor) -> Tensor:
        blocks = [self.means, self.log_variance.expand_as(self.means)]
        return z @ torch.cat([*blocks, self.below] if self.covariance == "full" else blocks, dim=-1)


class GaussianMixture(Model):
    """A mixture of K Gaussians: a model like any other, with the truth at hand.

        p(x) = sum_k pi_k N(x; mu_k, Sigma_k)

    Its numbers are unconstrained: logits of pi, and the Cholesky factors of Sigma with the logs of
    their diagonals, so that learners by gradient train it too. `min_variance` is a floor under
    them, without which the likelihood has no largest value. With `standardized` all this is in
    units of the columns' deviations, which the family takes from data, and densities stay those of
    the data; spherical then means alike in those units.
    Shapes: `weights` pi (K,), `means` (K, X), `covariances` (K, X, X).
    Units: nats. Errors: UsageError for a covariance that is not full, diagonal or spherical;
    DataError for rows of another length.
    Source: Bishop (2006), "Pattern recognition and machine learning", section 9.2.
    Example:
        >>> model = GaussianMixture(3, 2)
        >>> model.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        components: int,
        width: int,
        covariance: str = "full",
        min_variance: float = 0.0,
        standardized: bool = False,
    ) -> None:
        full = covariance == "full"
        family: Family = MultivariateNormal(min_variance) if full else Normal(min_variance)
        family = Standardized(family, width) if standardized else family
        super().__init__(
            Unconditional(OneHotCategorical(), components, learned=True),
            Conditional(Components(components, width, covariance), family),
        )
        self.components = components
        self.width = width
        self.covariance = covariance
        self.min_variance = min_variance
        self.standardized = standardized

    @property
    def weights(self) -> Tensor:
        """pi, (K,): how probable each component is."""
        law: Any = self.prior()
        probabilities: Tensor = law.probs
        return probabilities

    @property
    def means(self) -> Tensor:
        """mu, (K, X), in the units of the data."""
        return self._gaussians.mean  # type: ignore[no-any-return]

    @property
    def covariances(self) -> Tensor:
        """Sigma, (K, X, X), in the units of the data, whatever form it is held to."""
        law = self._gaussians
        full = self.covariance == "full"
        found: Tensor = law.covariance_matrix if full else torch.diag_embed(law.variance)
        return found

    @property
    def _gaussians(self) -> Any:
        """The components as one batch of K."""
        return self.likelihood(torch.eye(self.components).to(self._numbers.means))

    @property
    def _numbers(self) -> Any:
        return self.likelihood.network

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = logsumexp_k (log pi_k + log N(x; mu_k, Sigma_k)), (..., X) to (...) nats."""
        return torch.logsumexp(self.log_joint_by_component(x), -1)

    def log_joint_by_component(self, x: Tensor) -> Tensor:
        """log p(x, z_k = 1) of each component, (..., X) to (..., K) nats."""
        if x.shape[-1:] != (self.width,):
            raise DataError(
                f"the model is over rows of {self.width} numbers, found {tuple(x.shape)}"
            )
        log_likelihood: Tensor = self._gaussians.log_prob(x.unsqueeze(-2))
        return log_likelihood + torch.log_softmax(self._logits, -1)

    @property
    def _logits(self) -> Tensor:
        return self.prior.raw  # type: ignore[return-value]

    def standardize(self, x: Tensor) -> Tensor:
        """x in the units that the numbers are held in, (..., X): its own, or the columns'."""
        family = self.likelihood.family
        return family.standardize(x) if self.standardized else x  # type: ignore[operator,union-attr]

    def numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and covariances as `put` takes them."""
        family: Any = self.likelihood.family
        raw = self._numbers(torch.eye(self.components).to(self._numbers.means))
        law = (family.family if self.standardized else family)(raw, 1)
        if self.covariance == "full":
            return self.weights, law.mean, law.covariance_matrix
        size = 1 if self.covariance == "spherical" else self.width
        return self.weights, law.mean, law.variance[:, :size]

    def put(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Set the numbers, in the units of `standardize`.

        Shapes: weights (K,), means (K, X), covariances (K, X, X) where they are full, else the
        variances (K, X), or (K, 1) where they are spherical. A weight of zero is kept as the
        smallest one there is, a variance below the floor at the floor.
        """
        numbers = self._numbers
        least = torch.finfo(numbers.means.dtype).tiny
        with torch.no_grad():
            self._logits.copy_(weights.to(numbers.means).clamp_min(least).log())
            numbers.means.copy_(means)
            if self.covariance != "full":
                numbers.log_variance.copy_((covariances - self.min_variance).clamp_min(least).log())
                return
            family = MultivariateNormal(self.min_variance)
            raw = family.encode(numbers.means, torch.linalg.cholesky(covariances))
            numbers.log_variance.copy_(raw[:, self.width : 2 * self.width])
            numbers.below.copy_(raw[:, 2 * self.width :])


def gaussian_mixture(
    weights: ArrayLike, means: ArrayLike, covariances: ArrayLike
) -> GaussianMixture:
    """The mixture of Gaussians of given numbers, in the dtype of the means.

    Shapes: weights pi (K,), means (K, X), covariances (K, X, X) where they are full, (K, X) the
    variances where they are diagonal, (K,) or (K, 1) where they are spherical.
    Errors: UsageError for shapes that do not fit, weights that are not positive or do not add up to
    1, or covariances that are not symmetric and positive definite.
    Source: Bishop (2006), equation 9.7.
    Example:
        >>> model = gaussian_mixture([0.5, 0.5], [[0.0], [0.0]], [[1.0], [1.0]])
        >>> round(float(model.log_prob(torch.zeros(1)).detach().exp()), 4)
        0.3989
    """
    mu = torch.as_tensor(means)
    mu = mu if mu.is_floating_point() else mu.to(torch.get_default_dtype())
    pi, sigma = (torch.as_tensor(given, dtype=mu.dtype).to(mu) for given in (weights, covariances))
    kinds = {(*mu.shape, *mu.shape[1:]): "full", tuple(mu.shape): "diagonal"}
    kinds |= {(len(mu),): "spherical", (len(mu), 1): "spherical"}
    kind = kinds.get(tuple(sigma.shape))
    if mu.ndim != 2 or pi.shape != mu.shape[:1] or kind is None:
        raise UsageError(
            "a mixture of Gaussians needs weights (K,), means (K, X) and covariances (K, X, X), "
            f"(K, X) or (K,), found {tuple(pi.shape)}, {tuple(mu.shape)} and {tuple(sigma.shape)}"
        )
    if not bool((pi > 0).all()) or not bool((pi.sum() - 1).abs() < 1e-4):
        raise UsageError(f"weights must be positive and add up to 1, found {pi.tolist()}")
    if kind == "full" and bool((sigma - sigma.mT).abs().max() > 1e-4 * sigma.abs().max()):
        raise UsageError("every covariance must be symmetric, and one is not")
    pivots = torch.linalg.cholesky_ex(sigma).info == 0 if kind == "full" else sigma > 0
    if not bool(pivots.all()):
        raise UsageError("every covariance must be positive definite, and one is not")
    with torch.random.fork_rng(devices=[]):  # middles that are replaced at once
        model = GaussianMixture(len(mu), mu.shape[1], kind).to(mu)
    model.put(pi, mu, sigma.reshape(len(mu), -1) if kind == "spherical" else sigma)
    return model
