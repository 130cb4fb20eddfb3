"""The table of data sets: what each entry promises holds of the data themselves."""

import gzip
import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from aevb.data import named
from aevb.data.download import RemoteFile
from aevb.data.named import NAMES, open_named, read_amat, read_idx, summary
from aevb.data.source import Source
from aevb.errors import DataError

DATA = os.environ.get("AEVB_DATA")
with_files = pytest.mark.skipif(not DATA, reason="AEVB_DATA names no folder of data sets")
SETS = ["digits", *(pytest.param(name, marks=with_files) for name in NAMES if name != "digits")]
OFFICIAL = {
    "mnist": {"train": 60_000, "test": 10_000},
    "binarized-mnist": {"train": 50_000, "validation": 10_000, "test": 10_000},
    "fashion-mnist": {"train": 60_000, "test": 10_000},
    "omniglot": {"train": 19_280, "test": 13_180},
}
CLASSES = {"digits": range(10), "mnist": range(10), "fashion-mnist": range(10)}
TREATMENT = {
    "digits": ("gaussian", "none", 1 / 16),
    "mnist": ("bernoulli", "epoch", 1 / 255),
    "binarized-mnist": ("bernoulli", "none", 1.0),
    "fashion-mnist": ("gaussian", "none", 1 / 255),
    "frey-face": ("gaussian", "none", 1 / 255),
    "omniglot": ("bernoulli", "epoch", 1 / 255),
}


def pack(content: bytes) -> bytes:
    """Gzip without the time of day, which would be in the names of the tests below."""
    return gzip.compress(content, mtime=0)


@cache
def opened(name: str) -> Source:
    return open_named(name)


def test_the_names_are_those_of_the_command_line() -> None:
    assert set(NAMES) == set(TREATMENT)
    for name in NAMES:
        assert summary(name).citation
        assert summary(name).license


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_what_its_entry_says(name: str) -> None:
    source, facts = opened(name), summary(name)
    assert source.name == name
    assert source.values.shape == (facts.rows, *facts.shape) == (facts.rows, *source.shape)
    assert source.values.dtype == np.uint8
    assert (source.likelihood, source.binarize, source.scale) == TREATMENT[name]
    assert (facts.likelihood, facts.binarize) == TREATMENT[name][:2]
    # The model sees numbers in [0, 1], and both ends of the scale are used except by the faces.
    low, high = (float(edge) * source.scale for edge in (source.values.min(), source.values.max()))
    assert 0 <= low < high <= 1
    assert (low == 0 and high == 1) == (name != "frey-face")
    assert source.reason
    assert source.fingerprint.startswith("sha256:")
    assert facts.present


@pytest.mark.parametrize("name", SETS)
def test_official_splits_are_consecutive_and_leave_no_row_out(name: str) -> None:
    splits = opened(name).splits
    if name not in OFFICIAL:
        assert splits is None
        return
    assert splits is not None
    assert {part: len(rows) for part, rows in splits.items()} == OFFICIAL[name]
    rows = np.concatenate(
        [splits[part] for part in ("train", "validation", "test") if part in splits]
    )
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, np.arange(len(opened(name).values)))


@pytest.mark.parametrize("name", SETS)
def test_labels_are_classes(name: str) -> None:
    labels = opened(name).labels
    if name in ("binarized-mnist", "frey-face"):
        assert labels is None
        return
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.shape == (summary(name).rows,)
    expected = CLASSES.get(name, range(1, 1624))
    np.testing.assert_array_equal(np.unique(labels), np.array(expected))


@pytest.mark.parametrize("name", SETS)
def test_fingerprints_tell_the_sets_apart(name: str) -> None:
    prints = {opened(other).fingerprint for other in NAMES if other == "digits" or DATA}
    assert len(prints) == (len(NAMES) if DATA else 1)
    assert opened(name).fingerprint in prints


@with_files
def test_mnist_has_its_known_mean_and_class_counts() -> None:
    source = opened("mnist")
    assert source.splits is not None
    assert source.labels is not None
    train = source.splits["train"]
    values: Any = source.values
    assert values[train].mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    counts = np.bincount(source.labels[train]).tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    counts = np.bincount(source.labels[source.splits["test"]]).tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@with_files
