"""The commands on rows, codes and pictures, for the three kinds of data: image, signal, table."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import GIF, HEADER, PNG, SMALL, WAYS, call, good, people, printed, refused, write

import aevb
from aevb import cli
from aevb.data import open_source
from aevb.plots.style import plain
from aevb.storage import RunFolder
from aevb.workflow import pictures
from aevb.workflow.material import Material
from aevb.workflow.pictures import KINDS


def read(path):
    """The header and the rows of a .csv, as texts."""
    with Path(path).open(newline="") as stream:
        header, *rows = csv.reader(stream)
    return header, rows


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A file of a table with missing cells, and a run trained on it."""
    folder = tmp_path_factory.mktemp("table")
    path = write(folder / "people.csv", people())
    good("train", path, *SMALL, "--out", folder / "run")
    return path, folder / "run"


@pytest.fixture(scope="session")
def signal(tmp_path_factory):
    """A file of sine waves, and a run trained on it."""
    folder = tmp_path_factory.mktemp("signal")
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (60, 1))
    np.save(folder / "waves.npy", np.sin(np.arange(24) / 4 + phase))
    good("train", folder / "waves.npy", *SMALL, "--out", folder / "run")
    return folder / "waves.npy", folder / "run"


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """A run trained on digits; not to be changed."""
    folder = tmp_path_factory.mktemp("image")
    good("train", "digits", "--data-limit", 100, *SMALL, "--out", folder / "run")
    return "digits", folder / "run"


@pytest.fixture(scope="session")
def python_run(tmp_path_factory):
    """A run that was fitted in Python, on data that no file holds."""
    folder = tmp_path_factory.mktemp("python") / "run"
    rows = np.random.default_rng(0).normal(size=(40, 3))
    detector = aevb.VAEDetector(hidden=(4,), epochs=2, contamination=0.2).fit(rows)
    detector.save(folder)
    np.save(folder.parent / "rows.npy", rows.astype(np.float32))
    return folder.parent / "rows.npy", folder, detector


# --- tables go out as they came in ---------------------------------------------------------------


def test_squares_of_units_that_differ_are_not_added_up(table, tmp_path):
    folder = shutil.copytree(table[1], tmp_path / "run")
    assert good("evaluate", folder, "--samples", 9)["reconstruction_error"] is None
    assert "reconstruction error" not in printed("evaluate", folder, "--samples", 9)
    assert "reconstruction error" not in (folder / "README.md").read_text()


def test_imputing_a_table_gives_a_filled_copy_of_its_file(table, tmp_path):
    path, folder = table
    told = good("impute", folder, path, "--samples", 9, "--out", tmp_path / "filled.csv")
    (header, before), (again, after) = read(path), read(tmp_path / "filled.csv")
    assert again == header == HEADER
    holes = [(r, c) for r, row in enumerate(before) for c, x in enumerate(row) if x in ("", "NA")]
    out = {"out": str(tmp_path / "filled.csv"), "shape": [80, 5]}
    assert told == out | {"missing": len(holes)}
    assert len(holes) > 10
    for r, row in enumerate(before):
        for c, cell in enumerate(row):
            if (r, c) not in holes:
                assert after[r][c] == cell
            elif HEADER[c] in WAYS:
                assert after[r][c] in WAYS[HEADER[c]]
            elif HEADER[c] == "$visits_1$":
                assert after[r][c].isdecimal()
            else:
                assert np.isfinite(float(after[r][c]))
    assert good("impute", folder, tmp_path / "filled.csv")["missing"] == 0
    assert np.array_equal(
        np.load(folder / "imputed.npy"),
        open_source(tmp_path / "filled.csv").values,
    )


