"""Load hostile folders in a process that notes what every audit event of Python was.

Called by test_hostile_models.py: the folders are on the command line, after a good one to warm up
what is imported at first use. Prints one JSON object: for each folder what was said and what was
done meanwhile.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import aevb
from aevb.errors import AevbError
from aevb.storage import RunFolder, checkpoints
from aevb.storage.files import read_json

DEEDS = (
    "exec",
    "compile",
    "import",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "tempfile.",
    "pickle.",
    "marshal.",
    "ctypes.",
    "code.__new__",
    "urllib.",
    "fcntl.",
    "pty.",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HARMLESS = {"os.listdir", "os.scandir"}
SECONDS = 60
ADDRESSES = 16 << 30
"""More than is needed, and less than a file may claim on a machine that promises any memory."""


def everything(folder):
    """Each way by which a folder is read; the first error is the answer."""
    run = RunFolder(folder)
    ways = {
        "load": lambda: aevb.load(folder),
        "settings": lambda: run.settings(),
        "shape": lambda: run.shape,
        "history": lambda: run.history(),
        "dataset": lambda: run.dataset(),
        "checkpoint": lambda: checkpoints.load(run.path / "checkpoints" / "step-000000001"),
    }
    if hasattr(run, "evaluation"):
        ways["evaluation"] = run.evaluation
    return ways


class Watch:
    def __init__(self):
        self.on = False
        self.events = []

    def hook(self, event, arguments):
        if not self.on or event in HARMLESS:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = bool((flags or 0) & WRITING) or (
                isinstance(mode, str) and set(mode) & set("wax+")
            )
            if writes:
                self.events.append(f"open {path} for writing")
        elif event.startswith(DEEDS):
            self.events.append(f"{event} {str(arguments)[:100]}")


class Hung(BaseException):
    pass


def late(number, frame):
    raise Hung


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def probe(watch, folder, way):
    read = everything(folder)[way]
    watch.events, before, started = [], peak(), time.process_time()
    signal.alarm(SECONDS)
    watch.on = True
    try:
        read()
        found = {"error": None, "said": ""}
    except AevbError as error:
        found = {"error": type(error).__name__, "said": str(error)}
    except BaseException as error:
        found = {"error": f"{type(error).__name__} escaped", "said": str(error)[:500]}
    finally:
        watch.on = False
        signal.alarm(0)
    spent = {"seconds": time.process_time() - started, "megabytes": peak() - before}
    return {**found, **spent, "events": watch.events}


def main(good, *cases):
    signal.signal(signal.SIGALRM, late)
    for read in everything(Path(good)).values():
        read()
    read_json(Path(good) / "config.json")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    watch = Watch()
    sys.addaudithook(watch.hook)
    found = {}
    for case in cases:
        way, _, folder = case.partition(":")
        found[folder] = probe(watch, Path(folder), way)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
