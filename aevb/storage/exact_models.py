"""Models whose posterior is exact, from the settings of a run: mixtures and linear-Gaussian ones.

--algorithm em --components K           a mixture of K Gaussians by EM
--algorithm mean-field --components K   the same, Bayesian, by coordinate ascent
--algorithm aevb --components K         the same by gradients, summed over the components
--algorithm em                          factor analysis; with --covariance spherical PCA
--weight-prior normal                   em at the maximum a posteriori, its M step by gradients
"""

from dataclasses import replace
from typing import Any

import torch

from aevb.algorithms import AEVB, EM, GeneralizedEM, Learner, MeanField
from aevb.algorithms.em import REG, start_at_clusters
from aevb.data import Dataset
from aevb.errors import DataError, UsageError
from aevb.families import LIKELIHOOD_MIN_VARIANCE
from aevb.gaussian_mixture import GaussianMixture
from aevb.linear_gaussian import LinearGaussian
from aevb.model import Model
from aevb.objectives import enumeration
from aevb.posterior import ExactPosterior, Posterior
from aevb.randomness import Stream, generator
from aevb.settings import Settings
from aevb.storage.settings import refuse

COMPONENTS_BY = ("em", "mean-field", "aevb")


def settle_exact(settings: Settings) -> Settings:
    """What was left open of a model with an exact posterior.

    Errors: UsageError for an option that such a model has no use for.
    """
    components, covariance = settings.components, settings.covariance
    if components is not None and settings.algorithm not in COMPONENTS_BY:
        raise UsageError(
            f"--components is for --algorithm {', '.join(COMPONENTS_BY)}, found "
            f"{settings.algorithm}: leave it out"
        )
    if covariance == "full" and components is None:
        raise UsageError(
            "--covariance full says nothing to --algorithm em without --components: choose "
            "diagonal, which is factor analysis, or spherical, which is probabilistic PCA"
        )
    if settings.algorithm == "mean-field" and covariance not in (None, "full"):
        raise UsageError(
            f"--algorithm mean-field is for mixtures with --covariance full, found {covariance}: "
            "leave it out, or choose --algorithm em"
        )
    kind = covariance or ("diagonal" if components is None else "full")
    settled: dict[str, Any] = {
        "covariance": kind,
        "likelihood": "gaussian",
        "binarize": "none",
        "prior": "standard-normal" if components is None else "learned-categorical",
        "objective": "enumeration" if settings.algorithm == "aevb" else "log p(x)",
    }
    if settings.algorithm != "aevb":
        settled["precision"] = "float64"
    useless = ("posterior", "prior", "layers", "latent_classes", "objective", "gradient")
    estimates = ("baseline", "temperature", "samples", "free_bits")
    weights = ("beta", "warmup_steps")  # only at weight 1 may the slope of q be left out
    networks = ("network", "hidden", "activation", "classes", "weight_draws", "refine")
    # What is settled may be said too: the settings of a run are those of its like.
    told = (*useless, *estimates, *weights, *networks)
    said = [n for n in told if getattr(settings, n) != settled.get(n)]
    refuse(settings, said, "a model whose posterior is exact", but=("exact",))
    if settings.algorithm != "aevb":
        by_gradients = ("optimizer", "lr", "lr_schedule", "clip", "precision")
        whom = f"--algorithm {settings.algorithm} of an exact posterior"
        refuse(settings, by_gradients, whom, but=("float32", "float64"))
    if settings.likelihood not in ("auto", "gaussian") or settings.binarize not in (None, "none"):
        raise UsageError(
            "mixtures of Gaussians and linear-Gaussian models take real numbers as they are: leave "
            "--likelihood and --binarize out"
        )
    if settings.algorithm == "mean-field" and settings.weight_prior != "none":
        raise UsageError(
            "--weight-prior says nothing to --algorithm mean-field, whose numbers have a prior of "
            "their own: leave it out, or choose --algorithm em"
        )
    return replace(settings, **settled)


def build_exact(
    settings: Settings, data: Dataset, first: torch.Tensor
) -> tuple[Model, ExactPosterior]:
    """The model, begun at the clusters or the marginals of some rows (N, X), and its posterior.

    A mixture over a table is held in units of the columns' deviations.
    Errors: DataError for missing cells; UsageError for more latent dimensions than a linear model
    has a use for, or more components than rows.
    """
    if data.source.missing:
        raise DataError(
            f"{data.name} has {data.source.missing} missing cells, and this model needs all: fill "
            "them, or choose another algorithm"
        )
    word = int(generator(settings.seed, Stream.INITIALIZATION).integers(2**31))
    width = first.shape[1]
    dtype = torch.float64 if settings.precision == "float64" else torch.float32
    first = first.to(dtype)
    model: Model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word)
        if settings.components is None:
            model = _linear(settings, width, first)
        else:
            floor = LIKELIHOOD_MIN_VARIANCE if settings.algorithm == "aevb" else 0.0
            kind = settings.covariance or "full"
            table = not data.in_unit_interval
            mixture = GaussianMixture(settings.components, width, kind, floor, table).to(dtype)
            if table:
                mixture.likelihood.family.fit(first)  # type: ignore[operator,union-attr]
            start_at_clusters(mixture, first, word, max(REG, floor))
            model = mixture
    return model, ExactPosterior(model)


def _linear(settings: Settings, width: int, first: torch.Tensor) -> LinearGaussian:
    if not settings.latent_dim < width:
        raise UsageError(
            f"a linear-Gaussian model of {width} columns has fewer latent dimensions than that, "
            f"found {settings.latent_dim}: choose a smaller --latent-dim, or a mixture "
            "(--components)"
        )
    shape = () if settings.covariance == "spherical" else (width,)
    model = LinearGaussian(settings.latent_dim, width, shape).to(first)
    variance = first.var(0, unbiased=False)
    still = torch.nonzero(variance == 0)
    if shape and len(still):
        raise DataError(
            f"column {int(still[0]) + 1} does not vary, and factor analysis gives each column a "
            "noise of its own: leave it out, or choose --covariance spherical"
        )
    weight = model.weight.detach() * variance.sqrt().unsqueeze(-1)
    model.put(weight, first.mean(0), variance if shape else variance.mean())
    return model


def exact_learner(
    settings: Settings,
    model: Model,
    posterior: Posterior,
    rows: int,
    options: dict[str, object],
) -> Learner:
    """The learner of such a model; `options` are those of learners by gradients."""
    if settings.algorithm == "aevb":
        return AEVB(model, posterior, enumeration, **options)  # type: ignore[arg-type]
    if settings.algorithm == "mean-field":
        return MeanField(model, rows)
    if settings.weight_prior == "normal":
        return GeneralizedEM(model, rows, weight_prior=True)
    return EM(model, rows)