@pytest.mark.parametrize("method", ["importance", "hmc"])
def test_cells_of_an_array_are_filled_where_they_are_nan_alone(signal, tmp_path, method):
    path, folder = signal
    rows = np.load(path)
    rows[:5, 6:12] = np.nan
    np.save(tmp_path / "holes.npy", rows)
    options = ["--method", method, "--samples", 20, "--out", tmp_path / "filled.npy"]
    assert good("impute", folder, tmp_path / "holes.npy", *options)["missing"] == 30
    filled = np.load(tmp_path / "filled.npy")
    seen = ~np.isnan(rows)
    assert np.array_equal(filled[seen], rows[seen])
    assert np.isfinite(filled).all()
    good("impute", folder, tmp_path / "holes.npy", "--out", tmp_path / "filled.png")
    options[-1] = tmp_path / "filled.csv"
    good("impute", folder, tmp_path / "holes.npy", *options)
    assert np.allclose(np.loadtxt(tmp_path / "filled.csv", delimiter=","), filled, rtol=1e-8)


def test_holes_of_binarized_pixels_are_filled_with_probabilities(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "grey.npy", rng.random((40, 6)))
    options = ["--binarize", "threshold", *SMALL, "--out", tmp_path / "run"]
    good("train", tmp_path / "grey.npy", *options)
    rows = rng.random((4, 6))
    rows[:, 2] = np.nan
    np.save(tmp_path / "holes.npy", rows)
    good("impute", tmp_path / "run", tmp_path / "holes.npy", "--out", tmp_path / "f.npy")
    filled = np.load(tmp_path / "f.npy")
    assert np.array_equal(np.delete(filled, 2, 1), np.delete(rows, 2, 1))
    assert ((filled[:, 2] > 0) & (filled[:, 2] < 1)).all()


def test_rows_of_free_parameters_are_imputed_too(quick_refits, tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 3))
    np.save(tmp_path / "rows.npy", rows)
    options = ["--posterior", "per-datum", *SMALL, "--out", tmp_path / "run"]
    good("train", tmp_path / "rows.npy", *options)
    rows[0, 1] = np.nan
    np.save(tmp_path / "holes.npy", rows)
    good("impute", tmp_path / "run", tmp_path / "holes.npy", "--out", tmp_path / "f.npy")
    assert np.isfinite(np.load(tmp_path / "f.npy")).all()


OUTPUTS = {
    "sample": ["sample", "RUN", "--n", "9"],
    "reconstruct": ["reconstruct", "RUN", "DATA", "--data-limit", "9"],
    "denoise": ["denoise", "RUN", "DATA", "--data-limit", "9", "--samples", "5"],
    "interpolate": ["interpolate", "RUN", "DATA", "--steps", "9", "--spherical"],
    "traverse": ["traverse", "RUN", "DATA", "--dimension", "2", "--from", "3"],
    "traverse all": ["traverse", "RUN"],
    "decode": ["decode", "RUN", "CODES"],
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("kind", ["table", "signal", "image"])
def test_rows_go_out_as_numbers_and_pictures(request, kind, name, tmp_path):
    data, folder = request.getfixturevalue(kind)
    np.save(tmp_path / "codes.npy", np.zeros((9, 2)))
    known = {"RUN": folder, "DATA": data, "CODES": tmp_path / "codes.npy"}
    command = [known.get(word, word) for word in OUTPUTS[name]]
    width = {"table": 5, "signal": 24, "image": 64}[kind]
    count = {"traverse": 13, "traverse all": 26}.get(name, 9)
    for suffix in ("npy", "csv", "png"):
        target = tmp_path / f"out.{suffix}"
        assert good(*command, "--out", target) == {"out": str(target), "shape": [count, width]}
    array = np.load(tmp_path / "out.npy")
    assert array.shape == (count, width)
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)
    if kind != "table":
        assert np.allclose(np.loadtxt(tmp_path / "out.csv", delimiter=","), array, rtol=1e-8)
        return
    header, rows = read(tmp_path / "out.csv")
    assert header == HEADER
    assert np.allclose([[float(x) for x in row[:4]] for row in rows], array[:, :4], rtol=1e-8)
    assert all(0 < float(row[3]) < 1 for row in rows), "the mean of two texts is a probability"
    assert [sorted(WAYS["city"]).index(row[4]) for row in rows] == array[:, 4].tolist()


