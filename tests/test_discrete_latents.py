"""Discrete codes: their laws against sums over all of them, and every command on such a run."""

import json
from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import call
from scipy.special import logsumexp, softmax
from torch.distributions import OneHotCategorical

import aevb
from aevb import distributions as zoo
from aevb import families
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.data import Rows
from aevb.distributions import center, kl, on_reals, route
from aevb.distributions.listed import Listed, listed
from aevb.errors import UsageError
from aevb.evaluation import evidence, exact
from aevb.imputation import impute
from aevb.networks import Leading
from aevb.posterior import amortized
from aevb.settings import check_settings
from aevb.storage import RunFolder, has_closed_divergence, settle_latents
from aevb.storage.latents import check_latents, code_sizes, prior_for

DOUBLE = torch.float64
D, K = 2, 3


def classes(seed, lead=()):
    logits = np.random.default_rng(seed).normal(size=(*lead, D, K))
    return zoo.OneHotCategoricals(torch.from_numpy(logits)), logits


def test_the_chance_of_classes_side_by_side_is_the_product_of_each():
    law, logits = classes(0, (5,))
    parts = [OneHotCategorical(logits=torch.from_numpy(logits[:, d])) for d in range(D)]
    for z in listed(classes(0)[0]):
        expected = sum(part.log_prob(z[K * d : K * d + K]) for d, part in enumerate(parts))
        assert torch.allclose(law.log_prob(z), expected, atol=1e-12)
    assert np.allclose(law.mean, softmax(logits, -1).reshape(5, -1), atol=1e-12)
    assert torch.allclose(law.variance, torch.cat([part.variance for part in parts], -1))
    assert (law.batch_shape, law.event_shape) == ((5,), (D * K,))
    assert law.expand((7, 5)).log_prob(z.expand(7, 5, -1)).shape == (7, 5)


def test_classes_are_drawn_as_often_as_they_are_probable():
    """By uniform numbers on a grid: a class has the share of the numbers that its chance is."""
    law, logits = classes(1)
    middles = (torch.arange(1000, dtype=DOUBLE) + 0.5) / 1000
    way = route(law)
    assert way.noise.shape == (D,)
    assert not way.noise.differentiable
    z = way.transform(middles.unsqueeze(-1).expand(-1, D))
    assert bool(law.support.check(z).all())
    assert np.allclose(z.mean(0), softmax(logits, -1).reshape(-1), atol=1e-3)
    wrong = z.clone()
    wrong[0, 0] = 1 - wrong[0, 0]
    assert not law.support.check(wrong)[0]


def bits(seed, lead=()):
    logits = np.random.default_rng(seed).normal(size=(*lead, 4))
    return families.Bernoulli()(torch.from_numpy(logits), len(lead))


@pytest.mark.parametrize("make", [bits, lambda seed, lead=(): classes(seed, lead)[0]])
def test_divergences_are_sums_over_all_codes(make):
    q, p = make(2, (5,)), make(3)
    z = listed(p).to(DOUBLE).unsqueeze(1)
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    assert torch.allclose(torch.logsumexp(log_q, 0), torch.zeros(5, dtype=DOUBLE), atol=1e-12)
    expected = (log_q.exp() * (log_q - log_p)).sum(0)
    assert torch.allclose(kl(q, p), expected, atol=1e-12)
    assert torch.allclose(kl(q, q), torch.zeros(5, dtype=DOUBLE), atol=1e-12)


def test_classes_of_other_numbers_have_no_divergence():
    other = zoo.OneHotCategoricals(torch.zeros(K, D))
    assert kl(classes(0)[0], other) is None


