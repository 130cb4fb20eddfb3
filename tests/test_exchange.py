"""A folder for the hub: three files that load, and a card that says what is known, to programs too.

ONNX has a file of its own, test_onnx.py.
"""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from helpers import small_pair
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from zoo.pairs import PAIRS, D, Own, perturbed, with_own

import aevb
from aevb.conditional import Chain, Conditional
from aevb.errors import ModelFileError, UsageError
from aevb.evaluation import Asked
from aevb.exchange import Card, export_hub, hub_of_run
from aevb.exchange.card import plain, to_yaml
from aevb.families import Normal
from aevb.settings import check_settings
from aevb.storage import RunFolder
from aevb.storage.run import EVALUATION
from aevb.workflow.scores import score
from aevb.workflow.training import fit

yaml = pytest.importorskip("yaml")

FILES = ["README.md", "config.json", "model.safetensors"]


def fitted(folder, **options):
    folder.mkdir(exist_ok=True)
    threads = torch.get_num_threads()
    settings = check_settings({"hidden": (5,), "latent_dim": 2, "step": "eager", **options})
    fit(RunFolder(folder), settings, resume=False)
    torch.set_num_threads(threads)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of digits, evaluated."""
    made = fitted(tmp_path_factory.mktemp("run"), data="digits", epochs=2)
    score(made, asked=Asked(samples=20), limit=50)
    return made


def matter(folder):
    """The front matter of a card as a program reads it, and the prose."""
    text = (folder / "README.md").read_text()
    begin, head, prose = text.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(head), prose


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(pair, other):
    return all(
        torch.equal(tensor, now.state_dict()[name])
        for then, now in zip(pair, other, strict=True)
        for name, tensor in then.state_dict().items()
    )


# --- from a run ----------------------------------------------------------------------------------


def test_a_run_becomes_three_files_that_load(run, tmp_path):
    folder = hub_of_run(run, tmp_path / "hub", license="apache-2.0")
    assert names(folder) == FILES
    assert same(run.load(), aevb.load(folder))
    again = RunFolder(folder)
    assert again.settings() == run.settings()
    assert again.shape == run.shape == (1, 8, 8)
    assert again.dataset().source.fingerprint == run.dataset().source.fingerprint
    report, _ = score(again, asked=Asked(samples=20), limit=50)
    assert report["importance"] == run.evaluation()["importance"]


def test_the_card_tells_programs_what_was_measured(run, tmp_path):
    found, _ = matter(hub_of_run(run, tmp_path / "hub", license="apache-2.0"))
    report = run.evaluation()
    assert found["library_name"] == "aevb"
    assert found["license"] == "apache-2.0"
    assert found["datasets"] == ["digits"]
    assert "variational-autoencoder" in found["tags"]
    ((result,),) = [entry["results"] for entry in found["model-index"]]
    assert result["dataset"] == {"name": "digits", "type": "digits"}
    metrics = {metric["type"]: metric for metric in result["metrics"]}
    for kind, name in (("log-likelihood", "importance"), ("elbo", "elbo")):
        assert metrics[kind]["value"] == report[name]["mean"]
        about = metrics[kind]["args"]
        assert about["unit"] == "nats"
        for part in ("standard_error", "monte_carlo_error", "direction", "samples", "n"):
            assert about[part] == report[name][part]


def test_the_card_tells_people_the_rest(run, tmp_path):
    _, prose = matter(hub_of_run(run, tmp_path / "hub"))
    report = run.evaluation()
    for part in (
        "# Variational auto-encoder of digits",
        f"{report['importance']['mean']:.2f}",
        f"{report['importance']['standard_error']:.2f}",
        "20 samples",
        "50 rows",
        "CC BY 4.0",
        r"| latent\_dim | 2 |",
        "| epochs | 2 |",
        "finite numbers",
        "## Limits",
    ):
        assert part in prose
    assert "license" not in matter(tmp_path / "hub")[0]


@pytest.mark.parametrize("posterior", ["mean-field", "iaf"])
def test_the_python_of_the_card_runs(posterior, run, tmp_path, monkeypatch):
    if posterior != "mean-field":
        run = fitted(tmp_path / "run", data="digits", epochs=1, posterior=posterior)
    folder = hub_of_run(run, tmp_path / "hub")
    (code,) = re.findall(r"```python\n(.*?)```", matter(folder)[1], re.DOTALL)
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), found)
    assert found["samples"].shape == (16, 64)
    assert found["codes"].shape == (16, 2)


def test_numbers_of_other_weights_are_not_told(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy")
    copy = RunFolder(tmp_path / "copy")
    assert copy.evaluation() == run.evaluation()
    model, posterior = copy.load()
    with torch.no_grad():
        model.likelihood.network.head.bias += 0.5
    copy.save_weights(model, posterior)
    assert copy.evaluation() is None
    found, prose = matter(hub_of_run(copy, tmp_path / "hub"))
    assert "model-index" not in found
    assert "None were measured." in prose


def test_a_run_that_was_not_evaluated_has_no_numbers(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy")
    (tmp_path / "copy" / EVALUATION).unlink()
    assert RunFolder(tmp_path / "copy").evaluation() is None


def test_no_folder_of_the_person_is_told(tmp_path):
    place = tmp_path / "secret-folder"
    place.mkdir()
    rows = np.random.default_rng(0).standard_normal((60, 3))
    np.savetxt(place / "table: of mine.csv", rows, delimiter=",")
    made = fitted(tmp_path / "run", data=str(place / "table: of mine.csv"), epochs=1)
    score(made, asked=Asked(samples=5))
    folder = hub_of_run(made, tmp_path / "hub")
    for name in FILES:
        assert b"secret-folder" not in (folder / name).read_bytes()
    found, prose = matter(folder)
    assert found["datasets"] == ["table: of mine.csv"]
    assert "license of the data is not known" in prose
    assert RunFolder(folder).settings().data == "table: of mine.csv"
    assert same(made.load(), aevb.load(folder))


def test_a_folder_from_python_is_no_run(tmp_path):
    aevb.save(tmp_path / "saved", *small_pair(dtype=torch.float32))
    with pytest.raises(ModelFileError, match="has no settings"):
        hub_of_run(RunFolder(tmp_path / "saved"), tmp_path / "hub")
    with pytest.raises(ModelFileError, match="does not exist: name a folder"):
        hub_of_run(RunFolder(tmp_path / "nowhere"), tmp_path / "hub")
    assert names(tmp_path) == ["saved"]


# --- from objects --------------------------------------------------------------------------------


def test_objects_become_three_files_that_load(tmp_path):
    pair = small_pair(dtype=torch.float32)
    folder = export_hub(tmp_path / "hub", *pair, card=Card("Mine"), facts={"remark": 1})
    assert names(folder) == FILES
    assert same(pair, aevb.load(folder))
    assert json.loads((folder / "config.json").read_text())["remark"] == 1
    found, prose = matter(folder)
    assert set(found) == {"library_name", "tags"}
    assert "# Mine" in prose
    assert "zeros and ones" in prose


def test_own_modules_and_free_parameters_are_told(tmp_path):
    folder = export_hub(tmp_path / "own", *with_own(Own()), card=Card("Own"))
    prose = matter(folder)[1]
    assert "modules={'model.likelihood.network': ...}" in prose
    assert "no file of this folder holds code" in prose
    model, posterior = with_own(Own())
    model.prior = Chain(
        [aevb.standard_normal(1), Conditional(nn.Linear(1, 2 * D - 2), Normal())], [1, D - 1]
    )
    prose = matter(export_hub(tmp_path / "chain", model, posterior, card=Card("Own")))[1]
    for path in ("model.prior.links.1.network", "model.likelihood.network"):
        assert f"'{path}': ..." in prose
    export_hub(tmp_path / "free", *perturbed(PAIRS["per-datum"][0]), card=Card("Free"))
    assert "codes" not in matter(tmp_path / "free")[1]


HOSTILE = [
    "a: b",
    'say "yes"',
    "it's",
    "\n---\n# Injected\n",
    "---",
    "- item",
    "{}",
    "[x](javascript:1)",
    "<script>alert(1)</script>",
    "`code` | cell",
    "yes",
    "1e5",
    "# title",
    "&anchor *alias !tag",
    "back\\slash",
    "\U0001f600 \u00fc \u2028 \x85 \x7f \x00 \ufeff",
    "x" * 1000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_stays_a_name(tmp_path, name):
    card = Card(
        name=name,
        data=name,
        license=name,
        data_license=name,
        data_facts={name: name},
        settings={name: name},
        numbers=[{"estimand": name, "mean": -1.5, "method": name, "data": name, "n": 3}],
    )
    folder = export_hub(tmp_path / "hub", *small_pair(dtype=torch.float32), card=card)
    found, prose = matter(folder)
    assert found["license"] == name
    assert found["datasets"] == [name]
    assert found["model-index"][0]["name"] == name
    assert found["model-index"][0]["results"][0]["dataset"]["name"] == name
    titles = [line for line in prose.splitlines() if line.startswith("#")]
    assert titles[1:] == [
        "## How to load it",
        "## Numbers",
        "## Data",
        "## Settings",
        "## Limits",
    ]
    assert "\n---\n" not in prose
    assert "<script" not in prose.replace(r"\<", "")
    assert re.search(r"(?<!\\)\]\(javascript", prose) is None


def test_half_a_letter_does_not_stop_a_card(tmp_path):
    # JSON can hold one, and no file in UTF-8 can.
    card = Card(name="\ud800", data="\udfff")
    matter(export_hub(tmp_path / "hub", *small_pair(dtype=torch.float32), card=card))


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
keys = st.from_regex(r"[a-z_]{3,8}[a-z]", fullmatch=True).filter(
    lambda k: k not in ("true", "false", "null")
)
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, min_size=1) | st.dictionaries(keys, t, min_size=1),
    max_leaves=12,
)


@given(st.dictionaries(keys, trees, min_size=1))
def test_yaml_reads_back_what_was_written(tree):
    assert yaml.safe_load("\n".join(to_yaml(tree))) == tree


@given(st.text())
def test_prose_is_one_line_without_markup(text):
    said = plain(text)
    assert "\n" not in said
    assert said.isprintable()
    assert re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|]", said) is None


# --- folders -------------------------------------------------------------------------------------


def export(folder):
    return export_hub(folder, *small_pair(dtype=torch.float32), card=Card("Mine"))


def test_an_export_is_replaced_and_what_git_keeps_stays(tmp_path):
    folder = tmp_path / "hub"
    (folder / ".git").mkdir(parents=True)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    export(folder)
    (folder / ".README.md.0f.tmp").write_text("half")
    (folder / "model.safetensors").unlink()  # as a kill in the middle leaves it
    export(folder)
    aevb.load(folder)
    assert names(folder) == sorted([".git", ".gitattributes", *FILES])


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "config.json", "metrics.jsonl"])
def test_a_folder_of_something_else_is_refused_and_left(tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(UsageError, match=f"holds {name}, but no export"):
        export(folder)
    assert names(folder) == [name]
    assert (folder / name).read_text() == "mine"


def test_a_run_is_not_overwritten(run):
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    with pytest.raises(UsageError, match="no export"):
        hub_of_run(run, run.path)
    assert before == {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ModelFileError, match="cannot be written"):
            export(place)
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(ModelFileError, match="cannot be written"):
            export(tmp_path / "closed" / "hub")


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    model, posterior = small_pair(dtype=torch.float32)
    with torch.no_grad():
        model.likelihood.network.head.bias[0] = float("nan")
    with pytest.raises(aevb.errors.TrainingError, match="not finite"):
        export_hub(tmp_path / "hub", model, posterior, card=Card("Mine"))
    assert not (tmp_path / "hub").exists()
