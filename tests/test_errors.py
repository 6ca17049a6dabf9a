from __future__ import annotations

import re
from pathlib import Path

from aimind import errors

README = Path(__file__).parents[1] / "README.md"


def test_every_exit_code_is_in_the_readme() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README.read_text(), re.MULTILINE)}
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.AimindError)
    ]
    assert {error.exit_code for error in classes} <= documented


def test_an_error_has_two_sentences() -> None:
    error = errors.HubError("what happened", hint="what to do")
    assert (str(error), error.message, error.hint) == ("what happened", "what happened", "what to do")