def chain(family, sizes, seed=0, below_it=None):
    """A prior of two layers, of one kind if the lower one has none of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        top, below = sizes
        links = [
            Unconditional(family, top, learned=True),
            Conditional(aevb.MLP(top, [4], below), below_it or family),
        ]
        return Chain(links, sizes, reverse=True).to(DOUBLE)


CHAINS = {
    "bernoulli": (families.Bernoulli(), [2, 3], 32),
    "categorical": (families.OneHotCategoricals(3), [3, 6], 27),
}


@pytest.mark.parametrize("name", [*CHAINS, "coins below a class"])
def test_all_codes_of_two_layers_are_listed_once(name):
    if name in CHAINS:
        family, sizes, count = CHAINS[name]
        prior = chain(family, sizes)
    else:
        coins = families.Bernoulli()
        prior, count = chain(families.OneHotCategoricals(3), [3, 2], below_it=coins), 12
    prior = prior.requires_grad_(False)()
    codes = listed(prior)
    assert len(codes) == len({tuple(z) for z in codes.tolist()}) == count
    assert abs(float(torch.logsumexp(prior.log_prob(codes), 0))) < 1e-12
    assert not prior.has_rsample
    assert not on_reals(prior)
    assert ((center(prior) >= 0) & (center(prior) <= 1)).all()


def test_the_moments_and_the_entropy_of_a_list_are_its_sums():
    rng = np.random.default_rng(0)
    codes, logits = rng.normal(size=(5, 3)), rng.normal(size=(2, 5))
    law, probs = Listed(torch.from_numpy(codes), torch.from_numpy(logits)), softmax(logits, -1)
    assert np.allclose(law.mean.numpy(), probs @ codes, rtol=1e-12)
    assert np.allclose(law.variance.numpy(), probs @ codes**2 - (probs @ codes) ** 2, rtol=1e-12)
    assert np.allclose(law.entropy().numpy(), scipy.stats.entropy(probs, axis=-1), rtol=1e-12)


def test_the_divergence_of_a_list_is_its_sum():
    probs, other = np.array([[0.5, 0.0, 0.5], [0.2, 0.3, 0.5]]), np.array([0.6, 0.1, 0.3])
    law = Listed(torch.eye(3, dtype=DOUBLE), torch.from_numpy(probs).log())
    found = kl(law, OneHotCategorical(probs=torch.from_numpy(other)))
    assert np.allclose(found.numpy(), scipy.stats.entropy(probs, other, axis=-1), rtol=1e-12)


def test_codes_that_are_too_many_are_not_listed():
    assert listed(families.Bernoulli()(torch.zeros(17), 0)) is None
    assert listed(zoo.OneHotCategoricals(torch.zeros(7, 10))) is None
    assert len(listed(zoo.OneHotCategoricals(torch.zeros(4, 10)))) == 10_000
    assert listed(chain(families.Normal(), [1, 1])()) is None
    assert listed(chain(families.Bernoulli(), [1, 20])()) is None


@pytest.mark.parametrize("name", CHAINS)
def test_the_evidence_of_two_layers_is_the_sum_over_both(name):
    family, (top, below), _ = CHAINS[name]
    prior = chain(family, [top, below])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        decoder = Leading(aevb.MLP(below, [4], 5), below)
        model = aevb.Model(prior, aevb.bernoulli(decoder)).to(DOUBLE)
        up = [
            Conditional(aevb.MLP(5, [4], below), family),
            Conditional(aevb.MLP(below, [4], top), family),
        ]
        posterior = aevb.posterior.Amortized(Chain(up, [below, top])).to(DOUBLE)
    x = (np.random.default_rng(0).random((6, 5)) < 0.5).astype(np.uint8)
    z1, z2 = (listed(family(torch.zeros(size, dtype=DOUBLE), 0)) for size in (below, top))
    both = list(product(z1, z2))
    data, likelihood = torch.from_numpy(x).double(), model.likelihood.family
    with torch.no_grad():
        table = [
            prior.links[0]().log_prob(b)
            + prior.links[1](b[None]).log_prob(a)
            + likelihood(decoder.network(a[None]), 1).log_prob(data)
            for a, b in both
        ]
    truth = logsumexp(torch.stack(table).numpy(), axis=0)
    rows = Rows(x, np.arange(6), (5,))
    assert np.allclose(exact(model, posterior, rows).values, truth, atol=1e-10)
    found = evidence(model, posterior, rows, 4000)
    assert found.kl_by == "samples"
    assert (np.abs(found.importance.values - truth) < 5 * found.importance.errors + 1e-9).all()
    assert (found.elbo.values < truth).all()


def test_families_refuse_what_they_cannot_be():
    with pytest.raises(UsageError, match="at least 2, found 1"):
        families.OneHotCategoricals(1)
    with pytest.raises(UsageError, match="a multiple of 3 numbers, not 4"):
        families.OneHotCategoricals(3).outputs(4)
    with pytest.raises(UsageError, match="for codes, not for data"):
        families.OneHotCategoricals(3).encode_marginals(torch.zeros(2, 3))


# -- by name ---------------------------------------------------------------------------------------


def settings(**given):
    return check_settings({"algorithm": "wake-sleep", **given})


def test_rules_of_discrete_names():
    check_latents("bernoulli", "learned-bernoulli", 3, 4)
    assert prior_for("bernoulli", "auto") == "bernoulli"
    assert prior_for("categorical", "auto") == "categorical"
    assert code_sizes(settings(posterior="categorical", latent_dim=5, layers=2)) == [50, 20]
    sizes = code_sizes(settings(posterior="categorical", latent_classes=3, latent_dim=4))
    assert sizes == [12]
    assert has_closed_divergence(settings(posterior="bernoulli", prior="learned-bernoulli"))
    assert has_closed_divergence(settings(posterior="categorical"))
    assert not has_closed_divergence(settings(posterior="bernoulli", layers=2))
    for given, said in [
        ({"posterior": "bernoulli", "prior": "standard-normal"}, "draws zeros and ones"),
        ({"posterior": "categorical", "prior": "bernoulli"}, "choose categorical, learned-categor"),
        ({"posterior": "gamma", "layers": 2}, r"discrete ones \(bernoulli, categorical\)"),
        ({"latent_classes": 4}, "add --posterior categorical"),
        ({"objective": "iwae"}, "--objective iwae says nothing to --algorithm wake-sleep"),
        ({"free_bits": 0.5}, "--free-bits 0.5 says nothing to --algorithm wake-sleep"),
        ({"refine": 3}, "--algorithm wake-sleep, but to semi-amortized, and to aevb evaluate"),
        ({"weight_draws": 5}, "--algorithm wake-sleep, but to full-bayes"),
        ({"covariance": "full"}, "but to em, or with --components: leave it out"),
    ]:
        with pytest.raises(UsageError, match=said):
            settle_latents(settings(**given))


@pytest.mark.parametrize("algorithm", ["full-bayes", "semi-amortized"])
def test_what_climbs_a_bound_has_the_usual_one_or_another(algorithm):
    assert settle_latents(settings(algorithm=algorithm)).objective == "elbo-b"
    assert settle_latents(settings(algorithm=algorithm, objective="iwae")).objective == "iwae"


def test_the_estimator_has_discrete_codes_too():
    x = (np.random.default_rng(0).random((60, 5)) < 0.5).astype(float)
    options = {"posterior": "bernoulli", "algorithm": "wake-sleep"}
    vae = aevb.VAE(4, hidden=(8,), epochs=2, layers=2, **options).fit(x)
    codes = vae.transform(x)
    assert codes.shape == (60, 6)
    assert ((codes >= 0) & (codes <= 1)).all()
    assert vae.sample(3).shape == vae.reconstruct(x[:3]).shape == (3, 5)
    assert np.isfinite(vae.score_samples(x, samples=3)).all()
    classes = aevb.VAE(2, hidden=(8,), epochs=1, posterior="categorical", algorithm="wake-sleep")
    assert classes.fit(x).transform(x).shape == (60, 20)


def test_models_of_classes_come_back_from_their_files(tmp_path):
    family = families.OneHotCategoricals(3)
    model = aevb.Model(chain(family, [3, 6]), aevb.bernoulli(Leading(aevb.MLP(6, [], 5), 6)))
    posterior = amortized(aevb.MLP(5, [], 9), family)
    aevb.save(tmp_path, model.double(), posterior.double())
    other, another = aevb.load(tmp_path)
    x = torch.ones(2, 5, dtype=DOUBLE)
    z = route(posterior(x)).transform(torch.full((1, 2, 3), 0.4, dtype=DOUBLE))
    assert torch.equal(model.log_joint(x, z), other.log_joint(x, z))
    assert torch.equal(posterior(x).log_prob(z), another(x).log_prob(z))


def test_cells_are_filled_by_importance_where_codes_are_discrete():
    """Against the sum over all codes; hmc, which moves codes along a gradient, is refused."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = aevb.Model(
            Unconditional(families.Bernoulli(), 3), aevb.bernoulli(aevb.MLP(3, [], 5))
        )
        posterior = amortized(aevb.MLP(5, [], 3), families.Bernoulli())
        torch.nn.init.normal_(model.likelihood.network.head.weight, std=2.0)
    model, posterior = model.double(), posterior.double()
    x = np.array([[1, 0, 1, np.nan, np.nan], [0, 0, np.nan, 1, 1]])
    z = listed(model.prior()).to(DOUBLE)
    with torch.no_grad():
        law = model.likelihood(z.unsqueeze(1)).base_dist
        known = torch.from_numpy(np.nan_to_num(x))
        cells = law.log_prob(known.expand(8, 2, 5)) * torch.from_numpy(~np.isnan(x))
        weights = torch.softmax(cells.sum(-1), 0)
        truth = (weights.unsqueeze(-1) * law.mean).sum(0).numpy()
    rows = Rows(x, np.arange(2), (5,))
    filled = impute(model, posterior, rows, samples=20_000)
    assert np.allclose(filled, np.where(np.isnan(x), truth, x), atol=0.02)
    with pytest.raises(UsageError, match=r"free real numbers, .*: use importance"):
        impute(model, posterior, rows, method="hmc")