def test_draws_are_whole_numbers_and_texts(table, tmp_path):
    _, folder = table
    good("sample", folder, "--draw", "--n", 30, "--out", tmp_path / "draws.csv")
    header, rows = read(tmp_path / "draws.csv")
    assert header == HEADER
    assert all(row[2].isdecimal() for row in rows)
    assert {row[3] for row in rows} == WAYS["smoker"]
    assert {row[4] for row in rows} <= WAYS["city"]
    good("encode", folder, tmp_path / "draws.csv", "--out", tmp_path / "codes.npy")


# --- codes ---------------------------------------------------------------------------------------


def test_the_latent_points_of_samples_decode_to_them(image, tmp_path):
    _, folder = image
    options = ["--n", 5, "--latent", tmp_path / "z.csv", "--out", tmp_path / "x.npy"]
    told = good("sample", folder, *options)
    assert told["latent"] == str(tmp_path / "z.csv")
    good("decode", folder, tmp_path / "z.csv", "--out", tmp_path / "again.npy")
    assert np.allclose(np.load(tmp_path / "again.npy"), np.load(tmp_path / "x.npy"), atol=1e-6)


def test_draws_of_codes_have_three_axes_and_their_mean_is_the_code(image, tmp_path):
    _, folder = image
    told = good("encode", folder, "--samples", 400, "--out", tmp_path / "z.npy")
    assert told["shape"] == [400, 180, 2]
    draws = np.load(tmp_path / "z.npy")
    good("encode", folder, "--out", tmp_path / "mean.npy")
    error = draws.std(0) / np.sqrt(400)
    assert (np.abs(draws.mean(0) - np.load(tmp_path / "mean.npy")) < 5 * error).all()
    said = refused(2, "encode", folder, "--samples", 3, "--out", tmp_path / "z.csv")
    assert ".npy" in said


def test_a_walk_along_a_dimension_leaves_the_code_of_its_row(image, tmp_path):
    """At the row's own value of the dimension, the walk passes its reconstruction."""
    _, folder = image
    good("encode", folder, "--out", tmp_path / "codes.npy")
    code = np.load(tmp_path / "codes.npy")[6]
    walk = np.tile(code, (13, 1))
    walk[:, 1] = np.linspace(-3, 3, 13)
    np.save(tmp_path / "walk.npy", walk)
    good("decode", folder, tmp_path / "walk.npy", "--out", tmp_path / "expected.npy")
    good("traverse", folder, "--dimension", 2, "--from", 7, "--out", tmp_path / "walked.npy")
    expected, walked = np.load(tmp_path / "expected.npy"), np.load(tmp_path / "walked.npy")
    assert np.allclose(walked, expected, atol=1e-5)


def test_an_arc_ends_where_the_line_ends_and_differs_between(image, tmp_path):
    _, folder = image
    ways = []
    for more in ([], ["--spherical"]):
        good("interpolate", folder, "--to", 9, "--out", tmp_path / "way.npy", *more)
        ways.append(np.load(tmp_path / "way.npy"))
    assert np.allclose(ways[0][[0, -1]], ways[1][[0, -1]], atol=1e-6)
    assert not np.allclose(ways[0], ways[1], atol=1e-4)


# --- scores --------------------------------------------------------------------------------------


def test_a_row_has_its_score_in_any_company(table, tmp_path):
    path, folder = table
    cells = people()
    write(tmp_path / "some.csv", [*cells[30:33], cells[3]])
    all_, some = (
        good("score", folder, data, "--samples", 20, "--out", tmp_path / "s.npy")
        and np.load(tmp_path / "s.npy")
        for data in (path, tmp_path / "some.csv")
    )
    assert np.array_equal(some[:, 1], all_[[30, 31, 32, 3], 1])
    assert some[:, 0].tolist() == [1, 2, 3, 4]


