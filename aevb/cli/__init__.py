"""The command line: `aevb train`, then `evaluate`, `check`, `sample`, `impute`, `plot`, ....

Results go to stdout and progress to stderr; `--json` gives one JSON object, for errors too. Exit
codes: 0 done, 1 the run failed, 2 usage, 3 bad data, 4 bad model file, 130 and 143 interrupted.
Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

# The commands are listed by --help in the order in which their modules are imported.
from aevb.cli.root import app  # isort: skip
from aevb.cli import training  # isort: skip
from aevb.cli import judging  # isort: skip
from aevb.cli import classifying  # isort: skip
from aevb.cli import codes  # isort: skip
from aevb.cli import rows  # isort: skip
from aevb.cli import showing  # isort: skip
from aevb.cli import reproducing  # isort: skip
from aevb.cli.entry import main

__all__ = [
    "app",
    "classifying",
    "codes",
    "judging",
    "main",
    "reproducing",
    "rows",
    "showing",
    "training",
]
