"""What the commands do, as functions of a run folder: settle, fit, score, draw, report, describe.

The faces of the project (the command line, the page) parse and print; the work is here.

Each is imported when it is asked for: to train needs no pictures.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aevb.workflow.cards import evaluation_table
    from aevb.workflow.checkup import Checkup, check_up
    from aevb.workflow.description import column_lines, data_table, describe_data
    from aevb.workflow.gaps import measure_gaps
    from aevb.workflow.gradients import measure_gradients
    from aevb.workflow.material import Material, with_holes
    from aevb.workflow.outputs import write_array, write_csv, write_filled, write_rows
    from aevb.workflow.pictures import (
        KINDS,
        draw_beside,
        draw_filled,
        draw_rows,
        draw_traversals,
        draw_walk,
        file_name,
        picture,
        pictures_of,
    )
    from aevb.workflow.reports import write_report
    from aevb.workflow.scores import RowScores, judge_rows, score
    from aevb.workflow.training import fit, resolve, settle

_HOMES = {
    "cards": ["evaluation_table"],
    "checkup": ["Checkup", "check_up"],
    "description": ["column_lines", "data_table", "describe_data"],
    "gaps": ["measure_gaps"],
    "gradients": ["measure_gradients"],
    "material": ["Material", "with_holes"],
    "outputs": ["write_array", "write_csv", "write_filled", "write_rows"],
    "pictures": [
        "KINDS",
        "draw_beside",
        "draw_filled",
        "draw_rows",
        "draw_traversals",
        "draw_walk",
        "file_name",
        "picture",
        "pictures_of",
    ],
    "reports": ["write_report"],
    "scores": ["RowScores", "judge_rows", "score"],
    "training": ["fit", "resolve", "settle"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "KINDS",
    "Checkup",
    "Material",
    "RowScores",
    "check_up",
    "column_lines",
    "data_table",
    "describe_data",
    "draw_beside",
    "draw_filled",
    "draw_rows",
    "draw_traversals",
    "draw_walk",
    "evaluation_table",
    "file_name",
    "fit",
    "judge_rows",
    "measure_gaps",
    "measure_gradients",
    "picture",
    "pictures_of",
    "resolve",
    "score",
    "settle",
    "with_holes",
    "write_array",
    "write_csv",
    "write_filled",
    "write_report",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"aevb.workflow.{_HOME[name]}"), name)
    raise AttributeError(f"module 'aevb.workflow' has no attribute {name!r}")