def test_scores_tell_improbable_rows(signal, tmp_path):
    path, folder = signal
    rows = np.load(path)[:20]
    rows[4] *= -3.0
    rows[7] += 1e30  # so far away that the numbers of this small encoder overflow
    np.save(tmp_path / "rows.npy", rows)
    target = tmp_path / "scores.csv"
    told = good("score", folder, tmp_path / "rows.npy", "--samples", 20, "--out", target)
    header, lines = read(target)
    assert header == ["row", "log_p", "below"]
    scores = np.array([float(line[1]) for line in lines])
    assert [low["row"] for low in told["lowest"][:2]] == [8, 5]
    assert [lines[k][2] for k in (4, 7)] == ["1", "1"]
    assert told["below"] == sum(line[2] == "1" for line in lines)
    assert told["below"] == (scores < told["threshold"]).sum()
    assert np.isneginf(scores[7])
    assert told["mean"] is told["lowest"][0]["log_p"] is None
    _, out, _ = call("score", folder, tmp_path / "rows.npy", "--samples", 20, "--out", target)
    assert "lowest: row 8 (-inf), row 5 (" in out
    _, out, _ = call("score", folder, "--out", target)
    assert "lowest: test row " in out


def test_as_many_training_rows_lie_below_as_were_asked_for(signal, tmp_path):
    _, folder = signal
    train = RunFolder(folder).dataset().train
    np.save(tmp_path / "train.npy", np.asarray(train.values)[train.index])
    told = good("score", folder, tmp_path / "train.npy", "--contamination", 0.25)
    assert told["below"] == round(0.25 * len(train))


def test_a_detector_keeps_its_threshold(python_run):
    rows, folder, detector = python_run
    told = good("score", folder, rows)
    assert told["threshold"] == detector.offset_
    assert told["contamination"] == 0.2
    assert told["below"] == (detector.predict(np.load(rows)) == -1).sum()


# --- pictures ------------------------------------------------------------------------------------

PICTURES = {
    "image": [kind for kind in KINDS if kind != "pairs"],
    "signal": [kind for kind in KINDS if kind != "pairs"],
    "table": [kind for kind in KINDS if kind not in ("samples", "training")],
}


@pytest.mark.parametrize("kind", PICTURES)
def test_all_pictures_that_make_sense_are_drawn_in_the_run(request, kind, tmp_path):
    place = shutil.copytree(request.getfixturevalue(kind)[1], tmp_path / "run")
    suffixes = [(name, ".gif" if name == "cloud" else ".png") for name in PICTURES[kind]]
    paths = [place / "figures" / (name + suffix) for name, suffix in suffixes]
    assert good("plot", place)["figures"] == [str(path) for path in paths]
    for path in paths:
        assert path.read_bytes().startswith(GIF if path.suffix == ".gif" else PNG)


@pytest.mark.parametrize(("kind", "name"), [("curve", "a.png"), ("cloud", "a.gif")])
def test_one_picture_is_drawn_where_it_is_asked_for(image, tmp_path, kind, name):
    path = tmp_path / name
    assert good("plot", image[1], kind, "--out", path) == {"figures": [str(path)]}
    assert path.read_bytes().startswith(GIF if kind == "cloud" else PNG)


def test_help_names_every_picture(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["plot", "--help"])
    said = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    assert all(f"{kind}," in said or f"{kind}." in said for kind in KINDS)


def test_a_picture_of_an_unknown_name_is_answered_with_those_there_are(image):
    said = refused(2, "plot", image[1], "portrait")
    assert f"there is no picture 'portrait': choose all, {', '.join(KINDS)}" in said