def test_binarized_mnist_is_a_draw_of_mnist() -> None:
    # Its test rows are the test images of MNIST, sorted by class: ink only where there is grey.
    source, grey = opened("binarized-mnist"), opened("mnist")
    assert grey.labels is not None
    values: Any = source.values
    order = 60_000 + np.argsort(grey.labels[60_000:], kind="stable")
    assert not (values[60_000:] > np.asarray(grey.values)[order]).any()
    means = [values[a:b].mean() for a, b in ((0, 50_000), (50_000, 60_000), (60_000, 70_000))]
    assert means == pytest.approx([0.130562, 0.131127, 0.132512], abs=5e-7)


@with_files
def test_frey_faces_are_upright_pictures_in_order() -> None:
    faces = np.asarray(opened("frey-face").values, np.float64)[:, 0]
    # Frames of a video: neighbors resemble each other more than strangers do.
    frames = np.abs(np.diff(faces, axis=0)).mean()
    assert frames < 0.7 * np.abs(faces[1:] - faces[::-1][1:]).mean()
    # And so do pixels that touch; read with rows of 28 they differ by 46 along one axis.
    assert max(np.abs(np.diff(faces, axis=axis)).mean() for axis in (1, 2)) < 20


@with_files
def test_omniglot_says_that_it_cannot_be_compared() -> None:
    assert "published numbers" in summary("omniglot").note
    assert "cannot be compared" in summary("omniglot").note
    labels = opened("omniglot").labels
    assert labels is not None
    assert labels[:19_280].max() == 964
    assert labels[19_280:].min() == 965


def test_the_digest_of_the_digits_is_that_of_their_bytes() -> None:
    digest = hashlib.sha256(opened("digits").values.tobytes()).hexdigest()
    assert opened("digits").fingerprint == f"sha256:{digest}"


@with_files
def test_the_digest_of_a_set_is_that_of_its_checksums() -> None:
    checksums = "".join(file.sha256 for file, *_ in named._TABLE["mnist"].files)
    expected = hashlib.sha256(checksums.encode()).hexdigest()
    assert opened("mnist").fingerprint == f"sha256:{expected}"


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    for call in (open_named, summary):
        with pytest.raises(
            DataError, match=r"expected one of the data sets digits, .* found 'mnits'"
        ):
            call("mnits")


# --- file formats ------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5)))
def test_idx_files_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("idx") / "a.gz"
    path.write_bytes(pack(idx(array)))
    np.testing.assert_array_equal(read_idx(path), array)


BAD_IDX = [
    (pack(b"\x00\x00\x0d" + idx(np.eye(3))[3:]), "found one that begins with 00 00 0d 02"),
    (pack(b"\x00\x00\x08\x00abc"), "found one that begins with 00 00 08 00"),
    (pack(idx(np.eye(3))[:7]), "expected an idx file"),
    (pack(b""), "found one that begins with nothing"),
    (pack(idx(np.eye(3))[:-1]), "expected 9 values as its header says, found 8"),
    (pack(idx(np.eye(3)) + b"x"), "expected 9 values as its header says, found 10"),
    (pack(idx(np.eye(3)))[:-9], "no undamaged gzip file"),
    (idx(np.eye(3)), "no undamaged gzip file"),
    (pack(bytes(1000))[:10] + b"\xff" * 20, "no undamaged gzip file"),
]


@pytest.mark.parametrize(("content", "expected"), BAD_IDX)
def test_a_bad_idx_file_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def amat(rows: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row.ravel())) + "\n" for row in rows).encode()


@pytest.mark.parametrize("packed", [True, False])
def test_amat_files_are_read_back(tmp_path: Path, packed: bool) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (3, 1, 28, 28))
    path = tmp_path / ("a.amat.gz" if packed else "a.amat")
    path.write_bytes(pack(amat(rows)) if packed else amat(rows))
    np.testing.assert_array_equal(read_amat(path), rows)


@pytest.mark.parametrize("content", [b"", amat(np.eye(28, dtype=int)[None]) + b"0", b"2 " * 784])
def test_a_bad_amat_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.amat"
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected lines of 784 digits 0 or 1"):
        read_amat(path)


