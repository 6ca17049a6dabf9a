"""What the user has settled once and for all: files named `aimind.toml`, and variables `AIMIND_…`.

The user's own file, that of the current folder, variables: what comes later wins, and options win over all of
them. A key is an option of `serve` (`keys`), so that there is one list of both.
"""
