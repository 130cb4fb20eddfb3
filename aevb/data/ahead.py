"""Reading ahead: what the next steps need is fetched while the present one computes."""

import sys
import threading
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import TypeVar

from aevb.errors import UsageError

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

_Answer = tuple[list[Loaded], BaseException | None]  # one thing, an error, or neither: the end

THREAD_NAME = "aevb-read-ahead"


def read_ahead(
    load: Callable[[Item], Loaded], items: Iterable[Item], depth: int = 4
) -> Generator[Loaded, None, None]:
    """Give `load(item)` for each item, in order, while one thread loads what comes next.

    At most `depth` things are loaded, or being loaded, beyond the one given out last; the items
    are drawn in that thread too. Closing the generator ends the thread once the load that is
    under way is done; `contextlib.closing` does so whatever happens. A program that ends without
    it is not held up.
    Errors: whatever `load` or the items raise, at its place in the order, after which there is no
    more; UsageError for a depth below 1.
    Example:
        >>> list(read_ahead(lambda n: n * n, range(5)))
        [0, 1, 4, 9, 16]
    """
    if depth < 1:
        raise UsageError(f"the number of things read ahead must be at least 1, found {depth}")
    answers: SimpleQueue[_Answer[Loaded]] = SimpleQueue()
    room, stop = threading.Semaphore(depth), threading.Event()
    thread = threading.Thread(
        target=_fill, args=(load, items, answers, room, stop), name=THREAD_NAME, daemon=True
    )
    thread.start()
    try:
        while True:
            loaded, error = answers.get()
            room.release()
            if error is not None:
                raise error
            if not loaded:
                return
            yield loaded.pop()
    finally:
        stop.set()
        room.release()
        # A garbage collection may close us in any thread; a dying interpreter runs no other one.
        if thread is not threading.current_thread() and not sys.is_finalizing():
            thread.join()


def _fill(
    load: Callable[[Item], Loaded],
    items: Iterable[Item],
    answers: "SimpleQueue[_Answer[Loaded]]",
    room: threading.Semaphore,
    stop: threading.Event,
) -> None:
    """What the thread does: wait for room, then load; an error is an answer like any other."""
    try:
        waiting = iter(items)
        while room.acquire() and not stop.is_set():
            for item in waiting:
                answers.put(([load(item)], None))
                break
            else:
                break
        answers.put(([], None))
    except BaseException as error:
        answers.put(([], error))
