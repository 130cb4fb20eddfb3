"""From a file to a report: the page of a run of each kind, what it says and what it warns of."""

import json
import shlex
import shutil

import numpy as np
import pytest
from helpers import HEADER, SMALL, call, good, people, printed, refused, write
from pages import Reader

import aevb
from aevb.settings import check_settings
from aevb.storage import RunFolder
from aevb.workflow.material import Material
from aevb.workflow.pictures import KINDS, pictures_of
from aevb.workflow.reports import command_of, write_report


def wanted(folder, kind):
    """A file of a kind, written into a folder."""
    rng = np.random.default_rng(0)
    if kind == "table":
        return write(folder / "people.csv", people(60))
    phase = rng.uniform(0, 6, (40, 1))
    rows = np.sin(np.arange(20) / 3 + phase) if kind == "signal" else rng.random((40, 5, 4))
    np.save(folder / f"{kind}.npy", rows)
    return folder / f"{kind}.npy"


@pytest.fixture(scope="session", params=["image", "signal", "table"])
def reported(request, tmp_path_factory):
    """The kind, the run and the page that one command made of a file."""
    folder = tmp_path_factory.mktemp("report")
    file = wanted(folder, request.param)
    told = good("train", file, *SMALL, "--out", folder / "run", "--report")
    assert told["report"] == str(folder / "run" / "report.html")
    return request.param, folder / "run", (folder / "run" / "report.html").read_text()


def test_one_command_leads_from_a_file_to_its_report(reported):
    kind, folder, page = reported
    reader = Reader(page)
    assert "://" not in page
    assert f"{RunFolder(folder).settings().data.rsplit('/', 1)[1]}" in reader.texts("h1")[0]
    assert reader.texts("h2") == [
        *("Numbers", "Data", "Training", "Latent dimensions", "Pictures"),
        *("The most unusual rows", "Settings", "To reproduce it"),
    ]
    material = Material(RunFolder(folder))
    assert material.kind == kind
    kinds = pictures_of(material)
    assert len(reader.all("img")) == len(kinds) + (kind != "table")
    captions = reader.texts("figcaption")
    assert captions[: len(kinds)] == [KINDS[name].caption for name in kinds]
    assert reader.texts("td").count(kind) >= 1
    assert RunFolder(folder).data_facts()["fingerprint"] in reader.texts("td")


def test_the_numbers_of_the_report_are_those_of_the_evaluation_kept(reported):
    _, folder, page = reported
    kept = json.loads((folder / "evaluation.json").read_text())
    assert kept["samples"] == 1000
    value = f"{kept['mean']:z.2f}".replace("-", "\N{MINUS SIGN}")
    assert any(value in text for text in Reader(page).texts("p"))
    assert "evaluated for this report" in page


