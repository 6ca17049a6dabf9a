"""A program that fetches a model as `aimind serve` does.

python -m tests.hub.pull SOURCE NAME [CHUNK_BYTES]
"""

from __future__ import annotations

import sys
from typing import cast

from aimind import hub, show
from aimind.types import Reference, Source

if __name__ == "__main__":
    reference = Reference(source=cast(Source, sys.argv[1]), name=sys.argv[2])
    chunk_bytes = int(sys.argv[3]) if len(sys.argv) > 3 else None
    print(hub.fetch(hub.resolve(reference), show.Progress(), chunk_bytes=chunk_bytes))
