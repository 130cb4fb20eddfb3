"""Chains of layers, shared parameters, free parameters, and every pair of posterior and prior."""

import numpy as np
import pytest
import torch
from helpers import call, noise, small_pair
from scipy.special import logsumexp
from scipy.stats import norm
from torch import nn
from torch.distributions import Independent

import aevb
from aevb import distributions as zoo
from aevb import families
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.data import Rows
from aevb.distributions import center, route
from aevb.distributions.reparameterization import base_of
from aevb.errors import UsageError
from aevb.evaluation import evaluating, evidence, refit
from aevb.model import Model
from aevb.networks import MLP, Leading
from aevb.posterior import Amortized, Ladder, PerDatum, everywhere, per_datum
from aevb.priors import VampPrior
from aevb.randomness import Stream, generator
from aevb.storage import RunFolder
from aevb.storage.latents import FAMILIES, PRIORS, check_latents, layer_sizes, prior_for
from aevb.workflow.material import Material
from aevb.workflow.pictures import pictures_of

DOUBLE = torch.float64


def normal(loc, scale):
    return Independent(zoo.Normal(loc, torch.as_tensor(scale, dtype=DOUBLE)), 1)


def two_layers(top=2, bottom=3, width=6):
    """A model whose z_1 has `bottom` numbers and z_2 has `top`, with weights that are not small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        link = Conditional(MLP(top, [5], 2 * bottom), families.Normal())
        first = Unconditional(families.Normal(), top, learned=True)
        prior = Chain([first, link], [top, bottom], reverse=True)
        decoder = Leading(MLP(bottom, [5], width), bottom)
        model = Model(prior, Conditional(decoder, families.Bernoulli()))
        encoder = Conditional(MLP(width, [5], 2 * bottom), families.Normal())
        up = Conditional(MLP(bottom, [5], 2 * top), families.Normal())
        posterior = Amortized(Chain([encoder, up], [bottom, top]))
        ladder = Amortized(
            Ladder(
                [MLP(width, [], 4), MLP(4, [], 4)],
                [MLP(4, [], 2 * bottom), MLP(4, [], 2 * top)],
                prior,
            )
        )
        for module in (model, posterior, ladder):
            for p in module.parameters():
                nn.init.normal_(p, std=0.5)
    return model.to(DOUBLE), posterior.to(DOUBLE), ladder.to(DOUBLE)


def test_a_chain_adds_the_logs_of_its_parts_in_either_order():
    top = normal(torch.zeros(2, dtype=DOUBLE), 1.0)
    links = [lambda z: normal(z * 2, 0.5)]
    z = torch.randn(7, 4, dtype=DOUBLE)
    for reverse in (False, True):
        q = zoo.Chain(top, links, [2, 2], reverse)
        a, b = z.split(2, -1)
        if reverse:
            a, b = b, a
        expected = norm.logpdf(a.numpy()).sum(-1) + norm.logpdf(b.numpy(), 2 * a.numpy(), 0.5).sum(
            -1
        )
        assert np.allclose(q.log_prob(z), expected, atol=1e-12)


def test_a_chain_draws_its_parts_one_after_the_other_and_remembers_the_density():
    top = normal(torch.tensor([1.0, -1.0], dtype=DOUBLE), 0.3)
    q = zoo.Chain(top, [lambda z: normal(z.sum(-1, keepdim=True), 0.1)], [2, 1], True)
    way = route(q)
    e = way.noise.draw(generator(0, Stream.NOISE), (50_000,), DOUBLE)
    z = way.transform(e)
    below, above = z[:, :1], z[:, 1:]
    assert torch.allclose(above, torch.tensor([1.0, -1.0], dtype=DOUBLE) + 0.3 * e[:, :2])
    assert torch.allclose(below, above.sum(-1, keepdim=True) + 0.1 * e[:, 2:])
    assert q.log_prob(z) is q.log_prob(z)
    assert torch.allclose(q.log_prob(z), q.log_prob(z.clone()), atol=1e-12)


def test_a_chain_can_be_expanded_and_draws_as_before():
    prior = Chain(
        [Unconditional(families.Normal(), 2), Conditional(nn.Linear(2, 6), families.Normal())],
        [2, 3],
        reverse=True,
    )
    one, many = prior(), prior().expand((4,))
    assert (many.batch_shape, many.event_shape) == ((4,), (5,))
    e = torch.randn(7, 4, 5)
    z = route(many).transform(e)
    assert torch.allclose(z[:, 2], route(one).transform(e[:, 2]), atol=1e-6)
    assert torch.allclose(many.log_prob(z.clone())[:, 2], one.log_prob(z[:, 2]), atol=1e-5)


def test_a_chain_of_laws_with_noise_of_several_axes():
    student = families.Elementwise(zoo.StudentT, {"df": 5.0})
    first, below = (Conditional(nn.Linear(6, 4), student), Conditional(nn.Linear(2, 6), student))
    q = Chain([first, below], [2, 3])(torch.zeros(4, 6))
    way = route(q)
    e = way.noise.draw(generator(0, Stream.NOISE), (9, 4), torch.float32)
    z = way.transform(e)
    assert z.shape == (9, 4, 5)
    law = first(torch.zeros(4, 6))
    assert torch.equal(z[..., :2], route(law).transform(e[..., :4].unflatten(-1, (2, 2))))


@pytest.mark.parametrize("which", ["upwards", "ladder"])
def test_two_layers_bound_what_a_quadrature_over_the_top_says(which):
    """The bound by brute force over both layers against the estimate, and below log p(x)."""
    model, up, ladder = two_layers(top=1, bottom=1)
    posterior = up if which == "upwards" else ladder
    x = (np.random.default_rng(3).random((5, 6)) < 0.5).astype(np.uint8)
    grid = np.linspace(-9, 9, 901)
    z1, z2 = np.meshgrid(grid, grid, indexing="ij")
    z = torch.from_numpy(np.stack([z1, z2], -1).reshape(-1, 1, 2))
    with torch.no_grad():
        log_joint = model.log_joint(torch.from_numpy(x).to(DOUBLE), z).numpy()
    truth = logsumexp(log_joint, axis=0) + 2 * np.log(grid[1] - grid[0])
    found = evidence(model, posterior, Rows(x, np.arange(5), (6,)), 20_000)
    assert found.kl_by == "samples"
    with torch.no_grad():
        log_q = posterior(torch.from_numpy(x).to(DOUBLE)).log_prob(z).numpy()
    cell = (grid[1] - grid[0]) ** 2
    assert np.allclose(np.exp(log_q).sum(0) * cell, 1, atol=1e-6)
    bound = (np.exp(log_q) * (log_joint - log_q)).sum(0) * cell
    assert (np.abs(found.elbo.values - bound) < 5 * found.elbo.errors).all()
    assert (bound < truth).all()


def test_a_ladder_multiplies_what_the_data_say_with_what_the_model_says():
    model, _, ladder = two_layers()
    x = torch.ones(4, 6, dtype=DOUBLE)
    q = ladder(x)
    above = torch.randn(4, 2, dtype=DOUBLE)
    p = model.prior.links[1](above)
    d = torch.relu(ladder.conditional.rungs[0](x))
    mean, log_variance = ladder.conditional.heads[0](d).chunk(2, -1)
    merged = q.links[0](above)
    grid = torch.linspace(-4, 4, 9, dtype=DOUBLE)[:, None, None].expand(9, 4, 3)
    product = normal(mean, torch.exp(0.5 * log_variance)).log_prob(grid) + p.log_prob(grid)
    difference = merged.log_prob(grid) - product
    assert torch.allclose(difference, difference[:1].expand_as(difference), atol=1e-9)


def test_a_vamp_prior_is_the_average_of_what_the_encoder_says():
    encoder = Conditional(MLP(6, [5], 4), families.Normal()).to(DOUBLE)
    prior = VampPrior(encoder, 7, 6).to(DOUBLE)
    assert prior().log_prob(torch.full((1, prior().event_shape[0]), torch.nan)).isnan().all()
    z = torch.randn(3, 5, 2, dtype=DOUBLE)
    with torch.no_grad():
        q = encoder(prior.pseudo_inputs)
        apart = q.log_prob(z.unsqueeze(-2)).numpy()
        assert np.allclose(prior().log_prob(z), logsumexp(apart, axis=-1) - np.log(7), atol=1e-10)


def test_a_vamp_prior_encodes_once_while_nothing_is_learned():
    model, posterior = small_pair()
    model.prior = VampPrior(posterior.conditional, 4, 6).to(DOUBLE)
    calls = []
    network = posterior.conditional.network
    network.register_forward_hook(lambda module, given, result: calls.append(len(result)))
    with evaluating(model, posterior):
        first = model.prior().log_prob(torch.zeros(2, dtype=DOUBLE))
        for _ in range(5):
            model.prior()
    assert calls == [4]
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(0.5)
    with evaluating(model, posterior):
        assert not torch.allclose(model.prior().log_prob(torch.zeros(2, dtype=DOUBLE)), first)
    model.prior().log_prob(torch.zeros(2, dtype=DOUBLE)).backward()
    assert model.prior.pseudo_inputs.grad.abs().max() > 0


def test_what_posterior_and_prior_share_is_one_thing_after_loading(tmp_path):
    model, posterior = small_pair()
    model.prior = VampPrior(posterior.conditional, 4, 6).to(DOUBLE)
    _, _, ladder = two_layers()
    layered = Model(ladder.conditional.prior, two_layers()[0].likelihood)
    for name, (p, q) in {"vamp": (model, posterior), "ladder": (layered, ladder)}.items():
        aevb.save(tmp_path / name, p, q)
        p2, q2 = aevb.load(tmp_path / name)
        own = q2.conditional if name == "vamp" else q2.conditional.prior
        assert own is (p2.prior.encoder if name == "vamp" else p2.prior)
        x, e = torch.ones(3, 6, dtype=DOUBLE), noise((2, 3, 5 if name == "ladder" else 2))
        assert torch.equal(aevb.elbo_a(p, q, x, e), aevb.elbo_a(p2, q2, x, e))


def test_a_global_posterior_is_the_same_for_all_rows():
    q = everywhere(2, families.MultivariateNormal())
    found = q(torch.randn(4, 6))
    assert found.batch_shape == (4,)
    assert torch.equal(found.loc[0], found.loc[3])
    assert sum(p.numel() for p in q.parameters()) == 5


def test_held_out_rows_get_new_numbers_in_the_same_family():
    model, up, _ = two_layers()
    chain = up.conditional
    free = PerDatum(Chain([per_datum(9, 3).conditional, chain.links[1]], [3, 2])).to(DOUBLE)
    x = (np.random.default_rng(3).random((5, 6)) < 0.5).astype(np.uint8)
    rows = Rows(x, np.arange(5), (6,))
    fitted = refit(model, free, rows, steps=100)
    assert fitted.conditional.links[1] is chain.links[1]
    unfitted = free.renewed(5, 6)
    after = evidence(model, fitted, rows, 500).elbo.mean
    assert after > evidence(model, unfitted.to(DOUBLE), rows, 500).elbo.mean + 0.1


def test_the_center_is_the_mean_or_the_median_or_an_average():
    cauchy = families.Elementwise(zoo.Cauchy)(torch.tensor([[3.0, 0.0]]), 1)
    assert center(cauchy) == torch.tensor([[3.0]])
    top = normal(torch.full((4, 2), 2.0, dtype=DOUBLE), 0.01)
    assert torch.allclose(
        center(zoo.Chain(top, [lambda z: normal(z + 1, 0.01)], [2, 2])),
        torch.tensor([2.0, 2.0, 3.0, 3.0], dtype=DOUBLE),
        atol=0.01,
    )
    skew = Independent(zoo.Gamma(*(torch.full((2,), 0.25, dtype=DOUBLE),) * 2), 1)  # median 0.12
    found = center(zoo.Chain(skew, [lambda z: skew], [2, 2]))
    assert torch.allclose(found, torch.ones(4, dtype=DOUBLE), atol=0.5)


def mass_within(support, prior):
    """The prior's mass between the ends of a support of numbers, where they are parameters."""
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if not isinstance(low, torch.Tensor):
        return 1.0
    law = base_of(prior)
    above = 1.0 if high is None else law.cdf(high)
    return float((above - law.cdf(low)).prod())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_a_posterior_whose_weights_average_to_the_evidence(name):
    """E_q[p(z) / q(z)] is the prior's mass in q's support: q, p, and draws agree."""
    _, make = FAMILIES[name]
    size = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        family = make(size).to(DOUBLE)
        raw = 0.3 * torch.randn(1, family.outputs(size), dtype=DOUBLE)
    q = family(raw, 1)
    assert q.batch_shape == (1,)
    assert q.event_shape == (size,)
    way = route(q)
    e = way.noise.draw(generator(5, Stream.NOISE), (4000, 1), DOUBLE)
    with torch.no_grad():
        z = way.transform(e)
        log_q = q.log_prob(z)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_q).all()
    target = PRIORS[prior_for(name, "auto")][1](size).to(DOUBLE)()
    if name == "gumbel":
        return  # its tail to the left is so short that draws there are few, and weigh without bound
    ratio = (target.log_prob(z) - log_q).exp()
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert abs(float(ratio.mean()) - mass_within(base_of(q).support, target)) < 5 * error + 1e-12
    assert error < 0.5


