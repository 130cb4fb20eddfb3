"""What the commands do, as functions of a run folder: settle, fit, score, draw, report, describe.

The command line parses and prints; the work is here, each in a module of its own, imported when it
is asked for: to train needs no pictures.
"""
