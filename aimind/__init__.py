"""aimind: one command from a model reference to a running, supervised inference server."""

__version__ = "0.1.0"