def test_pictures_that_do_not_fit_are_a_sentence(image, signal, table, python_run, tmp_path):
    assert "table is drawn as pairs" in refused(2, "plot", table[1], "samples")
    assert "each an image" in refused(2, "plot", image[1], "pairs")
    assert "each a signal" in refused(2, "plot", signal[1], "pairs")
    assert ".gif" in refused(2, "plot", image[1], "cloud", "--out", tmp_path / "cloud.png")
    said = refused(2, "plot", python_run[1], "latent")
    assert "fitted in Python" in said
    assert "it has curve" in said
    drawn = good("plot", python_run[1], "--out", tmp_path)["figures"]
    kinds = [Path(path).stem for path in drawn]
    assert kinds == ["curve", "prior-predictive", "traversals"]


def test_a_likelihood_with_dependent_cells_has_no_imputation(signal, tmp_path):
    path, _ = signal
    options = ["--likelihood", "full-gaussian", *SMALL, "--out", tmp_path / "run"]
    good("train", path, *options)
    assert "not independent" in refused(2, "plot", tmp_path / "run", "imputation")
    rows = np.load(path)
    rows[0, 0] = np.nan
    np.save(tmp_path / "holes.npy", rows)
    assert "factorize" in refused(2, "impute", tmp_path / "run", tmp_path / "holes.npy")


def test_the_columns_of_a_table_are_drawn_by_their_names(table):
    material = Material(RunFolder(table[1]))
    for kind in ("pairs", "reconstructions"):
        texts = {p.get_xlabel() for p in pictures.draw(material, kind).child_axes}
        assert {plain(name) for name in HEADER} & texts


@pytest.mark.parametrize("kind", ["table", "signal"])
def test_columns_of_a_table_share_units_and_signals_keep_theirs(request, kind):
    _, folder = request.getfixturevalue(kind)
    material = Material(RunFolder(folder))
    rows = material.rows(material.data.train)
    shown = material.shown(rows)
    if kind == "signal":
        assert np.array_equal(shown, rows)
        return
    real = shown[:, :2]  # learned standardized: mean 0 and deviation 1 over what was observed
    assert np.allclose(np.nanmean(real, 0), 0, atol=1e-4)
    assert np.allclose(np.nanstd(real, 0), 1, atol=1e-3)
    assert np.nanstd(shown[:, 2:], 0).max() < 5


# --- data and options ----------------------------------------------------------------------------


def test_a_table_is_described_by_its_columns(table):
    facts = good("data", table[0])
    assert [column["name"] for column in facts["columns"]] == HEADER
    kinds = [column["kind"] for column in facts["columns"]]
    assert kinds == ["real", "real", "count", "binary", "category"]
    assert facts["columns"][4]["levels"] == sorted(WAYS["city"])
    assert (facts["kind"], facts["likelihood"]) == ("table", "mixed")
    assert facts["missing"] == sum(cell in ("", "NA") for row in people() for cell in row)
    assert "2 real, 1 count" in facts["reason"]
    _, out, _ = call("data", table[0])
    assert "Bern, New York, Oslo" in out


def test_nan_is_taken_for_a_missing_cell_where_it_is_allowed(signal, tmp_path):
    rows = np.load(signal[0])
    rows[3, 5] = np.nan
    np.save(tmp_path / "holes.npy", rows)
    assert "row 4, column 6" in refused(3, "data", tmp_path / "holes.npy")
    assert good("data", tmp_path / "holes.npy", "--allow-nan")["missing"] == 1
    train = ["train", tmp_path / "holes.npy", "--prior", "standard-normal"]
    out = ["--out", tmp_path / "run"]
    assert "row 4, column 6" in refused(3, *train, *SMALL, *out)
    code, _, err = call(*train, *[word for word in SMALL if word != "--quiet"], *out, "--allow-nan")
    assert code == 0
    assert "1 cell (0.069 %) is missing" in err
    assert "likelihood gaussian" in err
    assert RunFolder(tmp_path / "run").settings().allow_nan
    said = refused(2, "train", "digits", "--prior", "wide", "--out", tmp_path / "no")
    assert "'wide' is not known: choose one of standard-normal" in said


