"""Run one command again and again, sent a signal each time at the next of the given points.

A point is a call that writes (a flush, a rename, a removal) or a step of the learner. Children are
forked from one process that has imported everything, so that a kill costs no import.
"""

import json
import os
import signal
import sys
import warnings

import torch._dynamo
import torch._functorch.eager_transforms  # noqa: F401

import aevb.data.readers
import aevb.progress  # noqa: F401
from aevb import cli
from aevb.algorithms import AEVB
from aevb.storage import RunFolder

count, limit, trace, sent = 0, None, [], signal.SIGKILL


def watch(owner, name):
    call = getattr(owner, name)

    def watched(*arguments, **named):
        global count
        count += 1
        trace.append(name)
        if count == limit:
            os.kill(os.getpid(), sent)
        return call(*arguments, **named)

    setattr(owner, name, watched)


def watch_all():
    """Every call that writes, every step, and checkpoints wherever one may be."""
    RunFolder.checkpoint_seconds = 0
    for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
        watch(os, name)
    watch(AEVB, "step")
    watch(RunFolder, "append_metrics")


def attempt(point, arguments, report):
    """One child; its wait status."""
    global limit
    pid = os.fork()
    if pid == 0:
        limit, code = point, 1
        try:
            cli.main(arguments)
        except SystemExit as error:
            code = error.code
        if report:
            with open(report, "w") as file:
                json.dump(trace, file)
        os._exit(code)
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    watch_all()
    job = json.load(sys.stdin)
    sent = job["signal"]
    statuses = []
    for folder, points in job["runs"].items():
        arguments = [*job["arguments"], "--out", folder, "--resume"]
        for point in points:
            statuses.append(attempt(point, arguments, None if point else job["report"]))
    print(json.dumps(statuses))
