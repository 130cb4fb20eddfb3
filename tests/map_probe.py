"""Train on a file of rows under a limit on memory that the whole of it would break.

Called by test_training.py; "whole" after the file plants that every batch copies all of it.
A process of its own, since what others have freed would be room for what must not fit.
"""

import re
import resource
import sys
from pathlib import Path

import numpy as np

import aevb
from aevb.data import Source, dataset, split
from aevb.plan import Plan
from aevb.training import train

ROOM = 150 << 20


def limit_memory():
    used = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    data = int(used.group(1)) * 1024 + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))


def main(path, *planted):
    if planted:
        dataset.rows_of = lambda values, index: np.array(values)[index]
    values = np.load(path, mmap_mode="r")
    width = values.shape[1]
    model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [4], width)))
    learner = aevb.AEVB(model, aevb.mean_field(aevb.MLP(width, [4], 4)))
    limit_memory()
    data = split(Source("large", values, (width,), "bernoulli", "", "none"), limit=2000)
    assert isinstance(data.train.values, np.memmap)
    few = type(data)(data.source, data.train, data.validation.limit(500), data.test)
    print(train(learner, few, Plan(epochs=1, batch_size=200))[0]["train"]["elbo"])


if __name__ == "__main__":
    main(*sys.argv[1:])
