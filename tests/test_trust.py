"""Code that a model brings: planning runs none of it, whatever is set, and says what would run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import forked

DEMO = Path(__file__).parents[1] / "aimind" / "demo" / "huggingface"
CLASSES = {
    "AutoConfig": "configuration_own.OwnConfig",
    "AutoModelForCausalLM": "owner/other--modeling_own.OwnModel",
}
PLANNING = [
    ("plan",),
    ("plan", "--json"),
    ("plan", "--files"),
    ("plan", "--exact"),
    ("plan", "--hardware", "24G"),
    ("serve", "--dry-run"),
    ("unit",),
]


class Folder:
    """The demo model with Python beside it that writes a file when it is run; one stands in it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "model"
        self.canary = path / "canary"
        self.home = path / "home"
        self.home.mkdir()
        shutil.copytree(DEMO, self.path)
        sings = f"open({str(self.canary)!r}, 'a').write(__name__)\n"
        # Also under names that Python's own modules, and the backends', have.
        for name in (
            "configuration_own",
            "modeling_own",
            "tokenization_own",
            "torch",
            "random",
            "sitecustomize",
        ):
            (self.path / f"{name}.py").write_text(sings)

    def change(self, file: str, **values: Any) -> None:
        path = self.path / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command, *options = arguments
        return forked.run(
            [command, str(self.path), *options],
            cwd=self.path,
            env={
                "PATH": os.defpath,
                "HOME": str(self.home),
                "AIMIND_DATA_DIR": str(self.home / "data"),
                "AIMIND_STATE_DIR": str(self.home / "state"),
                **(env or {}),
            },
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("trust", [(), ("--trust-remote-code",)], ids=["refused", "allowed"])
@pytest.mark.parametrize("arguments", PLANNING, ids=" ".join)
def test_planning_runs_nothing(folder: Folder, arguments: tuple[str, ...], trust: tuple[str, ...]) -> None:
    folder.change("config.json", model_type="own", auto_map=CLASSES)
    folder.change("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    done = folder.run(*arguments, *trust)
    assert "own Python code" in done.stderr or "--exact" in arguments, done.stdout + done.stderr
    assert not folder.canary.exists()


def test_a_refusal_names_what_would_run_and_how_to_allow_it(folder: Folder) -> None:
    folder.change("config.json", model_type="own", auto_map=CLASSES)
    done = folder.run("plan")
    assert done.returncode == 7
    for words in (
        "configuration_own.py (OwnConfig), modeling_own.py (OwnModel) of owner/other",
        f"review the code in {folder.path} and in owner/other",
    ):
        assert words in " ".join(done.stderr.split()), done.stderr


def test_what_is_allowed_is_said_and_reaches_the_backend(folder: Folder) -> None:
    folder.change("config.json", model_type="own", auto_map=CLASSES)
    done = folder.run("plan", "--json", "--trust-remote-code", "--backend", "vllm")
    assert done.returncode == 0, done.stderr
    assert "--trust-remote-code" in json.loads(done.stdout)["command"]["argv"]
    assert "owner/other is not pinned to a commit" in done.stderr
    after = folder.run("plan", "--json", "--backend", "vllm", "--", "--trust-remote-code")
    assert after.stderr == done.stderr
    assert "--trust-remote-code" in json.loads(after.stdout)["command"]["argv"]


def test_code_is_a_file_of_the_plan_only_where_it_is_allowed(folder: Folder) -> None:
    folder.change("config.json", auto_map=CLASSES)

    def files(*options: str) -> set[str]:
        done = folder.run("plan", "--json", *options)
        assert done.returncode == 0, done.stderr
        return {file["path"] for file in json.loads(done.stdout)["model"]["files"]}

    assert not [file for file in files() if file.endswith(".py")]
    assert {"configuration_own.py", "modeling_own.py"} <= files("--trust-remote-code")


def test_a_type_that_backends_have_needs_no_code(folder: Folder) -> None:
    folder.change("config.json", auto_map=CLASSES)
    done = folder.run("plan", "--json", "--backend", "vllm")
    assert done.returncode == 0, done.stderr
    assert "--trust-remote-code" not in json.loads(done.stdout)["command"]["argv"]
    allowed = folder.run("plan", "--trust-remote-code", "--backend", "vllm")
    assert "support this model without --trust-remote-code" in " ".join(allowed.stderr.split())


@pytest.mark.parametrize(
    ("kind", "fast", "refused"),
    [
        ("OwnTokenizer", True, False),  # of a type that has one, made from tokenizer.json
        ("OwnTokenizer", False, True),
        ("Qwen2Tokenizer", False, False),
    ],
)
def test_a_tokenizer_of_its_own(folder: Folder, kind: str, fast: bool, refused: bool) -> None:
    own = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "tokenizer_class": kind}
    folder.change("tokenizer_config.json", **own)
    folder.change("config.json", model_type="qwen2")
    if not fast:
        (folder.path / "tokenizer.json").unlink()
    done = folder.run("plan")
    assert done.returncode == (7 if refused else 0), done.stderr
    assert ("tokenization_own.py (Own)" in done.stderr) is refused


def test_hostile_names_of_classes_are_cut_and_quoted(folder: Folder) -> None:
    names = {f"Auto{n}": "\x1b[31m" + "x" * 5000 + str(n) for n in range(3000)} | {"AutoConfig": {"a": [1]}}
    folder.change("config.json", model_type="own", auto_map=names)
    done = folder.run("plan")
    assert done.returncode == 7
    assert "\x1b" not in done.stderr
    assert len(done.stderr) < 3000


def test_pickles_are_named(folder: Folder) -> None:
    (folder.path / "pytorch_model.bin").write_bytes(bytes(1 << 20))
    assert "are pickles" not in folder.run("plan", "--backend", "vllm").stderr  # safetensors are there
    (folder.path / "model.safetensors").unlink()
    done = folder.run("plan", "--backend", "vllm")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "its weights are pickles (pytorch_model.bin)" in said
    assert "vllm loads them with weights_only" in said


@pytest.mark.parametrize(
    ("yaml", "refused"),
    [
        (
            "llm: !new:cosyvoice.llm.llm.LLM\n  x: !ref <sample_rate>\nseed: !apply:random.seed [1986]\n",
            False,
        ),
        ("a: !apply:os.system ['true']\n", True),
        ("a: !<!apply:os.system> ['true']\n", True),
        ("%TAG !c! !apply:os\n---\na: !c!.system ['true']\n", True),
        ("a: !new:cosyvoice%2e..%2fos.system ['true']\n", True),
    ],
)
def test_a_configuration_of_cosyvoice_may_call_its_own_code_alone(
    tmp_path: Path, yaml: str, refused: bool
) -> None:
    folder = Folder(tmp_path)
    shutil.rmtree(folder.path)
    folder.path.mkdir()
    (folder.path / "cosyvoice.yaml").write_text(yaml)
    (folder.path / "llm.pt").write_bytes(bytes(1 << 20))
    done = folder.run("plan", "--backend", "vox-box")
    assert done.returncode == (7 if refused else 0), done.stderr
    assert ("would run: cosyvoice.yaml" in done.stderr) is refused
    allowed = folder.run("plan", "--backend", "vox-box", "--trust-remote-code")
    assert allowed.returncode == 0, allowed.stderr
    assert "pickles (llm.pt)" in " ".join(allowed.stderr.split())
