"""The home of tests/instances, for tests of conversations."""

from tests.instances.conftest import home

__all__ = ["home"]