def test_rules_of_what_goes_together():
    check_latents("mean-field", "auto", 3, 4)
    check_latents("ladder", "auto", 2, 4)
    assert prior_for("gamma", "auto") == "exponential"
    assert layer_sizes(5, 4) == [5, 2, 1, 1]
    for posterior, prior, layers, size, said in [
        ("gamma", "standard-normal", 1, 2, "positive numbers.*choose exponential"),
        ("mean-field", "gamma", 1, 2, "any real numbers"),
        ("von-mises-fisher", "auto", 2, 2, "length 1: choose another, or one layer"),
        ("ladder", "auto", 1, 2, "add --layers 2"),
        ("ladder", "mixture", 2, 2, "standard-normal or learned-normal"),
        ("cauchy", "standard-normal", 1, 2, "infinite under --prior standard-normal"),
        ("cauchy", "auto", 2, 2, "Gaussians between the layers"),
        ("iaf", "vamp", 1, 2, "--posterior mean-field"),
        ("per-datum", "vamp", 1, 2, "--posterior mean-field"),
        ("von-mises-fisher", "auto", 1, 1, "at least two"),
        ("real-nvp", "auto", 1, 1, "at least two"),
        ("mean-field", "flow", 2, 2, "at least two"),
        ("nothing", "auto", 1, 2, "--posterior 'nothing'"),
        ("own:planar", "auto", 1, 2, "per-datum or global"),
        ("mean-field", "nothing", 1, 2, "--prior 'nothing'"),
    ]:
        with pytest.raises(UsageError, match=said):
            check_latents(posterior, prior, layers, size)


