"""Laws of tables kept from an earlier reading: the same as a fresh one, or not used at all."""

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crafted import flipped, nothing, put, replaced
from hypothesis import given
from hypothesis import strategies as st

from aevb.data import Source, converted, parquet, tables
from aevb.data.readers import read_file
from aevb.errors import DataError
from aevb.files import cache_folder

FILES = {
    "numbers": "1,2\n3,4.5\n-1e9,0.1\n",
    "header": "a,b\n1,2\n3,4\n",
    "missing": "a,b\n1,\nNA,4\n2,?\n",
    "texts": "color,n\nred,1\nblue,2\n red,3\nNA,4\n",
    "a name of two lines": '"long\nname",color\n1,red\n2,"blue\nish"\n3,red\n',
    "signs": "größe,farbe\n1,grün\n2,blå\n3,grün\n",
    "no header but a mark": "\ufeff1,2\n3,4\n",
}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept tables, for files of any size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(converted, "LEAST_BYTES", 0)
    return tmp_path / "cache" / "aevb" / "tables"


@contextmanager
def unread() -> Iterator[None]:
    """Nothing is parsed in here: what is read was kept."""

    def refuse(file: Path, rules: Any) -> None:
        raise AssertionError(f"{file} was read again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_read", refuse)
        patch.setattr(parquet, "_read", refuse)
        yield


def fresh(path: Path, **options: Any) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converted, "LEAST_BYTES", 1 << 60)
        return read_file(path, **options)


def assert_same(one: Source, other: Source) -> None:
    facts, others = vars(one).copy(), vars(other).copy()
    for name in ("values", "extremes"):
        a, b = facts.pop(name), others.pop(name)
        np.testing.assert_array_equal(a, b)
        assert (a.dtype, a.strides, a.flags.writeable) == (b.dtype, b.strides, b.flags.writeable)
        assert a.tobytes() == b.tobytes()  # NaN and all
    assert facts == others


def written(folder: Path, content: str) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_kept_table_is_the_one_that_was_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, FILES[name])
    first = read_file(path, allow_nan=True)
    with unread():
        again = read_file(path, allow_nan=True)
    assert_same(again, first)
    assert_same(again, fresh(path, allow_nan=True))


def said_of(read: Callable[..., Source], path: Path, options: dict[str, Any]) -> Any:
    """What is read, or the sentence that refuses it."""
    try:
        return read(path, **options)
    except DataError as refusal:
        return str(refusal)


CELLS = st.sampled_from(["1", "0", "-2.5", "1e30", "", "NA", "red", "blue", " red", '"a,b"', "nan"])


@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_any_table_is_the_same_or_refused_alike(
    rows: list[list[str]], header: bool, allow_nan: bool, fit: bool
) -> None:
    lines = ["one,two"] * header + [",".join(row) for row in rows]
    options: dict[str, Any] = {"allow_nan": allow_nan, "like": None if fit else ()}
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "\n".join(lines) + "\n")
        expected, first = said_of(fresh, path, options), said_of(read_file, path, options)
        if isinstance(expected, str):
            assert first == said_of(read_file, path, options) == expected
        else:
            assert_same(first, expected)
            with unread():
                assert_same(read_file(path, **options), expected)


def test_parquet_is_kept_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {"n": [1.0, None, 3.0], "c": ["x", "y", None], "k": [1, 2, 3], "b": [True, False, True]}
    )
    frame.to_parquet(tmp_path / "rows.parquet")
    expected = fresh(tmp_path / "rows.parquet")
    read_file(tmp_path / "rows.parquet")
    with unread():
        assert_same(read_file(tmp_path / "rows.parquet"), expected)


def test_sentences_name_the_line_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, FILES["a name of two lines"])
    fitted = read_file(path).columns
    strange = written(tmp_path, FILES["a name of two lines"] + "4,green\n")
    said = []
    for read in (fresh, read_file, read_file):
        with pytest.raises(DataError) as caught:
            read(strange, like=fitted)
        said.append(str(caught.value))
    assert said[0] == said[1] == said[2]
    assert "line 7" in said[0]


def test_stricter_rules_serve_looser_ones_and_never_the_other_way(tmp_path: Path) -> None:
    fitted = read_file(written(tmp_path, "a,b\nred,1\nblue,2\n")).columns
    one_text = written(tmp_path, "a,b\nred,1\nred,2\n")
    loose = read_file(one_text, like=fitted)
    assert loose.values.shape == (2, 2)
    with pytest.raises(DataError, match="one text only"):
        read_file(one_text)
    path = written(tmp_path, "a,b\nred,1\nblue,2\n")
    columns = read_file(path).columns
    with unread():
        read_file(path, like=columns)
        read_file(path, allow_nan=True)
    path = written(tmp_path, "1,nan\n2,3\n")
    read_file(path, allow_nan=True)
    with pytest.raises(DataError, match="found nan"):
        read_file(path)


def new_content(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "7"))


def same_size_and_time(path: Path) -> None:
    facts = path.stat()
    new_content(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def put_in_place(path: Path) -> None:
    facts = path.stat()
    other = path.with_name("other")
    other.write_text(path.read_text().replace("1", "7"))
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [new_content, same_size_and_time, put_in_place])
def test_a_changed_file_is_read_anew(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = written(tmp_path, FILES["numbers"])
    read_file(path)
    change(path)
    assert read_file(path).values[0, 0] == 7


def test_a_touched_file_is_read_anew(tmp_path: Path) -> None:
    path = written(tmp_path, FILES["numbers"])
    read_file(path)
    os.utime(path, ns=(0, 0))
    with unread(), pytest.raises(AssertionError, match="again"):
        read_file(path)


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, FILES["numbers"])
    whole = tables._read

    def read(file: Path, rules: Any) -> Any:
        table = whole(file, rules)
        new_content(path)
        return table

    monkeypatch.setattr(tables, "_read", read)
    assert read_file(path).values[0, 0] == 1
    assert not kept.exists()


