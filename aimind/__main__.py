"""`python -m aimind`, which is `aimind`."""

from aimind.cli import main

main()
