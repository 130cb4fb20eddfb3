"""What `VAE` takes: missing cells, tables of text, new rows that differ; what it refuses, and how.

A refusal is a ValueError or TypeError of one sentence.
"""

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from aevb import VAE
from aevb.data import open_source
from aevb.errors import TrainingError, UsageError

IRIS = load_iris().data
SMALL = {"hidden": (8,), "epochs": 5}


def refusal(function, *arguments, **named):
    """The sentence of a refusal."""
    with pytest.raises((ValueError, TypeError)) as caught:
        function(*arguments, **named)
    return str(caught.value)


@pytest.fixture(scope="module")
def fitted():
    return VAE(**SMALL).fit(IRIS)


# -- missing cells --------------------------------------------------------------------------------

HOLED = IRIS.copy()
HOLED[[4, 4, 90], [1, 3, 2]] = np.nan


@pytest.fixture(scope="module")
def tolerant():
    return VAE(**SMALL, allow_nan=True).fit(HOLED)


def test_missing_cells_are_refused_with_their_place(fitted):
    said = refusal(VAE(**SMALL).fit, HOLED)
    assert said.startswith("X, row 5, column 2: found nan (3 such cells in all)")
    assert "allow_nan=True" in said
    # what was fitted without them cannot be told to allow them
    for vae in (fitted, VAE(**SMALL, allow_nan=True).fit(IRIS)):
        for x in (HOLED, open_source(HOLED, allow_nan=True)):
            assert refusal(vae.transform, x) == (
                "X, row 5, column 2: found a missing cell (3 such cells in all), and the model was "
                "fitted on rows without NaN: fill them by impute first"
            )
    masked = np.ma.masked_where(np.isnan(HOLED), IRIS)
    assert refusal(VAE(**SMALL).fit, masked).startswith("X, row 5, column 2: found a missing cell")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_missing_cells_of_frames_are_refused_with_their_number(library):
    frames = pytest.importorskip(library)
    said = refusal(VAE(**SMALL).fit, frames.DataFrame(dict(zip("abcd", HOLED.T, strict=True))))
    assert said.startswith("X, row 5, column 2: found ")
    assert "(3 such cells in all)" in said
    assert "allow_nan=True" in said


@pytest.mark.parametrize("x", [HOLED, IRIS[:, :3], IRIS * 1e60])
def test_a_mistake_in_rows_held_out_is_not_looked_for_in_the_others(x):
    said = refusal(VAE(**SMALL).fit, IRIS, X_val=x)
    assert said == refusal(VAE(**SMALL).fit(IRIS).transform, x).replace("X", "X_val", 1)


def test_missing_cells_may_be_learned_from(tolerant):
    assert tolerant.transform(HOLED).shape == (150, 2)
    assert np.isfinite(tolerant.score_samples(HOLED)).all()
    # a cell that is not there says nothing: its row's density is that of the other cells
    empty = tolerant.score_samples(np.full((1, 4), np.nan))
    assert empty[0] == pytest.approx(0, abs=0.5)
    assert tolerant.transform(IRIS).shape == (150, 2)


@pytest.mark.parametrize("method", ["importance", "hmc"])
def test_filling_leaves_what_was_observed(fitted, tolerant, method):
    x = HOLED / 3  # not representable in 32 bits
    x[7] = np.nan
    for vae in (fitted, tolerant, VAE(**SMALL).fit(IRIS / 3)):
        got = vae.impute(x, method=method, samples=10)
        assert np.isfinite(got).all()
        assert (got[~np.isnan(x)] == x[~np.isnan(x)]).all()
    assert np.isnan(x).sum() == 7
    said = refusal(fitted.impute, x, method="mean")
    assert "hmc or importance" in said


def test_filling_beats_the_mean_of_the_column():
    x = np.random.default_rng(0).permutation(IRIS)
    holes = np.random.default_rng(1).random(x.shape) < 0.2
    x_holes = np.where(holes, np.nan, x)
    vae = VAE(hidden=(30,), epochs=150, lr=0.01, allow_nan=True).fit(x_holes)
    means = np.broadcast_to(np.nanmean(x_holes, 0), x.shape)
    ours = np.abs(vae.impute(x_holes) - x)[holes].mean()
    assert ours < 0.5 * np.abs(means - x)[holes].mean()


