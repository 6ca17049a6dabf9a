"""A program that fetches a model as `aimind serve` does: `python -m tests.hub.pull SOURCE NAME`."""

from __future__ import annotations

import sys
from typing import cast

from aimind import hub, show
from aimind.types import Reference, Source

if __name__ == "__main__":
    reference = Reference(source=cast(Source, sys.argv[1]), name=sys.argv[2])
    print(hub.fetch(hub.resolve(reference), show.Progress()))
