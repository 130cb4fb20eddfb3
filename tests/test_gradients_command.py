"""`aevb gradients RUN` and `--gradient`: what is measured, recommended, chosen and refused."""

import copy

import numpy as np
import pytest
import torch
from helpers import PNG, call, good, refused
from safetensors.numpy import load_file
from zoo.gradients import X, double_pair, line, truth
from zoo.gradients import coins as coins_of

import aevb
from aevb import plots
from aevb.data import Rows
from aevb.errors import UsageError
from aevb.evaluation import compare_gradients
from aevb.evaluation.gradient_draws import GradientDraws, distance
from aevb.evaluation.gradients import Comparison, Estimator, Worth
from aevb.linear_gaussian import linear_gaussian
from aevb.objectives import doubly_reparameterized
from aevb.posterior import Batch, ExactPosterior
from aevb.settings import check_settings
from aevb.storage import settle_latents

ROWS = Rows(X.numpy().astype(np.uint8), np.arange(2), (3,))
SMALL = ["--hidden", "8", "--latent-dim", "2", "--epochs", "2", "--quiet"]


def timeless(found):
    """A table without what hangs on the clock."""
    found = copy.deepcopy(found)
    for estimator in found["estimators"]:
        assert estimator.pop("cost") > 0
    for name in ("recommended", "recommendation"):
        found.pop(name)
    return found


# -- the measure -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coins():
    """A table whose truth is a sum over codes."""
    return compare_gradients(*double_pair(coins_of), ROWS, samples=2, replicates=4000)


def test_the_unbiased_are_found_unbiased_and_the_biased_biased(coins):
    assert coins.reference == "the sum over all codes"
    assert set(coins.left_out) == {"reparameterized B", "reparameterized A", "path derivative"}
    named = {e.name: e for e in coins.estimators}
    for e in coins.estimators:
        if e.unbiased:
            for worth in (e.theta, e.phi):
                assert worth.bias <= 5 * worth.bias_error + 1e-12
    for name in ("gumbel-softmax", "straight-through"):
        assert not named[name].unbiased
        assert named[name].phi.bias > 5 * named[name].phi.bias_error
    exact, _ = truth(coins_of)
    for part, norm in coins.norms.items():
        assert norm == pytest.approx(float(exact[part].norm()), rel=1e-10)


def test_variances_are_those_of_one_datum(coins):
    model, posterior = double_pair(coins_of)
    draws = GradientDraws(model, posterior, Batch(X))
    u = torch.from_numpy(np.random.default_rng(8).random((20_000, 2, 2, 2)))
    gradients = draws(aevb.objectives.score_function(), u)
    [own] = [e for e in coins.estimators if e.name == "score function"]
    for part in ("theta", "phi"):
        expected = 2 * float(gradients[part].var(0).sum())
        assert own.of(part).variance == pytest.approx(expected, rel=0.15)


def test_a_baseline_takes_variance_away_and_enumeration_has_none(coins):
    named = {e.name: e for e in coins.estimators}
    plain = named["score function"].phi.variance
    for name in ("running mean", "learned", "leave-one-out"):
        assert named[f"score function, {name}"].phi.variance < 0.3 * plain
    assert named["enumeration"].phi.variance == named["enumeration"].theta.variance == 0
    assert coins.best.name == "enumeration"
    assert coins.recommendation.startswith("Take enumeration: it has no variance")


def worth(variance):
    return Worth(bias=0.0, bias_error=0.0, variance=variance, ratio=1.0)


