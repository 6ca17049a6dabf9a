"""The supervisor: a program of its own that keeps one backend running.

It imports the standard library only, and the light parts of that, because it stays in memory beside the
model. `aimind.supervise` starts it by the path of `__main__.py`, so that the folder `aimind` is never on
`sys.path`, where `aimind/types.py` and `aimind/select.py` would take the place of the standard library's.
"""