@pytest.mark.parametrize("reported", ["table"], indirect=True)
def test_a_report_is_the_same_twice_and_tells_of_the_last_evaluation(reported, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(reported[1], folder)
    good("evaluate", folder, "--samples", 7)
    pages = []
    for name in ("a.html", "b.html"):
        assert good("report", folder, "--out", tmp_path / name) == {"report": str(tmp_path / name)}
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    assert "those of the last evaluation" in pages[0]
    assert "7" in Reader(pages[0]).texts("dd")


@pytest.mark.parametrize("reported", ["signal"], indirect=True)
def test_a_report_takes_its_seed_and_each_estimate_once(reported, tmp_path, monkeypatch):
    """Its evaluation is under the seed that was asked for; the doctor, the pictures and the table
    of unusual rows read one estimate of the test rows and one of as many training rows."""
    folder = tmp_path / "run"
    shutil.copytree(reported[1], folder)
    (folder / "evaluation.json").unlink()
    made = []
    monkeypatch.setattr("aevb.evaluation.case.evidence", counted(made))
    write_report(RunFolder(folder), tmp_path / "page.html", seed=5)
    assert json.loads((folder / "evaluation.json").read_text())["seed"] == 5
    run = RunFolder(folder).dataset()
    assert made == [len(run.test), len(run.train)]


def counted(made):
    """`evidence`, which notes of how many rows it was asked for."""

    def evidence(model, posterior, rows, *arguments, **named):
        made.append(len(rows))
        return aevb.evaluation.evidence(model, posterior, rows, *arguments, **named)

    return evidence


@pytest.mark.parametrize("reported", ["table"], indirect=True)
def test_names_of_columns_stay_text(reported):
    said = Reader(reported[2]).texts("td")
    assert set(HEADER) <= set(said)
    assert "Bern, New York, Oslo" in said


def test_the_command_of_a_report_makes_the_same_run(reported, tmp_path):
    _, folder, page = reported
    command = command_of(RunFolder(folder).settings())
    assert command in Reader(page).texts("p")
    words = shlex.split(command)
    assert words[:2] == ["aevb", "train"]
    good(*words[1:], "--out", tmp_path / "again")
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (folder / weights).read_bytes()


@pytest.mark.parametrize("reported", ["signal"], indirect=True)
def test_a_report_needs_a_run_and_a_place(reported, tmp_path):
    _, folder, _ = reported
    assert "holds no run" in refused(4, "report", tmp_path)
    assert ".html" in refused(2, "report", folder, "--out", tmp_path / "page.pdf")
    (tmp_path / "file").touch()
    code, _, said = call("report", folder, "--out", tmp_path / "file" / "page.html")
    assert code == 2
    assert "cannot be written" in said


def test_force_removes_the_report_of_the_run_before(tmp_path):
    file = wanted(tmp_path, "signal")
    for more in (["--report"], ["--force"]):
        good("train", file, *SMALL, "--out", tmp_path / "run", *more)
    assert not (tmp_path / "run" / "report.html").exists()


def test_people_are_told_where_the_report_is(tmp_path):
    file = wanted(tmp_path, "signal")
    code, out, err = call("train", file, *SMALL, "--out", tmp_path / "run", "--report")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == str(tmp_path / "run" / "report.html")


# --- what the doctor says ------------------------------------------------------------------------


def test_collapsed_dimensions_are_a_warning(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3))  # nothing that a code could say
    np.save(tmp_path / "noise.npy", rows)
    options = ["--hidden", 4, "--latent-dim", 3, "--beta", 50, "--epochs", 60, "--lr", "0.03"]
    good("train", tmp_path / "noise.npy", *options, "--out", tmp_path / "run", "--report")
    page = (tmp_path / "run/report.html").read_text()
    assert "3 of 3 latent dimensions are not used" in page
    found = good("check", tmp_path / "run")["findings"]
    assert "posterior-collapse" in [finding["name"] for finding in found]
    said = [text.strip() for text in Reader(page).texts("p")]
    assert all(f"{f['sentence']} {f['advice']}" in said for f in found)


def test_a_row_without_a_density_spoils_the_mean_and_nothing_else(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    np.save(tmp_path / "far.npy", rows)
    rows[aevb.data.load(tmp_path / "far.npy").test.index[0], 1] = 1e25
    np.save(tmp_path / "far.npy", rows)
    run = tmp_path / "run"
    good("train", tmp_path / "far.npy", "--likelihood", "gaussian", *SMALL, "--out", run)
    told = good("evaluate", run, "--samples", 20)
    assert told["mean"] is told["reconstruction"] is None
    assert "1 of 6 rows lie so far" in told["remarks"][0]
    assert "rows lie so far" in printed("evaluate", run, "--samples", 20)  # what is kept is read
    found = good("check", run)["findings"]
    assert "unlike-training" in [finding["name"] for finding in found]
    assert not any("nan" in finding["sentence"] for finding in found)
    assert "KL(q || p) not finite" in printed("check", run)
    good("report", run)
    page = Reader((run / "report.html").read_text())
    assert page.texts("p").count("not finite") == 2
    assert "kl: expected finite divergences, found nan in row 1" in page.texts("p")


def test_commands_name_what_differs_from_the_defaults():
    said = {"hidden": (8, 4), "activation": "tanh", "resize": (4, 6), "allow_nan": True, "lr": 0.01}
    settings = check_settings({"data": "my file.csv", **said})
    assert command_of(settings) == (
        "aevb train 'my file.csv' --hidden 8,4 --activation tanh --lr 0.01 --allow-nan --resize 4x6"
    )


def test_a_run_that_was_fitted_in_python_has_a_report_of_what_there_is(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 3))
    aevb.VAE(hidden=(4,), epochs=2).partial_fit(rows).save(tmp_path / "run")
    good("report", tmp_path / "run")
    reader = Reader((tmp_path / "run" / "report.html").read_text())
    assert "fitted in Python" in " ".join(reader.texts("p"))
    assert "The most unusual rows" not in reader.texts("h2")
    assert len(reader.all("img")) == 4
