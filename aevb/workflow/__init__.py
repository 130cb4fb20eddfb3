"""What the commands do, as functions of a run folder: settle, fit, score, draw, report, describe.

The faces of the project (the command line, the page) parse and print; the work is here, each in a
module of its own, imported when it is asked for: to train needs no pictures.
"""
