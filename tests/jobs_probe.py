"""Jobs for the tests of `aevb.reproduce.jobs`: other processes import them from here.

Run as a script, it does the jobs of `long_jobs` in a folder, two at once, until it is stopped.
"""

import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

HEARS = "hears-ctrl-c"


def square(settings, folder, share):
    with (Path(settings["log"])).open("a") as log:
        log.write(f"{settings['n']}\n")
    share(0.5)
    return {"square": settings["n"] ** 2}


def fail_until_mended(settings, folder, share):
    if not (Path(settings["log"]).parent / "mended").exists():
        raise ValueError("there is no such number\nand more that nobody reads")
    return square(settings, folder, share)


def die(settings, folder, share):
    os.kill(os.getpid(), signal.SIGKILL)


def long_experiment(settings, folder, share):
    """Training, with a file that says whether the process would hear the Ctrl-C of a terminal."""
    from aevb.reproduce import experiment

    if signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
        (folder / HEARS).touch()

    def slowly(done):
        time.sleep(float(os.environ.get("SECONDS_OF_A_STEP", "0")))

    experiment.STEPS_BETWEEN_SHARES = 1
    result = experiment.learn(experiment.Experiment(**settings), folder, slowly).result
    return {name: result[name] for name in ("step_size", "pilot", "curve")}


def long_jobs():
    from aevb.reproduce import Job
    from aevb.reproduce.experiment import Experiment

    experiments = [Experiment("digits", latent, 8, 16_000, 1_000, points=5) for latent in (2, 3)]
    return [Job(f"digits-{e.latent_dim}", asdict(e), long_experiment) for e in experiments]


if __name__ == "__main__":
    from aevb.errors import Interrupted
    from aevb.reproduce import How, run_all

    sys.path.insert(0, str(Path(__file__).parent))
    from jobs_probe import long_jobs as jobs_of_the_module  # by the name that a process finds

    try:
        run_all(jobs_of_the_module(), Path(sys.argv[1]), How(2))
    except Interrupted as stop:
        print(stop)
        sys.exit(stop.exit_code)
