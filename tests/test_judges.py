"""What is promised of everything that judges a model: each law once, over a table of them all."""

from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
from helpers import Memory, binary_rows, small_pair

from aevb import codes, imputation
from aevb.data import Rows
from aevb.errors import DataError, UsageError
from aevb.evaluation import (
    Annealing,
    annealed,
    batches,
    bidirectional,
    calibrate,
    check,
    compare_gradients,
    diagnose,
    evidence,
    exact,
    gaps,
    multiple_importance,
    reciprocal,
    refit,
)
from aevb.evaluation.information import information
from aevb.posterior import FromPrior

ROOM = import_module("aevb.evaluation.exact")
pytestmark = pytest.mark.usefixtures("quick_refits")  # no law asks how good the best of a family is
SHORT = Annealing(4, 2)


def numbers(*found):
    """Everything that some certificates say of each row."""
    said = [
        (c.values, c.errors) if c.pareto_k is None else (c.values, c.errors, c.pareto_k)
        for c in found
    ]
    return np.concatenate(said)


def halves(model, encoder):
    return {"encoder": (encoder, 0.5), "prior": (FromPrior(model.prior), 0.5)}


def parts(model, posterior, rows, samples=20, **how):
    test = gaps(model, posterior, rows, rows, samples=samples, **how).test
    return np.stack([*test.values.values(), *test.errors.values(), test.gains])


def filled(model, posterior, rows, method, samples=20, **how):
    x = rows.all().double().numpy()
    x[:, 2] = np.nan
    holed = Rows(x, np.arange(len(x)), (6,))
    return imputation.impute(model, posterior, holed, method=method, samples=samples, **how)


def slopes(*given, samples=1, **how):
    found = compare_gradients(*given, samples=samples, replicates=20, **how)
    return np.array([e.phi.variance for e in found.estimators])


def shared(*given, **how):
    found = information(*given, **how)
    return np.array([found.lower, found.upper])


def chains(*given, samples=40, **how):
    found = reciprocal(*given, samples, **how)
    told = [v for v in found.details.values() if isinstance(v, int | float)]
    return np.vstack([numbers(found), *(np.full(len(found.values), v) for v in told)])


def importance(*given, samples=30, **how):
    found = evidence(*given, samples, **how)
    return numbers(found.importance, found.elbo)


EXACT = {"exact": lambda *given, **how: numbers(exact(*given, **how))}
SAMPLED_AND_KEPT = {
    "importance": importance,
    "mixture": lambda m, q, x, samples=30, **how: numbers(
        multiple_importance(m, halves(m, q), x, samples, **how)
    ),
    "ais": lambda m, q, x, samples=4, **how: numbers(annealed(m, q, x, samples, SHORT, **how)),
    "bidirectional": lambda m, q, x, samples=4, **how: numbers(
        *bidirectional(m, q, x, np.full((len(x), 2), 0.3), samples, SHORT, **how)
    ),
    "hmc": chains,
}
KEPT = SAMPLED_AND_KEPT | EXACT
CHUNKED = SAMPLED_AND_KEPT | {
    "gaps": parts,
    "refit": lambda m, q, x: refit(m, q, x, steps=12).conditional.network.table.detach().numpy().T,
}
"""`exact` has rooms of its own: see test_exact."""
SAMPLED = SAMPLED_AND_KEPT | {
    "gaps": parts,
    "impute, importance": partial(filled, method="importance"),
    "impute, hmc": partial(filled, method="hmc"),
    "denoise": lambda *given, samples=20, **how: imputation.denoise(*given, samples=samples, **how),
    "samples": lambda *given, samples=3, **how: codes.encode_samples(
        *given, samples=samples, **how
    ),
    "gradients": slopes,
}
SEEDED = SAMPLED | {
    "calibrate": lambda m, q, x, **how: calibrate(m, q, 20, 9, **how).ranks,
    "information": shared,
}
OF_CODES = {
    "encode": codes.encode,
    "diagnose": lambda *given: diagnose(*given).kl_by_dimension,
    "check": lambda *given: str(check(*given)),
}
JUDGES = KEPT | CHUNKED | SEEDED | OF_CODES


