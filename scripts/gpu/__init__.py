"""`make test-gpu`: what llama.cpp really takes of an NVIDIA device, beside what was planned.

`carry` brings what that needs, where there is a network; `build` makes llama-server from it; `measure` serves
a model and reads the driver (`nvml`) and the log; `contexts` does so for an empty process; `report` says what
came of it.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".gpu"
CARRIED = FOLDER / "carried"