def test_the_least_variance_times_cost_is_recommended_and_the_next_named():
    dear = Estimator("dear", True, worth(0.5), worth(1.5), cost=6.0)
    cheap = Estimator("cheap", True, worth(1.0), worth(3.0), cost=1.0)
    slow = Estimator("slow", True, worth(0.1), worth(0.3), cost=20.0)
    biased = Estimator("biased", False, worth(0.1), worth(0.1), cost=1.0)
    measured = [dear, slow, biased, cheap]
    assert [e.price for e in measured] == pytest.approx([12, 8, 0.2, 4])

    def said(*estimators):
        about = ("elbo", 1, 2, 20, "a longer run", {"theta": 1.0, "phi": 1.0})
        return Comparison(*about, list(estimators), {}).recommendation

    assert said(*measured) == (
        "Take cheap: of the unbiased ones its variance times its cost is the least, 2 times below "
        "that of slow."
    )
    assert said(dear, biased) == "Take dear: it is the only unbiased one that applies."
    exact = Estimator("exact", True, worth(0.0), worth(0.0), cost=7.0)
    assert said(cheap, exact) == (
        "Take exact: it has no variance, and costs 7 times as much as cheap."
    )


def test_several_weights_are_best_reparameterized_twice():
    found = compare_gradients(*double_pair(line), ROWS, bound="iwae", samples=5, replicates=400)
    assert found.reference == "4000 of doubly reparameterized"
    named = {e.name: e for e in found.estimators}
    assert not named["path derivative"].unbiased
    assert named["path derivative"].phi.bias > 5 * named["path derivative"].phi.bias_error
    twice = named["doubly reparameterized"]
    assert twice.phi.ratio < 1
    assert twice.phi.variance == min(e.phi.variance for e in found.estimators if e.unbiased)


def test_a_number_alone_is_a_parameter_too():
    """The noise of probabilistic PCA."""
    model = linear_gaussian([[3.0], [4.0], [1.0]], [0.0, 0.0, 0.0], 1.0).double()
    posterior, eps = ExactPosterior(model), torch.randn(2, 1, 2, 1).double()
    draws = GradientDraws(model, posterior, Batch(X))
    for found, noise in zip(draws(aevb.elbo_a, eps)["theta"], eps, strict=True):
        value = aevb.elbo_a(model, posterior, X, noise).mean()
        slopes = torch.autograd.grad(value, draws.live.values())
        torch.testing.assert_close(found, torch.cat([g.flatten() for g in slopes]))


