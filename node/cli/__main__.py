"""`python -m node.cli` is `sightline`."""

from node.cli import main

main()
