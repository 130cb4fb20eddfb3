"""Where the bound of a run goes: its gaps on training rows and on test rows."""

from collections.abc import Callable

from aevb.devices import device_for
from aevb.evaluation import Gaps, gaps, worth_compiling
from aevb.evaluation.refit import SAMPLES, STEPS
from aevb.storage import RunFolder, Unfinished


def measure_gaps(
    folder: RunFolder,
    limit: int | None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Gaps:
    """The gaps of a run on up to `limit` rows of each split.

    Work that is stopped is kept in the folder, and taken up when the same is asked for again.
    Errors: UsageError for a ladder, whose numbers cannot be refined for each datum.
    """
    data = folder.dataset()
    train, test = data.train.limit(limit), data.test.limit(limit)
    model, posterior = folder.load()
    long = worth_compiling(model, posterior, train, 2 * SAMPLES * STEPS)  # forward and backward
    device = device_for("auto", long)
    places: list[Unfinished] = []

    def kept(split: str) -> Unfinished:
        about = {"gaps": split, "data": data.source.fingerprint, "limit": limit, "seed": seed}
        places.append(folder.unfinished(about))
        return places[-1]

    pair = model.to(device), posterior.to(device)
    found = gaps(*pair, train, test, seed=seed, kept=kept, progress=progress)
    for place in places:
        place.remove()
    return found
