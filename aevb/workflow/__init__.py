"""What the commands do, as functions of a run folder: settle, fit, score, draw, report, describe.

The faces of the project (the command line, the page) parse and print; the work is here.
"""

from aevb.workflow.cards import evaluation_table
from aevb.workflow.description import column_lines, data_table, describe_data
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

__all__ = [
    "KINDS",
    "Material",
    "RowScores",
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
