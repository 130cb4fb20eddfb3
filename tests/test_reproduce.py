"""Every figure and table at a budget of seconds, on digits; and what each expects, both ways."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import call
from PIL import Image

from aevb.data import Binarization, open_source
from aevb.errors import DataError
from aevb.optimizers import Adagrad
from aevb.randomness import Stream, generator
from aevb.reproduce import (
    NAMES,
    How,
    amortization,
    estimators,
    experiment,
    figure2,
    figure3,
    figure4,
    figure5,
    iwae_table,
    markdown,
    perform,
    reproduction,
)
from aevb.reproduce.experiment import (
    STEP_SIZES,
    Curve,
    Experiment,
    build,
    learn,
    open_data,
    presented,
)

TINY = Experiment("digits", 2, 4, 600, 200, points=2, judged=20)


def digits(name, **_):
    """What stands in for a data set: digits, binary where that one is."""
    source = open_source("digits")
    if name in ("mnist", "binarized-mnist"):
        return replace(source, name=name, likelihood="bernoulli", binarize="epoch")
    return replace(source, name=name)


@pytest.fixture
def tiny(monkeypatch, quick_refits):
    """Settings whose runs take a second, and digits in place of every data set."""
    for module in ("experiment", "iwae_table", "performing"):
        monkeypatch.setattr(f"aevb.reproduce.{module}.open_source", digits)
    small = {"samples": 600, "first": 200, "points": 2, "judged": 20}
    monkeypatch.setitem(experiment.SIZES, "minute", small)
    for data in experiment.HIDDEN:
        monkeypatch.setitem(experiment.HIDDEN, data, 4)
        monkeypatch.setitem(experiment.ROWS, data, None)
    monkeypatch.setattr(figure3, "HIDDEN", 4)
    monkeypatch.setattr(figure3, "LATENTS", 1)
    few = {"samples": 600, "first": 200, "points": 1, "judged": 2}
    for name, value in {"SIZES": few, "EXACT": 1, "VISITS": {1000: 300}}.items():
        monkeypatch.setitem(getattr(figure3, name), "minute", value)
    monkeypatch.setattr(iwae_table, "HIDDEN", (4,))
    monkeypatch.setattr(iwae_table, "LATENTS", 2)
    for name, value in {"ROWS": 40, "JUDGED": 5, "IMPORTANCE": 3}.items():
        monkeypatch.setitem(getattr(iwae_table, name), "minute", value)
    monkeypatch.setattr(estimators, "LATENTS", 2)
    monkeypatch.setattr("aevb.evaluation.gradients.ROUNDS", 2)
    monkeypatch.setattr("aevb.evaluation.gradients.STEPS_BEFORE", 2)
    for name, value in {"EARLY": 200, "LATE": 400, "ROWS": 2}.items():
        monkeypatch.setitem(getattr(estimators, name), "minute", value)
    for name, value in {"SAMPLES": 400, "JUDGED": 2, "DRAWS": 5}.items():
        monkeypatch.setitem(getattr(amortization, name), "minute", value)


@pytest.mark.parametrize("name", NAMES)
def test_each_writes_its_figure_its_numbers_and_what_is_expected_of_them(name, tiny, tmp_path):
    report = perform(reproduction(name), "minute", tmp_path, How(1))
    folder = tmp_path / name
    written = (folder / "results.json").read_bytes()
    assert json.loads(written) == json.loads(json.dumps(report))
    assert report["budget"] == "minute"
    assert {"aevb", "torch", "numpy", "python"} == set(report["versions"])
    assert all(job["settings"]["seed"] == 0 for job in report["jobs"])
    assert report["expectations"]
    assert {found["holds"] for found in report["expectations"]} <= {True, False, None}
    with Image.open(folder / "figure.png") as picture:
        assert min(picture.size) > 200
    page = markdown(report)
    assert all(found["expected"] in page for found in report["expectations"])
    again = perform(reproduction(name), "minute", tmp_path, How(1))
    assert again == report
    assert (folder / "results.json").read_bytes() == written


def test_the_command_lists_runs_and_says_what_it_found(tiny, tmp_path):
    code, out, _ = call("reproduce")
    assert code == 0
    assert all(f"{name}: " in out for name in NAMES)
    arguments = ("reproduce", "figure5", "--out", tmp_path, "--jobs", 1)
    code, out, err = call(*arguments, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["name"] == "figure5"
    code, out, _ = call(*arguments)
    assert code == 0
    assert "| expected | holds | numbers |" in out
    assert str(tmp_path / "figure5" / "results.json") in out


def test_an_unknown_name_is_one_sentence(tmp_path):
    code, _, err = call("reproduce", "figure7", "--out", tmp_path)
    assert code == 2
    assert err == (f"aevb: there is no reproduction 'figure7': choose one of {', '.join(NAMES)}\n")


def test_data_that_are_not_here_are_said_before_anything_is_done(tmp_path, monkeypatch):
    def missing(name):
        raise DataError(f"{name} is not here")

    monkeypatch.setattr("aevb.reproduce.performing.open_source", missing)
    code, _, err = call("reproduce", "figure2", "--out", tmp_path / "out")
    assert (code, err) == (3, "aevb: frey-face is not here\n")
    assert not (tmp_path / "out").exists()


# -- the paper's experiments ----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "samples"), [(37, 10**6), (100, 10**6), (1437, 10**6), (64, 500)])
def test_an_epoch_presents_each_row_as_often_as_any_other_in_whole_minibatches(n, samples):
    rows = open_data(TINY).train.pick(np.arange(n))
    shown = presented(rows, samples)
    counts = np.unique(shown.index, return_counts=True)[1]
    assert len(counts) == n
    assert len(set(counts)) == 1
    if samples == 10**6:
        assert len(shown) % 100 == 0
        assert 20_000 <= len(shown) < 20_000 + 100 * n


def test_parameters_begin_as_independent_normal_numbers_of_variance_a_hundredth():
    model, posterior = build(replace(TINY, hidden=200), open_data(TINY))
    values = np.concatenate(
        [p.detach().numpy().ravel() for p in (*model.parameters(), *posterior.parameters())]
    )
    n = len(values)
    assert abs(values.mean()) < 5 * 0.1 / np.sqrt(n)
    assert values.var() == pytest.approx(0.01, abs=5 * 0.01 * np.sqrt(2 / n))
    assert len(np.unique(values)) > 0.999 * n


def test_the_learner_is_the_papers():
    data = open_data(TINY)
    pair = build(TINY, data)
    learner, _, plan = experiment._prepared(TINY, *pair, data, 0.02)
    assert isinstance(learner.optimizer, Adagrad)
    assert (learner.lr, learner.weight_prior_rows) == (0.02, len(data.train))
    assert (plan.batch_size, plan.samples) == (100, 1)
    assert {plan.schedule(done) for done in (0.0, 0.5, 0.999)} == {1.0}
    # Rows that are presented several times over are as many steps: long runs are compiled.
    assert not learner.compiled
    long = replace(TINY, samples=10_000_000)
    assert experiment._prepared(long, *pair, data, 0.02)[0].compiled


@pytest.mark.parametrize("best", STEP_SIZES)
def test_the_step_size_is_that_of_the_highest_training_bound_and_is_kept(
    best, tmp_path, monkeypatch
):
    asked = []

    def pilot(experiment, data, rate):
        asked.append(rate)
        return None if rate == 0.1 != best else -abs(rate - best)

    monkeypatch.setattr(experiment, "_pilot", pilot)
    for _ in range(2):
        assert experiment._step_size(TINY, open_data(TINY), tmp_path / "p.json")[0] == best
    assert asked == list(STEP_SIZES)


def test_two_runs_of_one_experiment_measure_the_same_and_another_seed_does_not(tmp_path):
    told = []
    curves = [
        learn(replace(TINY, seed=seed), tmp_path / name, told.append).result["curve"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert curves[0] == curves[1] != curves[2]
    assert [point["samples"] for point in curves[0]] == [200, 600]
    assert curves[0][1]["train"] > curves[0][0]["train"]


def test_a_curve_is_looked_at_evenly_in_the_log_and_forgets_what_is_done_anew(tmp_path):
    curve = Curve(tmp_path / "c.json", replace(TINY, points=4), lambda: {"test": 1.0})
    curve.begin(0, 1600, 100)
    assert curve.due == {2, 19, 172, 1600}
    for t in range(1, 200):
        curve.step(t)
    resumed = Curve(tmp_path / "c.json", replace(TINY, points=4), lambda: {"test": 1.0})
    resumed.begin(100, 1600, 100)
    assert [point["samples"] for point in resumed.points] == [200, 1900]


def test_pixels_are_drawn_where_the_data_are_binarized_and_a_gaussian_has_grey_ones(monkeypatch):
    monkeypatch.setattr(experiment, "open_source", digits)
    kinds = {}
    for name, binarize in (("mnist", None), ("frey-face", None), ("fashion-mnist", "epoch")):
        tiny = replace(TINY, data=name, binarize=binarize)
        data = open_data(tiny)
        model, _ = build(tiny, data)
        kinds[name] = type(model.family).__name__, data.train.binarize
    assert kinds == {
        "mnist": ("Bernoulli", Binarization.EPOCH),
        "frey-face": ("Normal", Binarization.NONE),
        "fashion-mnist": ("Bernoulli", Binarization.EPOCH),
    }


# -- what is expected, both ways ------------------------------------------------------------------


def verdicts(found, word):
    return [e.holds for e in found if word in e.sentence]


def curve(*points, **more):
    return {
        "curve": [{"samples": s, "train": v + 1, "test": v} for s, v in points],
        "step_size": 0.02,
        "rows_per_second": 1000.0,
        **more,
    }


def panel(aevb, wake):
    return {
        figure2.name_of("mnist", 20, "aevb"): curve(*aevb),
        figure2.name_of("mnist", 20, "wake-sleep"): curve(*wake),
    }


def test_figure2_tells_the_paper_from_its_opposite():
    high, low = [(100_000, -130.0), (10**7, -100.0)], [(100_000, -140.0), (10**7, -110.0)]
    right, wrong = figure2.judge(panel(high, low)), figure2.judge(panel(low, high))
    assert {e.holds for e in right} == {True}
    assert verdicts(wrong, "ends higher") == [False, False]
    assert verdicts(wrong, "at every number") == [False]
    assert verdicts(wrong, "above -105") == [False]
    crossing = figure2.judge(panel([(100_000, -150.0), (10**7, -100.0)], low))
    assert verdicts(crossing, "ends higher") == [True, True]
    assert verdicts(crossing, "at every number") == [False]
    fitted = figure2.judge(panel([(100_000, -99.0), (10**7, -101.0)], low))
    assert verdicts(fitted, "no over-fitting") == [False]
    assert verdicts(figure2.judge(panel(high[:1], low[:1])), "above -105") == [None]


def test_figure3_tells_the_paper_from_its_opposite():
    def results(aevb, wake, em, off=0.1, slow=100.0):
        found = {
            figure3.name_of(1000, name): curve((100_000, value - 5), (10**6, value))
            for name, value in zip(figure3.ALGORITHMS, (aevb, wake, em), strict=True)
        }
        found[figure3.name_of(1000, "monte-carlo-em")]["rows_per_second"] = slow
        for result in found.values():
            for point in result["curve"]:
                point.update({"exact": -100.0, "estimate of the same": -100.0 + off})
        return found

    assert {e.holds for e in figure3.judge(results(-120, -125, -130))} == {True}
    assert verdicts(figure3.judge(results(-120, -119, -130)), "ends above") == [False, False]
    assert verdicts(figure3.judge(results(-120, -125, -119)), "ends above") == [False, False]
    assert verdicts(figure3.judge(results(-120, -125, -119)), "costs more") == [False]
    quick = figure3.judge(results(-120, -125, -130, slow=900.0))
    assert verdicts(quick, "costs more") == [False]
    for off, holds in ((0.9, True), (1.1, False), (-1.1, False)):
        assert verdicts(figure3.judge(results(-1, -2, -3, off)), "within 1 nat") == [holds]


def test_a_smooth_plane_is_told_from_noise():
    across = np.linspace(0, 1, figure4.SIDE)
    plane = np.stack(np.meshgrid(across, across), -1).reshape(-1, 2)
    noise = generator(0, Stream.SIMULATION).random((figure4.SIDE**2, 2))
    for tiles, holds in ((plane, True), (noise, False)):
        numbers = figure4.roughness(tiles)
        pairs = tiles[:, None] - tiles[None]
        among = np.square(pairs).mean(-1).sum() / (len(tiles) * (len(tiles) - 1))
        assert numbers["at random"] == pytest.approx(among)
        name = figure4.name_of(figure4.DATA[0])
        found = figure4.judge({name: curve((1, -2.0), (2, -1.0)) | numbers})
        assert verdicts(found, "smooth") == [holds]
        assert verdicts(found, "has risen") == [True]


@pytest.mark.parametrize(("bounds", "holds"), [((1, 2, 3), True), ((1, 3, 2), False)])
def test_figure5_expects_the_bound_to_rise_with_the_dimensions(bounds, holds):
    results = {
        figure5.name_of(size): curve((1, float(bound)))
        for size, bound in zip(figure5.RISING, bounds, strict=True)
    }
    assert all(e.holds for e in figure5.judge(results)) is holds


def published(change=lambda cell, nll, units: (nll, units)):
    """The tables of the paper as results, or changed ones."""
    found = {}
    for part, cells in iwae_table.PUBLISHED.items():
        for cell, numbers in cells.items():
            nll, units = change(cell, *numbers)
            found[iwae_table.name_of(*part, *cell)] = {
                "importance": {"mean": -nll, "standard_error": 0.5},
                "active_units": units,
                "passes": 3280,
            }
    return found


def test_the_published_tables_of_importance_weighting_are_as_expected_and_others_not():
    assert {e.holds for e in iwae_table.judge(published())} == {True}
    worse = published(lambda cell, nll, units: (90.0 if cell == ("iwae", 50) else nll, units))
    assert verdicts(iwae_table.judge(worse), "bound rises") == [False] * 4
    assert verdicts(iwae_table.judge(worse), "k = 50: IWAE above") == [False] * 4
    dead = published(lambda cell, nll, units: (nll, (3,) if cell == ("iwae", 50) else units))
    assert verdicts(iwae_table.judge(dead), "keeps no fewer") == [False] * 4
    said = iwae_table.numbers_table(dead | published())
    assert "| mnist | 1 | iwae | 50 | 3280 | 84.78 ± 0.50 | 25 |" in said
    assert "| mnist | 2 | iwae | 50 | 3280 | 82.90 ± 0.50 | 26+7 | 82.90 | 26+7 |" in said


def test_two_layers_of_importance_weighting_are_those_of_the_paper():
    data = iwae_table.open_data("digits", 100)
    model, posterior = iwae_table.build(data, 2, 0)
    x = (data.train.all()[:3] > 0.5).float()
    z = posterior(x).sample()
    assert z.shape == (3, 150)
    weights = {
        name: tuple(p.shape)
        for module in (model, posterior)
        for name, p in module.named_parameters()
        if p.ndim == 2
    }
    up = [(200, 64), (200, 200), (200, 200), (100, 100), (100, 100), (100, 100)]
    down = [(100, 50), (100, 100), (200, 100), (200, 100), (200, 200), (64, 200)]
    assert sorted(weights.values()) == sorted(up + down)
    # The data see the first layer alone, the prior begins at the second.
    above = z.clone()
    above[:, 100:] += 1
    likelihoods = [model.log_likelihood(x, code) for code in (z, above)]
    assert torch.equal(*likelihoods)
    assert not torch.equal(*(model.prior().log_prob(code) for code in (z, above)))
    variance = np.repeat([1.0, 0.0, 1.0, 0.0], [40, 60, 7, 43])
    assert iwae_table.active(variance, 2) == [40, 7]
    assert iwae_table.active(variance[100:], 1) == [7]


def test_the_schedule_of_importance_weighting_is_the_papers():
    factor, passes = iwae_table.schedule(8), sum(3**i for i in range(8))
    assert passes == 3280
    per_pass = [factor(done / passes) for done in range(passes)]
    expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert per_pass == pytest.approx(expected)


def gradients(variances):
    """Results of the comparison with these variances of phi, and biases of one standard error."""

    def entry(name, variance, bias=1.0):
        worth = {"variance": variance, "bias": bias, "bias_error": 1.0}
        return {"name": name, "unbiased": True, "theta": worth, "phi": worth, "cost": 1.0}

    ways = {
        way: {"estimators": [entry(name, value) for name, value in variances.items()]}
        for way in estimators.WAYS
    }
    return {moment: curve((1, 1.0)) | {"gradients": ways} for moment in ("late", "early")}


def test_the_orders_of_variances_are_told_both_ways():
    names = (estimators.B, estimators.PATH, estimators.DOUBLY, estimators.A, estimators.IWAE)
    values = (1.0, 1.0, 1.0, 2.0, 2.0)
    more = {estimators.LEAVE: 30.0, estimators.SCORE: 40.0}
    rising = gradients(dict(zip(names, values, strict=True)) | more)
    assert {e.holds for e in estimators.judge(rising)} == {True}
    falling = gradients(
        dict(zip(names, values[::-1], strict=True)) | dict(zip(more, (20.0, 10.0), strict=True))
    )
    assert [e.holds for e in estimators.judge(falling)] == [False] * len(estimators.ORDERS) + [True]
    falling["late"]["gradients"]["iwae, K = 10"]["estimators"][0]["phi"]["bias"] = 6.0
    assert estimators.judge(falling)[-1].holds is False


def test_the_ladder_of_amortization_is_told_both_ways():
    def result(encoder, best, log_p, refined):
        means = {"encoder": encoder, "best": best, "log_p": log_p}
        means |= {"approximation": log_p - best, "amortization": best - encoder}
        means |= {"inference": log_p - encoder}
        test = {name: {"mean": value, "standard_error": 0.1} for name, value in means.items()}
        steps = {str(n): refined for n in amortization.STEPS}
        return {"gaps": {"test": test}, "refined": steps}

    easy, hard = result(-100, -99, -97, -99.5), result(-240, -235, -233, -236)
    right = amortization.judge({"mnist": easy, "fashion-mnist": hard})
    assert [e.holds for e in right] == [True, True, True]
    wrong = amortization.judge(
        {"mnist": hard, "fashion-mnist": easy | {"refined": hard["refined"]}}
    )
    assert [e.holds for e in wrong] == [True, False, False]