def test_images_of_a_folder_are_resized(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for k in range(12):
        shade = np.full((7 + k % 2, 6), 20 * k, np.uint8)
        Image.fromarray(shade).save(tmp_path / "images" / f"{k:02}.png")
    data = ["train", tmp_path / "images", *SMALL]
    assert "--resize HxW" in refused(3, *data, "--out", tmp_path / "no")
    good(*data, "--resize", "4x6", "--out", tmp_path / "run")
    assert RunFolder(tmp_path / "run").shape == (1, 4, 6)
    good("reconstruct", tmp_path / "run", tmp_path / "images")
    assert good("data", tmp_path / "images", "--resize", "5x5")["shape"] == "1x5x5"
    assert "digits is none: leave it out" in refused(2, "data", "digits", "--resize", "5x5")
    for wrong in ("28", "0x4", "axb", "2x2x2", "99999x1"):
        assert "like 28x28" in refused(2, "data", tmp_path / "images", "--resize", wrong)


# --- wrong use -----------------------------------------------------------------------------------


def test_wrong_use_is_one_sentence(table, signal, image, python_run, tmp_path):
    path, folder = table
    assert "dimensions 1 to 2" in refused(2, "traverse", folder, "--dimension", 3)
    assert "--dimension" in refused(2, "traverse", folder, "--dimension", 0)
    assert "row 99 was asked for" in refused(2, "traverse", folder, "--from", 99)
    assert "--from" in refused(2, "traverse", folder, path)
    assert "'mean' is not one of" in refused(2, "impute", folder, path, "--method", "mean")
    assert "--samples" in refused(2, "impute", folder, path, "--samples", 0)
    assert ".npy, .csv" in refused(2, "impute", folder, path, "--out", tmp_path / "x.txt")
    for share in ("0", "0.6", "nan"):
        assert "--contamination" in refused(2, "score", folder, "--contamination", share)
    assert ".csv or .npy" in refused(2, "score", folder, "--out", tmp_path / "s.png")
    assert "missing cells" in refused(3, "decode", folder, path)
    (tmp_path / "text.csv").write_text("a,b\nx,1\ny,2\n")
    assert "columns of text" in refused(3, "decode", folder, tmp_path / "text.csv")
    assert "rows of 24 numbers" in refused(3, "impute", image[1], signal[0])
    for command in (["evaluate"], ["encode"], ["score"], ["denoise"], ["interpolate"]):
        assert "fitted in Python" in refused(3, *command, python_run[1])
    write(tmp_path / "other.csv", people())
    text = (tmp_path / "other.csv").read_text().replace("smoker", "smokes")
    (tmp_path / "other.csv").write_text(text)
    assert "'smokes'" in refused(3, "score", folder, tmp_path / "other.csv")


# --- export --------------------------------------------------------------------------------------


def test_a_run_is_exported_for_the_hub_and_read_back(table, tmp_path):
    told = good("export", table[1], tmp_path / "hub", "--to", "hub", "--license", "mit")
    names = ["README.md", "config.json", "model.safetensors"]
    assert told["files"] == [str(tmp_path / "hub" / name) for name in names]
    assert 'license: "mit"' in (tmp_path / "hub" / "README.md").read_text()
    aevb.load(tmp_path / "hub")


def test_exports_that_cannot_be_are_a_sentence(image, tmp_path):
    options = [tmp_path / "out", "--to"]
    assert "'gguf' is not one of" in refused(2, "export", image[1], *options, "gguf")
    said = refused(2, "export", image[1], *options, "onnx", "--license", "mit")
    assert "--license" in said
    assert "--to" in refused(2, "export", image[1], tmp_path / "out")