def test_free_parameters_can_be_found_for_rows_with_holes(quick_refits):
    vae = VAE(**SMALL, posterior="per-datum").fit(IRIS)
    got = vae.impute(HOLED, samples=5)
    assert np.isfinite(got).all()


BYTES = np.arange(0, 240, 4, np.uint8).reshape(20, 3)


@pytest.mark.parametrize(
    ("x", "twin"),
    [
        (np.ma.masked_array(BYTES), BYTES),
        (np.ma.masked_array(np.nan_to_num(HOLED, nan=-1e9), np.isnan(HOLED)), HOLED),
        (
            np.ma.masked_array(np.where(IRIS > 7, np.inf, IRIS), IRIS > 7),
            np.where(IRIS > 7, np.nan, IRIS),
        ),
        (np.ma.masked_array(IRIS.astype(object), np.isnan(HOLED)), HOLED),
        (torch.tensor(IRIS / 3, requires_grad=True), IRIS / 3),
        (torch.tensor(IRIS).bfloat16(), torch.tensor(IRIS).bfloat16().float().numpy()),
    ],
    ids=["bytes", "holes", "infinity", "objects", "gradient", "bfloat16"],
)
def test_masked_arrays_and_tensors_are_the_arrays_that_they_stand_for(x, twin):
    vae, like = (VAE(**SMALL, allow_nan=True).fit(rows) for rows in (x, twin))
    assert vae.likelihood_ == like.likelihood_
    for name in ("transform", "impute", "reconstruct"):
        np.testing.assert_array_equal(getattr(vae, name)(x), getattr(like, name)(twin))
    np.testing.assert_array_equal(vae.interpolate(x[0], x[1]), like.interpolate(twin[0], twin[1]))


# -- tables ---------------------------------------------------------------------------------------


def mixed(library, n=60):
    source = np.random.default_rng(0)
    columns = {
        "length": source.normal(5, 2, n),
        "color": source.choice(["red", "green", "blue"], n),
        "flag": source.integers(0, 2, n),
        "visits": source.poisson(3, n) * source.poisson(2, n),
    }
    return pytest.importorskip(library).DataFrame({k: v.tolist() for k, v in columns.items()})


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_of_several_kinds(library):
    table = mixed(library)
    vae = VAE(**SMALL).fit(table)
    assert vae.likelihood_ == "mixed"
    assert vae.feature_names_in_.tolist() == ["length", "color", "flag", "visits"]
    assert [column.kind for column in vae.columns_] == ["real", "category", "binary", "count"]
    assert vae.transform(table).shape == (60, 2)
    drawn = vae.sample(50)
    assert set(drawn[:, 1]) <= {0.0, 1.0, 2.0}
    assert set(drawn[:, 2]) <= {0.0, 1.0}
    assert (drawn[:, 3] == np.floor(drawn[:, 3])).all()
    # a level is itself whatever the other rows are
    assert np.allclose(vae.transform(table[:1]), vae.transform(table)[:1], atol=1e-12)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_new_tables_are_held_to_the_fitted_columns(library):
    frames = pytest.importorskip(library)
    table = mixed(library)
    vae = VAE(**SMALL).fit(table)
    columns = {name: table[name].to_list() for name in table.columns}

    def said_of(changed):
        return refusal(vae.transform, frames.DataFrame(changed))

    violet = columns | {"color": ["red", "violet", *columns["color"][2:]]}
    assert "row 2, column 2 ('color'): expected one of 'blue', 'green', 'red'" in said_of(violet)
    assert "found 'violet'" in said_of(violet)
    without = {name: cells for name, cells in columns.items() if name != "flag"}
    assert "found missing 'flag'" in said_of(without)
    assert "found unseen 'weight'" in said_of(columns | {"weight": columns["length"]})
    turned = dict(reversed(columns.items()))
    assert "found 'visits' in place of 'length' as column 1" in said_of(turned)
    retyped = columns | {"color": [1.0] * 60}
    assert "expected one of 'blue', 'green', 'red'" in said_of(retyped)
    textual = columns | {"length": columns["color"]}
    assert "column 1 ('length'): expected a number" in said_of(textual)
    for changed in (violet, without, turned, retyped, textual):
        assert "\n" not in said_of(changed)