def over(table):
    return pytest.mark.parametrize("judge", table.values(), ids=table.keys())


@over(JUDGES)
def test_everything_is_left_as_it_was(judge):
    model, posterior = small_pair(dtype=torch.float32)
    model.train()
    posterior.eval()
    parameters = [*model.parameters(), *posterior.parameters()]
    for p in parameters:
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in parameters]
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    judge(model, posterior, binary_rows(7))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == other).all()  # noqa: NPY002
    assert all(m.training for m in model.modules())
    assert not any(m.training for m in posterior.modules())
    after = [*model.parameters(), *posterior.parameters()]
    assert all(p is q for p, q in zip(parameters, after, strict=True))
    assert all(p.dtype == torch.float32 for p in parameters)
    assert all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in parameters)


@over(CHUNKED)
def test_no_number_depends_on_the_chunks(judge, monkeypatch):
    results = []
    for cells in (1, 150, 10**9):
        monkeypatch.setattr(batches, "CELLS_AT_ONCE", {"cpu": cells})
        results.append(judge(*small_pair(), binary_rows(5)))
    for other in results[1:]:
        assert np.allclose(other, results[0], rtol=0, atol=1e-10, equal_nan=True)


@over(KEPT)
def test_what_was_stopped_goes_on_to_the_same_numbers(judge, monkeypatch):
    monkeypatch.setattr(batches, "CELLS_AT_ONCE", {"cpu": 1})  # a row at a time
    monkeypatch.setattr(ROOM, "AT_ONCE", {2: 1})
    pair, rows, place, told = small_pair(), binary_rows(5), Memory(), []

    def stop(done, total):
        told.append((done, total))
        if told == [(1, 5), (2, 5), (3, 5)]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(*pair, rows, kept=place, progress=stop)
    assert place.table[-1].tolist() == [1, 1, 1, 0, 0]
    again = judge(*pair, rows, kept=place, progress=stop)
    assert told[-1] == (5, 5)
    assert np.array_equal(again, judge(*pair, rows), equal_nan=True)
    place.table[:-1] = -77.0  # what is kept is not made again
    assert (judge(*pair, rows, kept=place)[0] == -77.0).all()


@over(SEEDED)
def test_the_seed_decides(judge):
    pair, rows = small_pair(), binary_rows(4)
    one = judge(*pair, rows, seed=3)
    torch.rand(5)
    assert np.array_equal(judge(*pair, rows, seed=3), one, equal_nan=True)
    assert not np.array_equal(judge(*pair, rows, seed=4), one, equal_nan=True)


ONLY_ENCODED = ("calibrate", "check", "diagnose", "encode", "information", "samples")


@over({k: v for k, v in JUDGES.items() if k not in ONLY_ENCODED})
def test_a_row_outside_the_domain_is_named_by_its_number(judge, monkeypatch):
    monkeypatch.setattr(batches, "CELLS_AT_ONCE", {"cpu": 1})  # a row at a time
    x = binary_rows(4).all().double().numpy()
    x[2, 4] = 0.5
    with pytest.raises(DataError, match=r"found 0\.5 in row 3, column 5"):
        judge(*small_pair(), Rows(x, np.arange(4), (6,)))


@over(SAMPLED)
def test_no_samples_are_refused(judge):
    with pytest.raises(UsageError, match=r"found 0|^0 samples"):
        judge(*small_pair(), binary_rows(2), samples=0)


OF_ROWS = {k: v for k, v in JUDGES.items() if k != "calibrate" and "impute" not in k}


@over(OF_ROWS)
def test_no_rows_are_refused(judge):
    with pytest.raises(UsageError, match=r"at least \d.*, found (none|0)"):
        judge(*small_pair(), binary_rows(2).pick(np.arange(0)))


@over({k: v for k, v in OF_ROWS.items() if k != "check"})
def test_an_array_is_refused_for_rows(judge):
    with pytest.raises(UsageError, match=r"expected Rows, .*, found ndarray"):
        judge(*small_pair(), np.zeros((2, 6)))