DAMAGE: dict[str, Callable[[str], Any]] = {
    "cut": partial(put, content=lambda former: former[:-3]),
    "flipped inside": partial(put, content=lambda former: flipped(len(former) // 2)(former)),
    "flipped at the end": partial(put, content=flipped(-4)),
    "empty": partial(put, content=b""),
    "other JSON": partial(put, content=b"[1, 2]"),
    "gone": partial(replaced, make=nothing),
    "a folder": partial(replaced, make=os.mkdir),
}


@pytest.mark.parametrize("extension", [".npy", ".json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_not_used_and_written_again(
    tmp_path: Path, kept: Path, damage: str, extension: str
) -> None:
    path = written(tmp_path, FILES["texts"])
    first = read_file(path)
    (file,) = kept.glob(f"*{extension}")
    DAMAGE[damage](file.name)(kept)
    assert_same(read_file(path), first)
    if damage != "a folder":
        with unread():
            assert_same(read_file(path), first)


def test_every_byte_of_what_is_kept_counts(tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, FILES["texts"])
    first = read_file(path)
    for file in sorted(kept.iterdir()):
        content = file.read_bytes()
        for at in range(0, len(content), 7):
            changed = bytearray(content)
            changed[at] ^= 4
            file.write_bytes(changed)
            assert_same(read_file(path), first)
            file.write_bytes(content)


@pytest.mark.parametrize("place", ["a file", "no parent", "not writable"])
def test_without_a_folder_nothing_is_kept_and_nothing_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / {"a file": "file", "no parent": "file/below"}.get(place, "closed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    if place == "not writable":
        folder.mkdir(mode=0o500)

        def refuse(*args: Any, **kwargs: Any) -> None:  # whoever runs the tests may write anywhere
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    path = written(tmp_path, FILES["texts"])
    with caplog.at_level(logging.DEBUG, "aevb"):
        for _ in range(2):
            assert_same(read_file(path), fresh(path))
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert not list(folder.glob("*"))


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converted.np, "save", full)
    path = written(tmp_path, FILES["texts"])
    assert read_file(path).values.shape == (4, 2)
    assert not list(kept.iterdir())


def test_a_user_without_a_home_reads_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(converted, "cache_folder", nowhere)
    assert read_file(written(tmp_path, FILES["numbers"])).values.shape == (3, 2)


def test_small_files_are_not_kept(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, FILES["numbers"])
    monkeypatch.setattr(converted, "LEAST_BYTES", path.stat().st_size + 1)
    read_file(path)
    assert not kept.exists()
    monkeypatch.setattr(converted, "LEAST_BYTES", path.stat().st_size)
    read_file(path)
    assert len(list(kept.iterdir())) == 2
    assert cache_folder() / converted.FOLDER == kept


def test_the_least_used_goes_first(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for n in range(4):
        (tmp_path / str(n)).mkdir()
        paths.append(written(tmp_path / str(n), "\n".join(f"{n},{i}" for i in range(100)) + "\n"))
    size = 0
    for n, path in enumerate(paths[:3]):
        before = set(kept.glob("*"))
        read_file(path)
        for file in set(kept.glob("*")) - before:
            os.utime(file, (n, n))
            size += file.stat().st_size
    read_file(paths[0])  # now used last
    monkeypatch.setattr(converted, "MOST_BYTES", size)
    read_file(paths[3])
    assert sum(file.stat().st_size for file in kept.iterdir()) <= size
    with unread():
        for n in (0, 2, 3):
            read_file(paths[n])
        with pytest.raises(AssertionError, match="again"):
            read_file(paths[1])
    monkeypatch.setattr(converted, "MOST_BYTES", 10)
    before = set(kept.iterdir())
    new_content(paths[3])
    read_file(paths[3])
    assert set(kept.iterdir()) == before  # larger than all may be: nothing else makes way


def test_kept_tables_are_the_users_own(tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, FILES["numbers"])
    read_file(path)
    assert kept.stat().st_mode & 0o777 == 0o700
    (facts,) = kept.glob("*.json")
    assert str(path) in facts.read_text()


def test_readers_at_the_same_time_do_not_disturb_each_other(tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, "\n".join(f"{i},red{i % 3}" for i in range(2000)) + "\n")
    path.write_text("a,b\n" + path.read_text())
    expected, found = fresh(path), []
    start = threading.Barrier(6)

    def read() -> None:
        start.wait()
        found.append(read_file(path))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = (
        "import sys\n"
        "from aevb.data import converted, open_source\n"
        "converted.LEAST_BYTES = 0\n"
        "print(open_source(sys.argv[1]).values.sum())\n"
    )
    for file in kept.iterdir():
        file.unlink()
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [float(run.communicate()[0]) for run in runs] == [float(expected.values.sum())] * 2
    assert len(found) == 6
    for source in found:
        assert_same(source, expected)
    assert sorted(file.suffix for file in kept.iterdir()) == [".json", ".npy"]
    with unread():
        assert_same(read_file(path), expected)