RUNS = {
    "bernoulli": ("--posterior", "bernoulli", "--latent-dim", "4"),
    "categorical": ("--posterior", "categorical", "--latent-dim", "2", "--latent-classes", "3"),
    "layers": ("--posterior", "bernoulli", "--latent-dim", "4", "--layers", "2"),
}
COMMON = ("--hidden", "16", "--epochs", "2", "--data-limit", "300", "--step", "eager")


@pytest.fixture(params=RUNS)
def run(request, tmp_path):
    reweighted = request.param == "layers"
    how = (
        ("--algorithm", "reweighted-wake-sleep", "--samples", "3")
        if reweighted
        else ("--algorithm", "wake-sleep", "--prior", f"learned-{request.param}")
    )
    folder = tmp_path / "run"
    code, _, err = call(
        "train", "digits", *COMMON, *RUNS[request.param], *how, "--out", str(folder)
    )
    assert code == 0, err
    return request.param, folder


def test_every_command_takes_a_run_with_discrete_codes_or_says_why_not(run, tmp_path):
    name, folder = run
    holes = tmp_path / "holes.csv"
    lines = [[f"p{i}" for i in range(64)], ["", *["3"] * 63], ["2"] * 64]
    holes.write_text("".join(",".join(line) + "\n" for line in lines))
    size = {"bernoulli": 4, "categorical": 6, "layers": 6}[name]

    def good(*arguments):
        code, out, err = call(*map(str, arguments), "--json")
        assert code == 0, err
        assert "NaN" not in out
        return json.loads(out)

    found = good("evaluate", folder, "--samples", 20, "--data-limit", 20)
    assert found["direction"] == "lower"
    truth = good("evaluate", folder, "--method", "exact", "--data-limit", 20)
    assert truth["by"] == "enumeration"
    assert found["mean"] < truth["mean"] + 5 * found["monte_carlo_error"]
    assert good("encode", folder)["shape"] == [180, size]
    codes = np.load(folder / "codes.npy")
    assert ((codes >= 0) & (codes <= 1)).all()
    assert good("decode", folder, folder / "codes.npy")["shape"] == [180, 64]
    assert good("sample", folder, "--latent", tmp_path / "z.npy")["shape"] == [64, 64]
    assert set(np.load(tmp_path / "z.npy").ravel()) <= {0.0, 1.0}
    good("reconstruct", folder)
    good("interpolate", folder)
    good("denoise", folder, "--data-limit", 3)
    good("score", folder, "--data-limit", 3)
    assert good("impute", folder, holes)["missing"] == 1
    good("check", folder)
    good("plot", folder, "all")
    for said, *arguments in [
        ("no free real numbers", "traverse", folder),
        ("free real numbers", "evaluate", folder, "--method", "ais", "--data-limit", "3"),
        ("free real numbers", "evaluate", folder, "--method", "hmc", "--data-limit", "3"),
        ("use importance", "impute", folder, holes, "--method", "hmc"),
    ]:
        code, _, err = call(*map(str, arguments))
        assert code == 2
        assert said in err
        assert len(err.splitlines()) == 1


def test_a_discrete_run_writes_its_report(tmp_path):
    folder = tmp_path / "run"
    options = (*RUNS["layers"], "--algorithm", "wake-sleep", "--report")
    code, _, err = call("train", "digits", *COMMON, *options, "--out", str(folder))
    assert code == 0, err
    assert "bernoulli" in (folder / "report.html").read_text()


def test_a_refused_algorithm_leaves_no_folder_in_the_way(tmp_path):
    folder = tmp_path / "run"
    for options, said in [
        (("--algorithm", "wake-sleep", "--beta", "2"), "--beta 2.0 says nothing"),
        (("--algorithm", "wake-sleep", "--posterior", "per-datum"), "amortized"),
        (("--algorithm", "reweighted-wake-sleep"), "--samples 5"),
    ]:
        code, _, err = call("train", "digits", *COMMON, *options, "--out", str(folder))
        assert code == 2
        assert said in err
        assert not RunFolder(folder).exists
