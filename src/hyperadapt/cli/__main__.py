"""`python -m hyperadapt.cli`."""

from hyperadapt.cli.entry import main

main()
