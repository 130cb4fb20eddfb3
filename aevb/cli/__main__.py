"""`python -m aevb.cli`."""

from aevb.cli import main

main()
