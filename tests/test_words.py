"""Every text that a person reads is a sentence: see `check` for what that means here.

The texts are collected from the source, without running it: messages and hints of errors, reasons, refusals,
sources of figures, signatures of logs, and the help of options.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aimind
from aimind import errors

PACKAGE = Path(aimind.__file__).parent
ERRORS = {name for name in vars(errors) if name.endswith("Error")}
# Modules whose texts do not follow the rules yet. Take a line out when they do; never add one.
NOT_YET = frozenset({"hub/failures.py"})  # its one text is put together from two that have verbs

FORBIDDEN = re.compile(r"(of|those|these|that of|whatever)\b", re.IGNORECASE)
# Participles without a regular ending.
IRREGULAR = frozenset(
    "said told heard taken beaten kept known given made found left shown held meant".split()
)
# Words with the ending of a participle that are none, or that are nouns.
NOT_PARTICIPLES = frozenset(
    "need embed feed speed seed exceed anything nothing something everything during sampling hugging".split()
)
VERBS = frozenset(
    """
    is are was were be am has have had does do did can cannot could may might must shall should will would
    """.split()
) | frozenset(
    """
    accept accepts add allocates allow allows answer answered answers applies apply arrive arrives ask
    asks become begins belong belongs bring brings check choose clear close come comes compile compiles
    compute computes conflict conflicts contain contains contradicts convert copies copy correct covers
    create declare declares depend depends disable divide divides download enable ended ends exceed
    exceeds exclude excludes exist exists expand export fail failed fails find finds fit fits follow
    follows give gives grant hold holds honor ignore ignores install installs keep keeps knows lack
    lacks leave leaves let lets limits listen listens lists load loads look looks lower make makes marks
    match matches mean means measures move name need needs obey omit open override overrides own owns
    pass print printed prints produce provide put raise ran read reads record refuse refused refuses
    remove removes repair replace report reported reports require requires reserves restart restarts
    return returns reuses review run runs see send sends sent serve serves set sets shares shorten show
    shows stands start starts stay stays stop stops store support supports takes tokenizes transcribes
    try turn turns type unset update use used uses wait waits want wants write writes
    """.split()
)


def texts(module: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, text with `X` for every value, and whether the text is an option's help."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        for expression, is_help in read_by_people(node):
            for text in spelled(expression, constants):
                yield expression.lineno, text, is_help


def read_by_people(node: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """The texts below this node as expressions, and whether each is an option's help."""
    if isinstance(node, ast.Call):
        yield from arguments_read_by_people(node)
    if isinstance(node, ast.FunctionDef) and node.name in ("refuse", "refusal", "lacks"):
        for statement in ast.walk(node):
            if isinstance(statement, ast.Return) and statement.value is not None:
                yield statement.value, False
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and str(key.value).endswith("_bytes"):
                yield value, False


def arguments_read_by_people(node: ast.Call) -> Iterator[tuple[ast.expr, bool]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in ERRORS:
        yield from ((each, False) for each in node.args[:1])
    if name in ("Reason", "Refusal"):
        yield from ((each, False) for each in node.args[1:2])
    yield from ((keywords[each], False) for each in ("hint", "cause", "remedy") if each in keywords)
    if "help" in keywords:
        yield keywords["help"], True


def spelled(node: ast.expr, constants: dict[str, ast.expr], depth: int = 0) -> list[str]:
    """All texts that an expression of literals can be; values are `X`. Empty where it is not one."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) and " " in node.value else []
    if isinstance(node, ast.JoinedStr):
        parts = [str(each.value) if isinstance(each, ast.Constant) else "X" for each in node.values]
        return ["".join(parts)] if " " in "".join(parts) else []
    if isinstance(node, ast.IfExp):
        return spelled(node.body, constants, depth) + spelled(node.orelse, constants, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        first = spelled(node.left, constants, depth)
        second = spelled(node.right, constants, depth) or ["X"]
        return ["".join(both) for both in itertools.product(first, second)]
    if isinstance(node, ast.Name) and node.id in constants and depth < 2:
        return spelled(constants[node.id], constants, depth + 1)
    return []


def check(text: str, *, is_help: bool) -> str | None:
    """What is wrong with a text: how it begins, or that it has no verb (a help may be a noun phrase)."""
    if FORBIDDEN.match(text):
        return "it begins with a pronoun or `of`"
    words = re.findall(r"[a-z][a-z'-]*", text.lower())
    if len(words) - words.count("x") < 2 and not VERBS & set(words):
        return None
    first = re.match(r"[A-Za-z]+", text)
    if first is not None and is_participle(first[0].lower()):
        return "it begins with a participle"
    # A verb at the very end belongs to a clause beside the sentence ("padded as the buffers are").
    if is_help or VERBS & set(words[:-1]) or (text.count(" ") == 1 and words[-1] in VERBS):
        return None
    return "it has no verb"


def is_participle(word: str) -> bool:
    return word in IRREGULAR or (
        word.endswith(("ed", "ing")) and len(word) > 4 and word not in NOT_PARTICIPLES
    )


def problems(module: Path) -> list[str]:
    found = []
    for line, text, is_help in texts(module):
        problem = check(text, is_help=is_help)
        if problem is not None:
            found.append(f"{line}: {problem}: {text!r}")
    return found


MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(each, marks=pytest.mark.xfail(strict=False) if each in NOT_YET else ())
        for each in MODULES
    ],
)
def test_texts_are_sentences(module: str) -> None:
    assert problems(PACKAGE / module) == []


@pytest.mark.parametrize(
    "text",
    [
        "Of the instance; made of the model's name unless said.",
        "Those of the model alone",
        "That of the plan is used",
        "taken from the configuration",
        "X tokens: asked for",
        "first choice for gguf llm models here",
        "the tensors in the header, padded as llama.cpp's buffers are",
        "one step's operations, placed and allocated by ggml's rules",
        "a row of logits a slot",
        "too little for the model",
    ],
)
def test_what_is_no_sentence_is_found(text: str) -> None:
    assert check(text, is_help=False) is not None


@pytest.mark.parametrize(
    ("text", "is_help"),
    [
        ("llama.cpp does not support tensor parallelism", False),
        ("use --context 8k", False),
        ("Maximum tokens per request: 8192 or 8k", True),
    ],
)
def test_a_sentence_passes(text: str, is_help: bool) -> None:
    assert check(text, is_help=is_help) is None
