"""Experiments whose result is pictures: learned, judged by their bound, and drawn from."""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.files import replace_atomically
from aevb.model import Model
from aevb.reproduce.experiment import Experiment, learn
from aevb.reproduce.jobs import Share
from aevb.reproduce.watching import Told

FILE = "pictures.npy"
Array = NDArray[np.float64]


def learn_and_show(
    settings: Mapping[str, Any], folder: Path, share: Share, show: Callable[[Model], Array]
) -> dict[str, Any]:
    """Run an experiment; what the model shows, (N, X), is kept beside its checkpoints."""
    learned = learn(Experiment(**settings), folder, callbacks=[Told(share)])
    buffer = BytesIO()
    np.save(buffer, show(learned.model).astype(np.float32))
    replace_atomically(folder / FILE, buffer.getvalue())
    return learned.result | {"shape": list(learned.data.shape)}


def shown(folder: Path) -> Array:
    """What a job has kept, (N, X)."""
    kept: Array = np.load(folder / FILE, allow_pickle=False).astype(np.float64)
    return kept