@pytest.mark.parametrize(
    "asked",
    [
        {"posterior": "von-mises-fisher"},
        {"posterior": "iaf", "layers": 2},
        {"posterior": "per-datum:gamma"},
        {"prior": "vamp"},
    ],
    ids=lambda asked: "-".join(map(str, asked.values())),
)
def test_the_estimator_takes_them_too(quick_refits, asked):
    x = np.random.default_rng(0).random((60, 5))
    vae = aevb.VAE(4, hidden=(8,), epochs=2, **asked).fit(x)
    width = 6 if "layers" in asked else 4
    assert vae.transform(x).shape == (60, width)
    assert len(vae.get_feature_names_out()) == width
    assert vae.sample(3).shape == vae.reconstruct(x[:3]).shape == (3, 5)
    assert np.isfinite(vae.score_samples(x, samples=3)).all()
    with pytest.raises(ValueError, match="is a density of"):
        aevb.VAE(posterior="gamma", prior="standard-normal").fit(x)


def train_briefly(tmp_path, *options):
    common = ("--hidden", "16", "--latent-dim", "3", "--epochs", "2", "--data-limit", "300")
    code, _, err = call(
        "train", "digits", *common, *options, "--out", str(tmp_path / "run"), "--step", "eager"
    )
    assert code == 0, err
    code, out, err = call(
        *("evaluate", str(tmp_path / "run"), "--samples", "20", "--data-limit", "20", "--json")
    )
    assert code == 0, err
    return out


