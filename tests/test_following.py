"""What follows a run: callbacks, the table of metrics, TensorBoard, snapshots."""

import logging
import struct
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from damage import altered
from helpers import TRAIN, Dropout, binary_rows, command, outcome, rows_of, small_pair
from laws import dataset

import aevb
from aevb import codes
from aevb.data import Rows
from aevb.errors import TrainingError, UsageError
from aevb.following import Snapshots, TensorBoard, moments
from aevb.randomness import Stream, generator
from aevb.settings import check_settings
from aevb.storage import RunFolder, snapshots
from aevb.storage.metrics import COLUMNS, FACTS
from aevb.training import Callback
from aevb.workflow.training import fit, settle

PLAN = aevb.Plan(epochs=6, batch_size=10)
PER_EPOCH, TOTAL = 4, 24  # 36 rows in batches of 10


def pair(kind="plain"):
    model, posterior = small_pair(dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if kind == "dropout":
            posterior = aevb.mean_field(Dropout(6, 4))
        elif kind == "per-datum":
            posterior = aevb.per_datum(36, 2)
    return model, posterior


def go(folder, *callbacks, resume=False, kind="plain", keep=True, seconds=0):
    """Train into a folder, with snapshots; returns the modules."""
    model, posterior = pair(kind)
    data, run = dataset(binary_rows(36)), RunFolder(folder)
    run.checkpoint_seconds = seconds
    kept = [Snapshots(model, posterior, data.train, run.snapshots_folder)] if keep else []
    learner = aevb.AEVB(model, posterior, optimizer=aevb.Adam(0.02))
    aevb.train(learner, data, PLAN, run=run, resume=resume, callbacks=[*callbacks, *kept])
    return model, posterior


# --- callbacks -----------------------------------------------------------------------------------


class Recorder(Callback):
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def begin(self, done, total, steps_per_epoch):
        self.calls.append((self.name, "begin", (done, total, steps_per_epoch)))

    def step(self, t):
        self.calls.append((self.name, "step", t))

    def epoch(self, record):
        self.calls.append((self.name, "epoch", record["epoch"]))


def test_every_callback_is_told_everything_in_order():
    calls = []
    plan = aevb.Plan(epochs=2, batch_size=20)
    followers = [Recorder("first", calls), Recorder("second", calls)]
    learner = aevb.AEVB(*small_pair(dtype=torch.float32))
    aevb.train(learner, dataset(binary_rows(36)), plan, callbacks=followers)
    told = [
        ("begin", (0, 4, 2)),
        *[("step", 1), ("step", 2), ("epoch", 1)],
        *[("step", 3), ("step", 4), ("epoch", 2)],
    ]
    assert calls == [(name, *call) for call in told for name in ("first", "second")]


class Fails(Callback):
    """Raises at one call."""

    def __init__(self, method, at, error=RuntimeError):
        self.method, self.at, self.error = method, at, error

    def _maybe(self, method, now):
        if (method, now) == (self.method, self.at):
            raise self.error("full")

    def begin(self, done, total, steps_per_epoch):
        self._maybe("begin", done)

    def step(self, t):
        self._maybe("step", t)

    def epoch(self, record):
        self._maybe("epoch", record["epoch"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    go(folder)
    return outcome(folder)


FAILURES = [("begin", 0), ("epoch", 3), ("epoch", 6)]


@pytest.mark.parametrize(("method", "at"), FAILURES)
@pytest.mark.parametrize("seconds", [0, 1000])
def test_an_exception_in_a_callback_stops_a_run_that_resumes_exactly(
    tmp_path, whole, method, at, seconds
):
    with pytest.raises(RuntimeError, match="full"):
        go(tmp_path, Fails(method, at), seconds=seconds)
    go(tmp_path, resume=True, seconds=seconds)
    assert outcome(tmp_path) == whole


def test_an_error_of_use_in_a_callback_leaves_a_begun_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    asked = check_settings({"data": "digits", "hidden": (4,), "latent_dim": 2, "epochs": 3})
    begun, _ = settle(folder, asked, set(), resume=False, force=False)
    failing = Fails("epoch", 2, UsageError)
    with folder.locked(), pytest.raises(UsageError, match="full"):
        fit(folder, begun, resume=False, callbacks=[failing])
    again, resuming = settle(folder, asked, set(), resume=True, force=False)
    assert resuming
    with folder.locked():
        assert fit(folder, again, resume=True)["epochs"] == 3


def test_a_library_is_silent_unless_asked():
    code = "import logging, aevb; logging.getLogger('aevb').warning('something went wrong')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    loud = code.replace("aevb;", "aevb; logging.basicConfig();")
    done = subprocess.run([sys.executable, "-c", loud], capture_output=True, text=True, check=True)
    assert "WARNING:aevb:something went wrong" in done.stderr


# --- the table -----------------------------------------------------------------------------------


def test_every_number_of_a_record_has_a_column(tmp_path):
    go(tmp_path, keep=False)
    numbers = set()
    for name, value in RunFolder(tmp_path).history()[0].items():
        numbers |= {f"{name}_{k}" for k in value} if isinstance(value, dict) else {name}
    assert numbers == set(COLUMNS) - set(FACTS)


def test_pandas_reads_the_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    go(tmp_path, keep=False)
    frame = pandas.read_csv(tmp_path / "metrics.csv")
    expected = [record["validation"]["elbo"] for record in RunFolder(tmp_path).history()]
    assert frame["validation_elbo"].tolist() == pytest.approx(expected, rel=1e-12)
    assert frame["epoch"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("damage", ["torn", "ahead", "gone", "behind"])
def test_a_table_that_a_kill_left_behind_is_mended_by_resuming(tmp_path, whole, damage):
    with pytest.raises(RuntimeError):
        go(tmp_path, Fails("step", PER_EPOCH * 3 + 1))
    path = tmp_path / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    if damage == "gone":
        path.unlink()
    else:
        torn = {"torn": [*lines, "4,16,-3."], "ahead": [*lines, lines[-1]], "behind": lines[:-1]}
        path.write_text("".join(torn[damage]))
    go(tmp_path, resume=True)
    assert outcome(tmp_path) == whole


# --- TensorBoard ---------------------------------------------------------------------------------


def events(folder):
    """The events that TensorBoard shows: by file name, without what a later start hides."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == SessionLog.START:
                shown = [other for other in shown if other.step < event.step]
            shown.append(event)
    return shown


def scalars(folder):
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def assert_shows(folder, history, rate):
    expected = {
        f"{part}/{name}": [record[part][name] for record in history]
        for part in ("train", "validation")
        for name in ("elbo", "reconstruction", "kl")
    }
    expected["learning_rate"] = [rate * record["learning_rate_factor"] for record in history]
    expected["rows_per_second"] = [record["rows_per_second"] for record in history]
    found = scalars(folder)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert [step for step, _ in found[name]] == list(range(1, len(history) + 1)), name
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6), name


def test_tensorboard_shows_every_epoch_once_whatever_was_stopped_when(tmp_path, whole):
    pytest.importorskip("tensorboardX")
    where = tmp_path / "tensorboard"
    for method, at in [("step", 6), ("epoch", 3), ("step", 15), ("begin", 14), ("step", 20)]:
        with TensorBoard(where, lr=0.02) as board, pytest.raises(RuntimeError):
            go(tmp_path, board, Fails(method, at), resume=True)
    with TensorBoard(where, lr=0.02) as board:
        go(tmp_path, board, resume=True)
    assert_shows(where, RunFolder(tmp_path).history(), rate=0.02)
    assert outcome(tmp_path) == whole


def test_an_event_is_in_the_file_before_the_next_epoch(tmp_path):
    pytest.importorskip("tensorboardX")
    seen = []

    class Look(Callback):
        def epoch(self, record):
            seen.append(len(scalars(tmp_path / "tb")["train/elbo"]))

    with TensorBoard(tmp_path / "tb") as board:
        go(tmp_path / "run", board, Look())
    assert seen == [1, 2, 3, 4, 5, 6]


def test_tensorboard_without_its_package_is_one_sentence_and_removes_nothing(
    tmp_path, monkeypatch, capfd
):
    run = tmp_path / "run"
    assert command(*TRAIN, "--epochs", "1", "--quiet", "--out", str(run)) == 0
    before = (run / "model.safetensors").read_bytes()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    capfd.readouterr()
    assert command(*TRAIN, "--epochs", "1", "--tensorboard", "--force", "--out", str(run)) == 2
    assert capfd.readouterr().err == (
        "aevb: writing TensorBoard's files needs tensorboardX: pip install 'aevb[tensorboard]'\n"
    )
    assert (run / "model.safetensors").read_bytes() == before


def test_the_command_writes_tensorboard_and_force_clears_it(tmp_path):
    pytest.importorskip("tensorboardX")
    run = RunFolder(tmp_path / "run")
    options = [*TRAIN, "--lr", "0.003", "--quiet", "--out", str(run.path)]
    assert command(*options, "--epochs", "3", "--tensorboard") == 0
    assert_shows(run.tensorboard, run.history(), rate=0.003)
    text = b"".join(path.read_bytes() for path in run.tensorboard.iterdir())
    assert b"| latent_dim | 2 |" in text
    assert len(run.snapshots().epochs) == 3
    assert command(*options, "--epochs", "2", "--force") == 0
    assert not run.tensorboard.exists()
    assert run.snapshots().epochs.tolist() == [1, 2]
    assert len(rows_of(run.path / "metrics.csv")) == 2


# --- snapshots -----------------------------------------------------------------------------------


def test_moments_are_spaced_evenly_in_log_time():
    for total in (1, 2, 7, 50, 100, 1000, 20_000):
        chosen = sorted(moments(total))
        assert (chosen[0], chosen[-1]) == (1, total)
        assert min(total, 14) <= len(chosen) <= 20
        ratio = total ** (1 / 19)
        for a, b in pairwise(chosen):
            assert b - a == 1 or (a + 1) * ratio >= b - 1


@pytest.mark.parametrize("kind", ["plain", "dropout", "per-datum"])
def test_training_is_the_same_with_snapshots_and_without(tmp_path, kind):
    go(tmp_path / "with", kind=kind)
    go(tmp_path / "without", kind=kind, keep=False)
    *metrics, with_ = outcome(tmp_path / "with")
    *same, without = outcome(tmp_path / "without")
    assert metrics == same
    assert {k: v for k, v in with_.items() if k.parts[0] != "snapshots"} == without
    assert len(with_) == len(without) + 6


@pytest.mark.slow
def test_the_compiled_step_is_the_same_with_snapshots(tmp_path):
    results = []
    for keep in (True, False):
        model, posterior = pair("dropout")
        data = dataset(binary_rows(36))
        kept = [Snapshots(model, posterior, data.train, tmp_path)] if keep else []
        learner = aevb.AEVB(model, posterior, compiled=True)
        aevb.train(learner, data, PLAN, callbacks=kept)
        assert learner.compiled
        results.append({**model.state_dict(), **posterior.state_dict()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


class Watch(Callback):
    """The codes and decoded draws of every epoch, by the functions that users have."""

    def __init__(self, model, posterior, rows):
        self.model, self.posterior, self.rows = model, posterior, rows
        self.z = model.sample_prior(10, generator(0, Stream.SAMPLING, 2)).double().numpy()
        self.codes, self.samples = [], []

    def epoch(self, record):
        self.codes.append(codes.encode(self.model, self.posterior, self.rows))
        self.samples.append(codes.decode(self.model, self.z))


@pytest.mark.parametrize("kind", ["plain", "dropout", "per-datum"])
def test_a_snapshot_holds_what_the_model_says_at_its_epoch(tmp_path, kind):
    model, posterior = pair(kind)
    data = dataset(binary_rows(36))
    watch = Watch(model, posterior, data.train)
    keep = Snapshots(model, posterior, data.train, tmp_path)
    learner = aevb.AEVB(model, posterior, optimizer=aevb.Adam(0.02))
    aevb.train(learner, data, PLAN, callbacks=[keep, watch])
    trail = snapshots.read(tmp_path)
    assert trail.epochs.tolist() == [1, 2, 3, 4, 5, 6]
    assert trail.labels is None
    np.testing.assert_allclose(trail.codes, watch.codes, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(trail.samples, watch.samples, rtol=1e-6)
    assert np.abs(np.diff(trail.samples, axis=0)).max(axis=(1, 2)).min() > 1e-4


def test_at_most_500_rows_are_kept_with_their_own_labels(tmp_path):
    digits = aevb.data.load("digits")
    model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [4], 64)))
    posterior = aevb.mean_field(aevb.MLP(64, [4], 4))
    keep = Snapshots(model, posterior, digits.train, tmp_path)
    keep.begin(0, 10, 10)
    keep.epoch({"epoch": 1})
    trail = snapshots.read(tmp_path)
    assert trail.codes.shape == (1, 500, 2)
    everything = codes.encode(model, posterior, digits.train).astype(np.float32)
    for code, label in zip(trail.codes[0, ::50], trail.labels[::50], strict=True):
        nearest = np.abs(everything - code).sum(axis=1).argmin()
        np.testing.assert_allclose(everything[nearest], code, rtol=1e-5)
        assert digits.train.labels[nearest] == label


def test_free_parameters_are_found_by_the_number_of_their_row(tmp_path):
    rows = Rows(np.zeros((700, 6), np.uint8), np.arange(700), (6,), all_labels=np.arange(700))
    model, _ = pair()
    posterior = aevb.per_datum(700, 2)
    means = np.arange(1400.0).reshape(700, 2)
    with torch.no_grad():
        posterior.conditional.network.table[:, :2] = torch.from_numpy(means / 20)
    keep = Snapshots(model, posterior, rows, tmp_path)
    keep.begin(0, 1, 1)
    keep.epoch({"epoch": 1})
    trail = snapshots.read(tmp_path)
    assert len(set(trail.labels)) == 500
    np.testing.assert_allclose(trail.codes[0], means[trail.labels], rtol=1e-6)


def test_the_command_keeps_held_out_rows_and_training_rows_of_free_parameters(tmp_path):
    for kind, rows in (("mean-field", 180), ("per-datum", 500)):
        run = RunFolder(tmp_path / kind)
        options = ["--epochs", "2", "--posterior", kind, "--quiet", "--out", str(run.path)]
        assert command(*TRAIN, *options) == 0
        trail = run.snapshots()
        assert trail.codes.shape == (2, rows, 2)
        assert trail.labels.shape == (rows,)
        assert trail.samples.shape == (2, 10, 64)


def test_later_snapshots_go_where_a_run_resumes(tmp_path, whole):
    with pytest.raises(RuntimeError):
        go(tmp_path, Fails("step", PER_EPOCH * 3 + 1))
    for epoch in (4, 5, 9):
        snapshots.write(tmp_path / "snapshots", epoch, np.ones((36, 2)), None, np.ones((10, 6)))
    seen = []

    class Look(Callback):
        def step(self, t):
            seen.append(sorted(RunFolder(tmp_path).snapshots().epochs.tolist()))

    go(tmp_path, Look(), resume=True)
    assert seen[0] == [1, 2, 3]
    assert outcome(tmp_path) == whole


def test_a_damaged_snapshot_is_named_and_left_out(tmp_path):
    draw = np.random.default_rng(0)
    for epoch in (1, 2, 3):
        codes, samples = draw.normal(size=(4, 2)), draw.normal(size=(10, 3))
        snapshots.write(tmp_path, epoch, codes, np.arange(4), samples)
    before = snapshots.read(tmp_path)
    file = tmp_path / "epoch-000002.safetensors"
    content = file.read_bytes()
    for seed in range(200):
        file.write_bytes(altered(content, seed))
        with catching() as said:
            after = snapshots.read(tmp_path)
        left = np.isin([1, 2, 3], after.epochs)
        assert left[0]
        assert left[2]
        assert [str(file) in sentence for sentence in said] == [True] * (3 - left.sum())
        # One blank of the file's head may become another without harm; all else is seen.
        np.testing.assert_array_equal(after.codes, before.codes[left])
        np.testing.assert_array_equal(after.samples, before.samples[left])


def test_a_changed_number_in_a_snapshot_is_seen(tmp_path):
    snapshots.write(tmp_path, 1, np.ones((4, 2)), np.arange(4), np.ones((10, 3)))
    file = tmp_path / "epoch-000001.safetensors"
    content = file.read_bytes()
    one = np.float32(1).tobytes()
    assert content.count(one) == 38
    file.write_bytes(content.replace(one, np.float32(2).tobytes(), 1))
    with catching() as said:
        assert len(snapshots.read(tmp_path).epochs) == 0
    assert said == [f"{file} is damaged and left out (it does not match its checksum)"]


@contextmanager
def catching():
    """The warnings of the logger, as they are given."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("aevb").addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger("aevb").removeHandler(handler)


def test_where_nothing_was_kept_the_trail_is_empty(tmp_path):
    trail = RunFolder(tmp_path).snapshots()
    assert (len(trail.epochs), len(trail.codes), trail.labels, len(trail.samples)) == (
        0,
        0,
        None,
        0,
    )


def test_a_snapshot_that_cannot_be_written_stops_with_a_sentence(tmp_path):
    (tmp_path / "snapshots").write_text("in the way")
    with pytest.raises(TrainingError, match=r"snapshots cannot be written \(.*--resume"):
        go(tmp_path)
