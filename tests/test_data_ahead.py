"""Laws of reading ahead: order, errors in their place, an early end, and no thread left behind."""

import gc
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aevb.data.ahead import THREAD_NAME, read_ahead
from aevb.errors import UsageError


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@given(st.lists(st.integers()), st.integers(1, 6))
def test_gives_what_map_gives_and_leaves_no_thread(items: list[int], depth: int) -> None:
    assert list(read_ahead(str, items, depth)) == list(map(str, items))
    assert not threads()


@given(st.integers(0, 9), st.integers(1, 4))
def test_an_error_comes_at_its_place_and_ends_the_stream(bad: int, depth: int) -> None:
    asked: list[int] = []

    def load(item: int) -> int:
        asked.append(item)
        if item == bad:
            raise ValueError(f"item {item}")
        return item

    got: list[int] = []
    stream = read_ahead(load, range(10), depth)
    with pytest.raises(ValueError, match=f"item {bad}"):
        got.extend(stream)
    assert got == list(range(bad))
    assert asked == list(range(len(asked)))
    assert len(asked) <= bad + 1 + depth
    assert list(stream) == []
    assert not threads()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_loads_so_far_ahead_and_no_farther(depth: int) -> None:
    loaded: list[int] = []
    enough = threading.Event()

    def load(item: int) -> int:
        loaded.append(item)
        if len(loaded) == 1 + depth:
            enough.set()
        return item

    with closing(read_ahead(load, range(100), depth)) as stream:
        assert next(stream) == 0
        assert enough.wait(10)  # without another call: it is read in the background
        assert next(stream) == 1
    assert loaded == list(range(len(loaded)))  # in order, none twice
    assert len(loaded) <= 2 + depth


@pytest.mark.parametrize("how", ["close", "interrupt", "forget"])
def test_an_early_end_ends_the_thread(how: str) -> None:
    stream = read_ahead(int, iter(int, 1))  # without end
    assert next(stream) == 0
    assert len(threads()) == 1
    if how == "close":
        stream.close()
    elif how == "interrupt":
        with pytest.raises(KeyboardInterrupt), closing(stream):
            raise KeyboardInterrupt
    else:
        del stream
        gc.collect()
    assert not threads()


def test_nothing_starts_before_it_is_asked_for() -> None:
    with closing(read_ahead(int, iter(int, 1))):
        assert not threads()


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        next(read_ahead(int, range(3), 0))


@pytest.mark.parametrize(
    "end",
    ["", "stream.close()", "raise SystemExit", "import builtins; builtins.held = stream"],
)
def test_a_program_that_ends_in_the_middle_is_not_held_up(end: str) -> None:
    code = (
        "import time\n"
        "from aevb.data.ahead import read_ahead\n"
        "stream = read_ahead(lambda n: time.sleep(0.01), iter(int, 1))\n"
        f"next(stream)\n{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