@pytest.mark.parametrize("posterior", FAMILIES)
def test_every_posterior_trains_on_digits_and_reports_a_bound(tmp_path, posterior):
    out = train_briefly(tmp_path, "--posterior", posterior)
    assert '"estimand": "log p(x)"' in out
    assert "NaN" not in out


USUAL = {"positive": "gamma", "unit": "kumaraswamy", "simplex": "dirichlet"}


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_trains_on_digits(tmp_path, prior):
    space = PRIORS[prior][0]
    posterior = USUAL.get(space, "von-mises-fisher" if space == "sphere" else "laplace")
    out = train_briefly(tmp_path, "--prior", prior, "--posterior", posterior)
    assert "NaN" not in out


@pytest.mark.parametrize(
    "options",
    [
        ("--prior", "vamp"),
        ("--layers", "2"),
        ("--layers", "3", "--posterior", "ladder"),
        ("--layers", "2", "--posterior", "iaf", "--prior", "mixture"),
        ("--posterior", "per-datum:planar"),
        ("--posterior", "per-datum", "--layers", "2"),
        ("--posterior", "global:low-rank"),
        ("--posterior", "von-mises-fisher", "--objective", "iwae", "--samples", "3"),
    ],
    ids=lambda options: "-".join(options).replace("--", ""),
)
def test_constructions_train_on_digits(quick_refits, tmp_path, options):
    assert "NaN" not in train_briefly(tmp_path, *options)


@pytest.mark.parametrize("prior", ["mixture", "vamp", "learned-normal"])
def test_a_plane_of_codes_is_drawn_only_under_a_prior_of_one_law(tmp_path, prior):
    train_briefly(tmp_path, "--prior", prior, "--latent-dim", "2")
    kinds = pictures_of(Material(RunFolder(tmp_path / "run")))
    assert ("manifold" in kinds) == ("prior-predictive" in kinds) == (prior == "learned-normal")


def test_a_condition_needs_no_batch():
    law = Conditional(nn.Linear(2, 5), families.Bernoulli())
    z = torch.randn(4, 3, 2)
    assert torch.allclose(law(z).base_dist.logits[1, 2], law(z[1, 2]).base_dist.logits)
    below = Conditional(nn.Linear(2, 6), families.Normal())
    prior = Chain([Unconditional(families.Normal(), 2), below], [2, 3], reverse=True)
    assert prior().sample().shape == (5,)
