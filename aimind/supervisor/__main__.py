"""`python -I -S .../aimind/supervisor/__main__.py FD`: supervise what the descriptor FD describes."""

import sys

# The folder that holds the package `aimind`, put last: nothing in it can shadow the standard library.
sys.path.append(__file__.rsplit("/", 3)[0])

from aimind.supervisor import loop, spec

if __name__ == "__main__":
    sys.exit(loop.supervise(spec.read(int(sys.argv[1]))))