def test_a_file_is_what_its_frame_is(tmp_path):
    table = mixed("pandas")
    table.loc[3, "length"] = np.nan
    file = tmp_path / "table.csv"
    table.to_csv(file, index=False)
    source = open_source(file)
    from_file = VAE(**SMALL, allow_nan=True).fit(source)
    from_frame = VAE(**SMALL, allow_nan=True).fit(table)
    assert from_file.columns_ == from_frame.columns_
    assert from_file.feature_names_in_.tolist() == list(table.columns)
    assert from_file.n_features_in_ == 4
    for rows in (source, table):
        codes = [vae.transform(rows) for vae in (from_file, from_frame)]
        np.testing.assert_array_equal(*codes)
    said = refusal(VAE(**SMALL).fit, source)
    assert said.startswith("X, row 4, column 1: found a missing cell (1 such")
    violet = table.assign(color=["violet", *table["color"][1:]])
    violet.to_csv(tmp_path / "violet.csv", index=False)
    said = refusal(from_file.transform, open_source(tmp_path / "violet.csv"))
    assert "violet.csv, row 1, column 2 ('color'): expected one of 'blue', 'green', 'red'" in said


def test_rows_of_frames_are_ends_of_a_way():
    frames = pytest.importorskip("pandas")
    table = frames.DataFrame(IRIS, columns=["a", "b", "c", "d"])
    vae = VAE(**SMALL).fit(table)
    ends = vae.reconstruct(table.iloc[[0, 9]])
    for first, last in ((table.iloc[0], table.iloc[9]), (table.iloc[:1], table.iloc[9:10])):
        assert np.allclose(vae.interpolate(first, last, 3)[[0, 2]], ends)
        own = [vae.transform(table.iloc[:1])[0, 0]]
        assert np.allclose(vae.traverse(0, own, start=first), ends[:1])
    assert np.allclose(vae.interpolate(open_source(table[:1]), table[9:10], 3)[[0, 2]], ends)
    assert "expected one row" in refusal(vae.interpolate, table[:2], table[9:10])


def test_arrays_after_frames_are_taken_with_a_warning():
    frames = pytest.importorskip("pandas")
    table = frames.DataFrame(IRIS, columns=["a", "b", "c", "d"])
    vae = VAE(**SMALL).fit(table)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        assert np.allclose(vae.transform(IRIS), vae.transform(table))
    assert "4 features as input" in refusal(VAE(**SMALL).fit(IRIS).transform, IRIS[:, :3])


