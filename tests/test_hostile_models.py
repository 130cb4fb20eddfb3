"""Crafted model folders: each is refused with one sentence, and nothing happens meanwhile.

All folders of the table (hostile_cases.py) are read in one process with an audit hook
(hostile_probe.py), which sees every import, compilation, execution, write, process and connection
of Python.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from crafted import CONFIG, TRACE, WEIGHTS, checkpoint
from hostile_cases import CASES, OF_DATA

import aevb
from aevb.settings import check_settings
from aevb.storage import RunFolder
from aevb.workflow.training import fit

SECONDS, MEGABYTES, LENGTH = 5, 200, 400


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run of one epoch, which every case begins with."""
    folder = tmp_path_factory.mktemp("good")
    options = {"data": "digits", "hidden": (5,), "latent_dim": 2, "epochs": 1, "step": "eager"}
    threads = torch.get_num_threads()
    fit(RunFolder(folder), check_settings(options), resume=False)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def found(good, tmp_path_factory):
    """What was said and done for each case, all in one process."""
    place = tmp_path_factory.mktemp("hostile")
    begun = place / "begun"
    shutil.copytree(good, begun)
    checkpoint(begun)
    folders = {}
    for i, (name, (make, _)) in enumerate(CASES.items()):
        folder = place / f"case-{i}"
        shutil.copytree(good, folder)
        make(folder)
        folders[name] = folder
    cases = [f"{name.partition(':')[0]}:{folder}" for name, folder in folders.items()]
    probe = Path(__file__).with_name("hostile_probe.py")
    out = subprocess.run(
        [sys.executable, probe, begun, *cases],
        check=True,
        capture_output=True,
        text=True,
        cwd=place,
        timeout=300,
    )
    assert not (place / TRACE).exists()
    answers = json.loads(out.stdout)
    return {name: (folder, answers[str(folder)]) for name, folder in folders.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_folder_is_refused_and_nothing_is_done(found, name):
    folder, answer = found[name]
    _, fragment = CASES[name]
    assert answer["error"] == ("DataError" if fragment == OF_DATA else "ModelFileError")
    assert fragment in answer["said"]
    assert answer["events"] == []
    said = answer["said"].replace(str(folder), "")
    assert 10 < len(said) < LENGTH
    assert said.isprintable()
    assert answer["seconds"] < SECONDS
    assert answer["megabytes"] < MEGABYTES


def test_the_whole_table_takes_little_memory(found):
    assert len(CASES) > 200  # as SECURITY says
    assert sum(answer["megabytes"] for _, answer in found.values()) < MEGABYTES


def test_the_probe_sees_what_it_is_for(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hostile_probe, os, pickle, json\n"
        "watch = hostile_probe.Watch(); sys.addaudithook(watch.hook); watch.on = True\n"
        "open('made', 'w').close(); os.system('true'); eval('1'); import this\n"
        "pickle.loads(pickle.dumps(os.getcwd)); os.open('made', os.O_WRONLY)\n"
        "watch.on = False; print(chr(10).join(watch.events))"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, Path(__file__).parent],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    for event in ("for writing", "os.system", "compile", "exec", "import", "pickle.find_class"):
        assert event in seen
    assert seen.count("for writing") == 2


def test_a_link_to_a_plain_file_is_read(good, tmp_path):
    # The cache of the Hugging Face hub holds links out of the folder, to files named by content.
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(good / name, tmp_path / f"blob-of-{name}")
        (snapshot / name).symlink_to(f"../blob-of-{name}")
    for linked, plain in zip(aevb.load(snapshot), aevb.load(good), strict=True):
        expected = plain.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in linked.state_dict().items())
