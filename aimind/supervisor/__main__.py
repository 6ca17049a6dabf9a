"""`python -I -S .../aimind/supervisor/__main__.py FD`: supervise what the descriptor FD describes."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C before the loop ends it, without a traceback

# The folder that holds the package `aimind`, put last: nothing in it can shadow the standard library.
sys.path.append(__file__.rsplit("/", 3)[0])

from aimind.supervisor import loop, spec

if __name__ == "__main__":
    sys.exit(loop.supervise(spec.read(int(sys.argv[1]))))