# -- what is refused, or works --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"latent_dim": 0}, "latent_dim: input should be greater than or equal to 1, found 0"),
        ({"latent_dim": 2.5}, "latent_dim: expected a whole number, found"),
        ({"latent_dim": None}, "latent_dim: expected a whole number, found"),
        ({"hidden": "500"}, "hidden: expected whole numbers, like (200, 200), found '500'"),
        ({"hidden": 500}, "hidden: expected whole numbers, like (200, 200), found 500"),
        ({"hidden": (0,)}, "hidden: input should be greater than or equal to 1, found 0"),
        ({"activation": "step"}, "activation 'step' is not known: choose one of tanh"),
        (
            {"likelihood": "gauss"},
            "'gauss' is not known: did you mean gaussian? There are",
        ),
        ({"likelihood": None}, "likelihood: expected a name, found"),
        ({"likelihood": "mixed"}, "likelihood mixed needs a table"),
        ({"likelihood": "bernoulli"}, "expects zeros and ones, found 5.1 in row 1, column 1"),
        ({"posterior": "flat"}, "posterior 'flat' is not known"),
        ({"prior": "flat"}, "prior 'flat' is not known"),
        ({"objective": "mse"}, "objective 'mse' is not known"),
        ({"algorithm": "magic"}, "algorithm 'magic' is not known: choose one of aevb"),
        ({"samples": 0}, "samples: input should be greater"),
        ({"beta": -1.0}, "beta: input should be greater"),
        ({"beta": np.nan}, "beta: input should be a finite number"),
        ({"lr": 0.0}, "lr: input should be greater than 0"),
        ({"epochs": 0}, "epochs: input should be greater"),
        ({"batch_size": -1}, "batch_size: input should be greater"),
        ({"patience": 3}, "patience needs a validation bound"),
        ({"random_state": "x"}, "random_state must be None, a whole number from 0"),
        ({"allow_nan": "maybe"}, "allow_nan: expected true or false"),
    ],
    ids=lambda case: "-".join(map(str, case)) if isinstance(case, dict) else "",
)
def test_wrong_parameters_are_refused_by_their_names(changed, said):
    found = refusal(VAE(**{**SMALL, **changed}).fit, IRIS)
    assert said in found
    assert "--" not in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (sparse.csr_matrix(IRIS), "dense data is required"),
        (IRIS[0], "Expected 2D array, got 1D array"),
        (np.float64(3), "Expected 2D array, got scalar"),
        (np.zeros((4, 2, 2)), "dim 3"),
        (np.empty((0, 3)), "0 sample"),
        (np.empty((3, 0)), "0 feature"),
        (IRIS + 1j, "Complex data not supported"),
        (np.ma.masked_array(IRIS + 1j), "Complex data not supported"),
        (np.array([[10**400, 1], [1, 2]]), "X: expected numbers that fit 64 bits"),
        (np.array([["a"], ["b"]]), "strings"),
        (torch.empty(4, 2, device="meta"), "meta device"),
        (np.where(IRIS > 6, np.inf, IRIS), "X, row 51, column 1: found inf (70 such cells in all)"),
        (IRIS * 1e60, "finite numbers that fit 32 bits"),
    ],
    ids=[
        "sparse",
        "1-D",
        "0-D",
        "3-D",
        "no-row",
        "no-column",
        "complex",
        "masked",
        "long",
        "text",
        "meta",
        "inf",
        "1e60",
    ],
)
def test_what_is_no_table_of_numbers_is_refused(x, said):
    assert said in refusal(VAE(**SMALL).fit, x)


def test_numbers_beyond_what_can_be_squared_end_in_a_sentence():
    with pytest.raises(TrainingError, match="the objective is not finite at step 1"):
        VAE(**SMALL).fit(IRIS * 1e30)
    small = VAE(hidden=(8,), epochs=1)  # a step, whose slope is no number
    with pytest.raises(TrainingError, match="the weights are not finite at step 1"):
        small.fit((IRIS[:90] - 3) * 1e-20)
    assert "not fitted yet" in refusal(small.transform, IRIS)


@pytest.mark.parametrize(
    "x",
    [
        IRIS[:1],
        IRIS[:3],
        IRIS[:, :1],
        np.full((10, 3), 2.5),
        np.ones((10, 3)),
        np.zeros((1, 1)),
        np.hstack([IRIS, np.full((150, 1), 1e6)]),
        IRIS * 1e9 - 1e9,
        IRIS > 2,
        IRIS.astype(np.int8),
        IRIS.astype(object),
        IRIS.tolist(),
        np.asfortranarray(IRIS),
        IRIS[::-2],
        np.arange(20).reshape(10, 2) * 10**15,
    ],
    ids=[
        "a-row",
        "3-rows",
        "a-column",
        "constant",
        "ones",
        "one-cell",
        "constant-column",
        "large",
        "truths",
        "int8",
        "objects",
        "lists",
        "fortran",
        "strided",
        "1e16",
    ],
)
def test_unusual_tables_of_numbers_work(x):
    vae = VAE(**SMALL).fit(x, y="is not looked at")
    assert np.isfinite(vae.transform(x)).all()
    assert np.isfinite(vae.score_samples(x, samples=5)).all()
    assert np.isfinite(vae.sample(3, mean=True)).all()


