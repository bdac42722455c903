"""`python -m penjing`."""

from penjing.cli import main

main()
