"""Reading ahead: what the next steps need is fetched while the present one computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from aevb.errors import at_least

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

THREAD_NAME = "aevb-read-ahead"


def read_ahead(
    load: Callable[[Item], Loaded], items: Iterable[Item], depth: int = 4
) -> Generator[Loaded, None, None]:
    """Give `load(item)` for each item, in order, while one thread loads what comes next.

    At most `depth` things are loaded, or being loaded, beyond the one given out last. Closing the
    generator ends the thread once the load that is under way is done; `contextlib.closing` does so
    whatever happens. A program that ends without it is not held up.
    Errors: whatever `load` raises, at its place in the order, after which there is no more;
    UsageError for a depth below 1.
    Example:
        >>> list(read_ahead(lambda n: n * n, range(5)))
        [0, 1, 4, 9, 16]
    """
    at_least(1, depth, "the number of things read ahead")
    ahead: deque[Future[Loaded]] = deque()
    pool = ThreadPoolExecutor(1, THREAD_NAME)
    try:
        for item in items:
            ahead.append(pool.submit(load, item))
            if len(ahead) > depth:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