def test_heavy_tails_without_a_mean_are_shown_by_their_median():
    x = np.random.default_rng(0).standard_cauchy((200, 2))
    vae = VAE(hidden=(8,), epochs=20, lr=0.01, likelihood="student-t").fit(x)
    far = np.where(np.arange(400).reshape(200, 2) % 3, x, np.nan)
    for shown in (vae.reconstruct(x), vae.sample(20, mean=True), vae.impute(far, samples=5)):
        assert np.isfinite(shown).all()


def test_codes_in_a_frame_are_decoded(fitted):
    frames = pytest.importorskip("pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = fitted.transform(IRIS)
        shown = fitted.inverse_transform(frames.DataFrame(codes))
    assert (shown == fitted.reconstruct(IRIS)).all()
    assert (shown == fitted.inverse_transform(torch.tensor(codes, requires_grad=True))).all()


def test_wrong_codes_and_counts_are_refused(fitted):
    assert "Z must have 2 columns" in refusal(fitted.inverse_transform, np.zeros((3, 4)))
    assert "Z contains NaN" in refusal(fitted.inverse_transform, np.full((3, 2), np.nan)).replace(
        "Input Z", "Z"
    )
    assert "found masked cells" in refusal(fitted.inverse_transform, np.ma.masked_less(IRIS, 1))
    assert "at least 1, found 0" in refusal(fitted.sample, 0)
    assert "at least 1, found 0" in refusal(fitted.encode, IRIS, samples=0)
    assert "at least 1, found 0" in refusal(fitted.score_samples, IRIS, samples=0)
    assert "dimensions 0 to 1" in refusal(fitted.traverse, 2)
    assert "steps must be at least 2" in refusal(fitted.interpolate, IRIS[0], IRIS[1], 1)


def test_what_is_not_fitted_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("transform", "score_samples", "reconstruct", "impute", "denoise", "save"):
            assert "not fitted yet" in refusal(getattr(VAE(), name), IRIS)
        assert "not fitted yet" in refusal(VAE().sample)
        failed = VAE(**SMALL).fit(IRIS)
        for wrong, x in (({"latent_dim": 0}, IRIS), ({"epochs": 2}, IRIS * 1e30)):
            with pytest.raises((UsageError, TrainingError)):
                failed.set_params(**wrong).fit(x)
            assert "not fitted yet" in refusal(failed.transform, IRIS)
            assert "not fitted" in failed._repr_html_()
            failed.set_params(latent_dim=2)
        assert failed.fit(IRIS).transform(IRIS).shape == (150, 2)
        assert "not fitted yet" in refusal(VAE().inverse_transform, np.zeros((2, 2)))


def test_a_fit_that_fails_leaves_nothing_fitted():
    vae = VAE(**SMALL).fit(IRIS)
    assert "likelihood" in str(refusal(vae.set_params(likelihood="bernoulli").fit, IRIS))
    with pytest.raises(NotFittedError):
        vae.transform(IRIS)
    refusal(VAE(**SMALL, objective="none").fit, IRIS)


def test_a_bad_row_is_named_by_its_number_and_changes_nothing():
    x = (np.random.default_rng(0).random((1500, 6)) < 0.5).astype(float)
    vae = VAE(hidden=(4,), epochs=1).fit(x)
    before, bad = vae.transform(x[:5]), x.copy()
    bad[1200, 3] = 0.5
    for call in (vae.partial_fit, vae.score_samples, vae.impute):
        assert "row 1201, column 4" in refusal(call, bad)
    assert (vae.transform(x[:5]) == before).all()


def test_a_column_that_rounding_would_blur_is_refused(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    x = np.c_[IRIS[:60, 0], 1.7e9 + np.arange(60.0)]
    frame = pandas.DataFrame(x, columns=["a", "t"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    assert "column 2: values near 1.7" in refusal(VAE(**SMALL).fit, x)
    assert "column 2 ('t'): values near 1.7" in refusal(VAE(**SMALL).fit, frame)
    for file in ("x.csv", "x.parquet"):
        assert "column 2 ('t'): values near 1.7" in refusal(open_source, tmp_path / file)
    # A few new rows may vary less than what a model was fitted on.
    wide = VAE(**SMALL).fit(frame.assign(t=1000 * np.arange(60.0)))
    assert wide.transform(frame.iloc[:2]).shape == (2, 2)