def test_a_large_model_is_gone_through_one_by_one():
    model, posterior = double_pair(line)
    draws = GradientDraws(model, posterior, Batch(X))
    eps = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 2, 1)))
    together = draws(doubly_reparameterized, eps)
    draws.at_once = 1
    for part, gradients in draws(doubly_reparameterized, eps).items():
        torch.testing.assert_close(gradients, together[part])


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_distance_is_told_apart_from_noise(shift):
    """Blocks around a point `shift` away, in 50 dimensions: the noise alone has length 7."""
    rng = np.random.default_rng(0)
    target = np.zeros(50)
    target[0] = shift
    found = []
    for _ in range(300):
        blocks = torch.from_numpy(target + rng.standard_normal((10, 50)))
        bias, error = distance(blocks, torch.zeros(1, 50))
        found.append((bias, error))
    biases, errors = np.array(found).T
    square = float((biases**2).mean())
    if shift == 0:
        assert (biases <= 3 * errors).mean() > 0.95
        assert square < 0.7
    else:
        assert square == pytest.approx(shift**2, abs=0.5)
    far = distance(torch.from_numpy(target + 9 + rng.standard_normal((10, 50))), torch.zeros(1, 50))
    assert far[0] == pytest.approx(9 * 50**0.5, rel=0.05)
    assert 0.01 < far[1] < 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bound": "renyi"}, "elbo or iwae, found 'renyi'"),
        ({"replicates": 10}, "at least 20 replicates, found 10"),
        ({"samples": 0}, "the number of samples must be at least 1, found 0"),
        ({"samples": -1}, "the number of samples must be at least 1, found -1"),
        ({"rows": ROWS.pick(np.arange(0))}, "expected at least 1 row, found none"),
        ({"temperature": 0.0}, "a temperature must be positive, found 0.0"),
        ({"seed": -1}, r"the seed must lie between 0 and 2\*\*64 - 1, found -1"),
    ],
)
def test_what_cannot_be_compared_is_said(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        compare_gradients(*double_pair(line), **{"rows": ROWS} | options)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients") / "run"
    good("train", "digits", *SMALL, "--out", folder)
    return folder


FEW = ["--data-limit", 5, "--replicates", 20]


def test_the_command_says_the_same_for_the_same_seed(trained, tmp_path):
    figure = tmp_path / "noise.png"
    told = good("gradients", trained, *FEW, "--samples", 2, "--figure", figure)
    assert figure.read_bytes()[:4] == PNG
    assert told.pop("figure") == str(figure)
    again = good("gradients", trained, *FEW, "--samples", 2)
    assert timeless(told) == timeless(again)
    assert told["unit"] == "nats"
    assert (told["objective"], told["samples"], told["rows"]) == ("elbo", 2, 5)
    names = [e["name"] for e in told["estimators"]]
    assert names[:3] == ["reparameterized B", "reparameterized A", "path derivative"]
    assert "score function, leave-one-out" in names
    assert told["recommended"] in names
    assert set(told["left_out"]) == {"gumbel-softmax", "straight-through", "enumeration"}
    other = good("gradients", trained, *FEW, "--samples", 2, "--seed", 1)
    assert timeless(other) != timeless(told)


def test_the_table_is_for_a_person(trained):
    code, out, err = call("gradients", trained, *FEW, "--quiet")
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first.startswith("gradient of elbo, 1 samples, 5 rows, 20 replicates")
    assert last.startswith("Take ")
    assert "left out: score function, leave-one-out:" in out


def test_discrete_codes_are_held_to_the_sum_over_all(tmp_path):
    folder = tmp_path / "run"
    good("train", "digits", *SMALL, "--posterior", "bernoulli", "--out", folder)
    told = good("gradients", folder, *FEW)
    assert told["reference"] == "the sum over all codes"
    names = [e["name"] for e in told["estimators"]]
    assert {"gumbel-softmax", "straight-through", "enumeration"} < set(names)
    assert "reparameterized A" in told["left_out"]


def test_a_figure_is_a_png(trained):
    assert "must end in .png" in refused(2, "gradients", trained, "--figure", "noise.pdf")


# -- the switch ------------------------------------------------------------------------------------

CHOSEN = [
    ({}, ("elbo-b", "reparameterized", "auto")),
    ({"posterior": "iaf"}, ("elbo-a", "reparameterized", "auto")),
    ({"gradient": "path-derivative"}, ("elbo-a", "path-derivative", "auto")),
    ({"gradient": "doubly-reparameterized"}, ("iwae", "doubly-reparameterized", "auto")),
    ({"gradient": "vimco", "samples": 5}, ("iwae", "vimco", "auto")),
    ({"gradient": "score-function"}, ("elbo-b", "score-function", "running-mean")),
    ({"gradient": "score-function", "samples": 2}, ("elbo-b", "score-function", "leave-one-out")),
    ({"posterior": "bernoulli"}, ("elbo-b", "score-function", "running-mean")),
    ({"posterior": "categorical", "samples": 2}, ("elbo-b", "score-function", "leave-one-out")),
    ({"posterior": "bernoulli", "objective": "iwae", "samples": 5}, ("iwae", "vimco", "auto")),
    ({"posterior": "bernoulli", "layers": 2}, ("elbo-a", "score-function", "running-mean")),
    (
        {"posterior": "categorical", "gradient": "gumbel-softmax", "temperature": 0.3},
        ("elbo-b", "gumbel-softmax", "auto"),
    ),
    (
        {"gradient": "score-function", "posterior": "iaf", "baseline": "none"},
        ("elbo-a", "score-function", "none"),
    ),
]


@pytest.mark.parametrize(("asked", "expected"), CHOSEN)
def test_what_is_left_open_is_chosen(asked, expected):
    settled = settle_latents(check_settings(asked))
    assert (settled.objective, settled.gradient, settled.baseline) == expected
    assert settle_latents(settled) == settled


REFUSED = [
    (["--gradient", "steepest"], "--gradient 'steepest' is not known: choose one of auto"),
    (
        ["--gradient", "vimco"],
        "at least 2, found 1: give more samples, or choose another estimator",
    ),
    (["--gradient", "path-derivative", "--objective", "elbo-b"], "of --objective elbo-a or iwae"),
    (["--gradient", "gumbel-softmax"], "for codes of Bernoulli or OneHotCategorical"),
    (
        ["--gradient", "enumeration", "--posterior", "bernoulli", "--samples", "2"],
        "--samples 2 says nothing to --gradient enumeration",
    ),
    (["--gradient", "enumeration"], "found those of Normal: choose discrete codes of fewer"),
    (
        ["--baseline", "learned"],
        "--baseline learned says nothing to --gradient reparameterized, but to score",
    ),
    (["--gradient", "score-function", "--baseline", "none-at-all"], "--baseline 'none-at-all'"),
    (
        ["--temperature", "0.3"],
        "--temperature 0.3 says nothing to --gradient reparameterized, but to gumbel",
    ),
    (
        ["--gradient", "score-function", "--free-bits", "1"],
        "--free-bits 1.0 says nothing to --gradient score-function, but to rep",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_read(options, sentence, tmp_path):
    said = refused(2, "train", tmp_path / "nothing.npy", *options, "--out", tmp_path / "run")
    assert sentence in said


@pytest.mark.parametrize(
    "options",
    [
        ["--gradient", "score-function", "--baseline", "learned"],
        ["--gradient", "doubly-reparameterized", "--samples", "3"],
        ["--gradient", "path-derivative", "--posterior", "full-covariance"],
        ["--gradient", "gumbel-softmax", "--posterior", "categorical", "--latent-classes", "3"],
        ["--gradient", "straight-through", "--posterior", "bernoulli"],
        ["--gradient", "enumeration", "--posterior", "categorical", "--latent-classes", "3"],
        ["--gradient", "vimco", "--posterior", "bernoulli", "--samples", "3"],
    ],
)
def test_a_run_learns_by_it_and_its_model_holds_nothing_of_it(options, tmp_path):
    told = good("train", "digits", *SMALL, *options, "--out", tmp_path / "run")
    assert told["gradient"] == options[1]
    before = aevb.load(tmp_path / "run")
    assert len(before) == 2
    names = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in names if "baseline" in name]


def test_the_estimator_has_the_switch():
    x = np.random.default_rng(0).normal(size=(50, 3))
    vae = aevb.VAE(hidden=(4,), epochs=2, gradient="path-derivative").fit(x)
    assert (vae.settings_.objective, vae.settings_.gradient) == ("elbo-a", "path-derivative")
    with pytest.raises(UsageError, match="found 1"):
        aevb.VAE(hidden=(4,), epochs=2, gradient="vimco").fit(x)


# -- the figure ------------------------------------------------------------------------------------


def test_variances_stand_beside_their_names():
    names = ["A", "exact", "soft"]
    values = {"theta": [1.0, 0.0, 2.0], "phi": [10.0, 0.0, 0.1]}
    ax = plots.gradient_variances(names, values, biased=["soft"])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["A", "exact", "soft *"]
    theta, phi = ax.lines
    assert list(theta.get_xdata()) == [1.0, 2.0]
    assert list(phi.get_xdata()) == [10.0, 0.1]
    assert list(phi.get_ydata()) == [3, 1]
    assert [text.get_text() for text in ax.texts] == ["no variance"]
    assert ax.get_xscale() == "log"


def test_sets_whose_names_begin_alike_are_sets_of_their_own():
    sets = {"parameters of the encoder": [1.0], "parameters of the encoder's flow": [2.0]}
    assert [list(line.get_xdata()) for line in plots.gradient_variances(["A"], sets).lines] == [
        [1.0],
        [2.0],
    ]


@pytest.mark.parametrize(
    "values", [{}, {"a": [1.0]}, {"a": [-1.0, 1.0]}, {key: [1.0, 2.0] for key in "abc"}]
)
def test_what_is_no_variance_is_refused(values):
    with pytest.raises(UsageError):
        plots.gradient_variances(["A", "B"], values)