# --- a whole set over the network --------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that is served on this machine, beside an empty cache and no AEVB_DATA."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AEVB_DATA", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def offer(
    monkeypatch: pytest.MonkeyPatch,
    mirror: tuple[Path, str],
    name: str,
    contents: Mapping[str, bytes],
) -> None:
    """Serve these contents as the files of a set, in its order."""
    folder, url = mirror
    files = []
    for path, content in contents.items():
        (folder / Path(path).name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files.append((RemoteFile(path, len(content), digest, (url + Path(path).name,)),))
    entry = replace(named._TABLE[name], files=tuple(files))
    monkeypatch.setattr(named, "_TABLE", {**named._TABLE, name: entry})


def little_mnist() -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    draw = np.random.default_rng(0)
    arrays = {
        "train": draw.integers(0, 256, (7, 28, 28)),
        "train_labels": draw.integers(0, 10, 7),
        "test": draw.integers(0, 256, (3, 28, 28)),
        "test_labels": draw.integers(0, 10, 3),
    }
    return arrays, {f"mnist/{key}.gz": pack(idx(array)) for key, array in arrays.items()}


def test_a_set_is_downloaded_once_and_then_found(
    mirror: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "aevb")
    arrays, contents = little_mnist()
    offer(monkeypatch, mirror, "mnist", contents)
    assert summary("mnist").where == "not here"
    assert not summary("mnist").present
    source = open_named("mnist")
    assert len(caplog.messages) == 4
    images = np.concatenate([arrays["train"], arrays["test"]])
    np.testing.assert_array_equal(source.values, images[:, None])
    labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
    np.testing.assert_array_equal(source.labels, labels)
    assert source.splits is not None
    np.testing.assert_array_equal(source.splits["test"], [7, 8, 9])
    cached = tmp_path / "cache" / "aevb" / "mnist"
    assert sorted(path.name for path in cached.iterdir()) == sorted(f"{key}.gz" for key in arrays)
    assert summary("mnist").where == f"at {cached}"
    again = open_named("mnist")
    assert len(caplog.messages) == 4
    assert again.fingerprint == source.fingerprint


def test_a_set_that_lacks_one_file_is_not_here(
    mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = little_mnist()[1]
    offer(monkeypatch, mirror, "mnist", contents)
    open_named("mnist")
    lost = tmp_path / "cache" / "aevb" / "mnist" / "test_labels.gz"
    lost.unlink()
    assert not summary("mnist").present
    (mirror[0] / "test_labels.gz").unlink()
    with pytest.raises(DataError, match=r"test_labels\.gz could not be downloaded .*404"):
        open_named("mnist")


def test_the_plain_text_of_binarized_mnist_is_as_good(
    mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    parts = [draw.integers(0, 2, (rows, 1, 28, 28)) for rows in (4, 2, 3)]
    contents = {f"binarized_mnist/{i}.amat": amat(part) for i, part in enumerate(parts)}
    offer(monkeypatch, mirror, "binarized-mnist", contents)
    entry = named._TABLE["binarized-mnist"]
    both = tuple((RemoteFile(f"{file.path}.gz", 1, "0" * 64), file) for (file,) in entry.files)
    monkeypatch.setitem(named._TABLE, "binarized-mnist", replace(entry, files=both))
    source = open_named("binarized-mnist")
    np.testing.assert_array_equal(source.values, np.concatenate(parts))
    assert source.splits is not None
    assert {part: len(rows) for part, rows in source.splits.items()} == {
        "train": 4,
        "validation": 2,
        "test": 3,
    }


def test_omniglot_says_how_to_get_it(
    mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError) as caught:
        open_named("omniglot")
    assert "set AEVB_DATA to a folder of data sets that has it" in str(caught.value)
    assert str(tmp_path / "cache" / "aevb" / "omniglot") in str(caught.value)
    assert "area averaging" in str(caught.value)


def every_file() -> Iterator[RemoteFile]:
    for entry in named._TABLE.values():
        for forms in entry.files:
            yield from forms


def test_every_file_of_the_table_is_well_formed() -> None:
    paths = [file.path for file in every_file()]
    assert len(set(paths)) == len(paths)
    for file in every_file():
        assert file.size > 0
        assert len(bytes.fromhex(file.sha256)) == 32
        for address in file.mirrors:
            assert address.startswith(("https://", "http://"))
            assert address.endswith("/" + Path(file.path).name)


@with_files
def test_the_plain_text_in_the_table_is_the_content_of_the_packed_file() -> None:
    for file, plain in named._TABLE["binarized-mnist"].files:
        content = gzip.decompress((Path(str(DATA)) / file.path).read_bytes())
        assert len(content) == plain.size
        assert hashlib.sha256(content).hexdigest() == plain.sha256
