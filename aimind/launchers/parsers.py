"""How a model writes its thoughts and calls of tools, and how the backends' parsers of these are called.

A model that was taught to call tools writes the call as text, in a form of its family, and one that thinks
writes that before its answer. vLLM and SGLang give both back in fields of their own (`tool_calls`, the
reasoning), where they are told the form by a parser's name; without one vLLM refuses requests with tools, and
thoughts stand in the answer. llama.cpp, transformers and MLX find the form out themselves.

The form is known from the model's own files: from its chat template, which has to write the same form for
earlier calls, and, where several families write alike, from its architecture. Nothing is known by name.

Sources: the parsers in vLLM 0.32.0 and SGLang 0.5.23, and vLLM's pages on tool calling and reasoning outputs.
`since` is the first version that has the parser, of those looked into (vLLM 0.8.5 to 0.32.0, SGLang 0.4.10 to
0.5.23). vLLM does not start with a parser whose words are no tokens of the tokenizer: `tokens`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aimind.launchers.arguments import plain
from aimind.launchers.base import Flag
from aimind.types import Backend, Metadata, Reason, Request, Signature, numbers

FLAGS = {
    "chat_template": Flag(spellings=("--chat-template",)),
    "tool_call_parser": Flag(spellings=("--tool-call-parser",)),
    "reasoning_parser": Flag(spellings=("--reasoning-parser",)),
}
SIGNATURES = (
    Signature(
        r"invalid (tool call|reasoning) parser|--(tool-call|reasoning)-parser: invalid choice",
        cause="this version of the backend has no parser of that name",
        remedy="use --no-auto-parsers, or choose others with -- --tool-call-parser and -- --reasoning-parser",
    ),
    Signature(
        r"parser.* could not locate|-parser .*cannot be used with the tokenizer",
        cause="the parser for tool calls or reasoning does not support the model's tokenizer",
        remedy="use --no-auto-parsers",
    ),
)
_THINK = ("<think>", "</think>")
_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
# It thinks unless `enable_thinking` is said to be false.
_UNLESS_TOLD = re.compile(
    r"enable_thinking\s+is\s+defined\s+and\s+(not\s+enable_thinking|enable_thinking\s+is\s+false)"
    r"|enable_thinking\s+if\s+enable_thinking\s+is\s+defined\s+else\s+true",
    re.IGNORECASE,
)
_WHEN_TOLD = re.compile(r"if not thinking is defined")
_TAGGED_NAME = re.compile(r"['\"]<tool_call>['\"]\s*[+~]\s*tc\.name")  # with nothing before it: GLM 4.7
Mark = str | re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Parser:
    """One of a backend's.

    Attributes:
        name: as its flag takes it.
        since: the version of the backend that has it.
        tokens: of the tokenizer that some version of it does not start without.
    """

    name: str
    since: str
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """A form that families write, and who reads it.

    Attributes:
        marks: what is in the chat template, all of it; the first is what the user is told.
        without: what is not in it.
        architectures: how the model's begins, where the marks are not enough.
        opens: the template begins every answer with this, whatever is asked.
        vllm, sglang: the parser of this backend, if it has one.
    """

    marks: tuple[Mark, ...] = ()
    without: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    opens: str = ""
    vllm: Parser | None = None
    sglang: Parser | None = None

    def fits(self, metadata: Metadata) -> bool:
        """Whether the model writes so."""
        text = metadata.chat.template
        return (
            all(mark in text if isinstance(mark, str) else mark.search(text) for mark in self.marks)
            and not any(mark in text for mark in self.without)
            and (not self.architectures or metadata.architecture.startswith(self.architectures))
            and (not self.opens or _opens(text, self.opens))
        )

    def parser(self, backend: str) -> Parser | None:
        """The backend's parser of it."""
        return {"vllm": self.vllm, "sglang": self.sglang}.get(backend)

    @property
    def why(self) -> str:
        """The part of the chat template that identifies the form, as a predicate."""
        if self.opens:
            return f"begins every answer with {self.opens}"
        return f"writes {next(mark for mark in self.marks if isinstance(mark, str))}"


# The first form that fits and whose parser the version has is used; more specific forms come first.
TOOL_CALLS = (
    Form(
        ("<|start|>assistant<|channel|>",), vllm=Parser("openai", "0.10.2"), sglang=Parser("gpt-oss", "0.5.3")
    ),
    Form(
        ("<|tool_calls_section_begin|>",),
        vllm=Parser("kimi_k2", "0.10.0"),
        sglang=Parser("kimi_k2", "0.4.10"),
    ),
    Form(("<minimax:tool_call>",), vllm=Parser("minimax_m2", "0.11.2"), sglang=Parser("minimax-m2", "0.5.5")),
    Form(("<seed:tool_call>",), vllm=Parser("seed_oss", "0.10.2")),
    Form(("<longcat_tool_call>",), vllm=Parser("longcat", "0.11.0")),
    Form(("<start_function_call>",), vllm=Parser("functiongemma", "0.14.0")),
    Form(("<|tool_call>",), vllm=Parser("gemma4", "0.19.0"), sglang=Parser("gemma4", "0.5.12")),
    Form(
        ("<|tool_call_start|>",),
        vllm=Parser("lfm2", "0.21.0", ("<|tool_call_start|>", "<|tool_call_end|>")),
        sglang=Parser("lfm2", "0.5.9"),
    ),
    Form(("<steptml:invoke",), vllm=Parser("step3", "0.10.2"), sglang=Parser("step3", "0.4.10")),
    Form(
        (_DEEPSEEK[0], "```json"),
        vllm=Parser("deepseek_v3", "0.9.0", _DEEPSEEK),
        sglang=Parser("deepseekv3", "0.4.10"),
    ),
    Form(
        (_DEEPSEEK[0],),
        without=("```json",),
        vllm=Parser("deepseek_v31", "0.10.2", _DEEPSEEK),
        sglang=Parser("deepseekv31", "0.5.3"),
    ),
    Form(
        ("[TOOL_CALLS]",),
        vllm=Parser("mistral", "0.8.5", ("[TOOL_CALLS]",)),
        sglang=Parser("mistral", "0.4.10"),
    ),
    Form(("<|action_start|>",), vllm=Parser("internlm", "0.8.5"), sglang=Parser("interns1", "0.5.7")),
    Form(("<|tool_call|>",), architectures=("Granite",), vllm=Parser("granite", "0.8.5")),
    Form(("functools",), architectures=("Phi3",), vllm=Parser("phi4_mini_json", "0.8.5")),
    Form(("<function_calls>",), architectures=("Olmo",), vllm=Parser("olmo3", "0.11.2")),
    Form(
        ("<tool_calls>",),
        architectures=("Jamba",),
        vllm=Parser("jamba", "0.8.5", ("<tool_calls>", "</tool_calls>")),
    ),
    Form(("<tool_calls>",), architectures=("HunYuan",), vllm=Parser("hunyuan_a13b", "0.10.0")),
    Form(
        ("<tool_call>", "<arg_key>", "[gMASK]", _TAGGED_NAME),
        vllm=Parser("glm47", "0.14.0"),
        sglang=Parser("glm47", "0.5.7"),
    ),
    Form(
        ("<tool_call>", "<arg_key>", "[gMASK]"),
        vllm=Parser("glm45", "0.10.2"),
        sglang=Parser("glm45", "0.4.10"),
    ),
    Form(
        ("<function=", "<parameter="),
        architectures=("Step3p5",),
        vllm=Parser("step3p5", "0.16.0"),
        sglang=Parser("step3p5", "0.5.9"),
    ),
    Form(
        ("<function=", "<parameter=", "<tool_call>"),
        vllm=Parser("qwen3_coder", "0.10.0"),
        sglang=Parser("qwen3_coder", "0.4.10"),
    ),
    Form(("<tool_call>",), architectures=("Ernie4_5",), vllm=Parser("ernie45", "0.11.2")),
    Form(("<tool_call>", "arguments"), architectures=("Granite",), vllm=Parser("granite4", "0.18.0")),
    Form(
        ("<tool_call>", "arguments"),
        without=("<tool_calls>", "<function=", "<arg_key>", "<response>"),
        vllm=Parser("hermes", "0.8.5"),
        sglang=Parser("qwen", "0.5.5"),
    ),
    Form(("single JSON array", '"tool_call_name"'), vllm=Parser("xlam", "0.9.2")),
    Form(
        ("<|header_start|>", "[func_name1("),
        vllm=Parser("llama4_pythonic", "0.9.0"),
        sglang=Parser("pythonic", "0.4.10"),
    ),
    Form(
        ("<|header_start|>", '"parameters"'),
        vllm=Parser("llama4_json", "0.8.5", ("<|python_tag|>",)),
        sglang=Parser("llama3", "0.4.10"),
    ),
    Form(
        ("<|start_header_id|>", "ipython", '"parameters"'),
        without=("<function=",),
        vllm=Parser("llama3_json", "0.8.5", ("<|python_tag|>",)),
        sglang=Parser("llama3", "0.4.10"),
    ),
)
REASONING = (
    Form(
        ("<|start|>assistant<|channel|>",),
        vllm=Parser("openai_gptoss", "0.10.2"),
        sglang=Parser("gpt-oss", "0.5.3"),
    ),
    Form(
        ("<think>", "<|tool_calls_section_begin|>"),
        vllm=Parser("kimi_k2", "0.11.2"),
        sglang=Parser("kimi_k2", "0.5.5"),
    ),
    Form(("◁think▷",), sglang=Parser("kimi", "0.4.10")),
    Form(
        ("<think>", "<minimax:tool_call>"),
        vllm=Parser("minimax_m2_append_think", "0.11.2", _THINK),
        sglang=Parser("minimax-append-think", "0.5.5"),
    ),
    Form(("<seed:think>",), vllm=Parser("seed_oss", "0.11.0", ("<seed:think>", "</seed:think>"))),
    Form(("<|channel>",), vllm=Parser("gemma4", "0.19.0"), sglang=Parser("gemma4", "0.5.12")),
    Form(
        ("[THINK]",), vllm=Parser("mistral", "0.32.0", ("[TOOL_CALLS]",)), sglang=Parser("mistral", "0.5.10")
    ),
    Form(
        ("<think>", "[gMASK]", _UNLESS_TOLD),
        vllm=Parser("glm45", "0.10.2", _THINK),
        sglang=Parser("glm45", "0.4.10"),
    ),
    Form(("Here is my thought process:",), architectures=("Granite",), vllm=Parser("granite", "0.9.0")),
    Form(("<think>", "<answer>"), architectures=("HunYuan",), vllm=Parser("hunyuan_a13b", "0.10.0")),
    Form(("<think>",), architectures=("Ernie4_5",), vllm=Parser("ernie45", "0.11.2", _THINK)),
    Form(
        ("<think>",),
        architectures=("Step3p5",),
        vllm=Parser("step3p5", "0.16.0", _THINK),
        sglang=Parser("step3p5", "0.5.9"),
    ),
    Form(
        ("<think>",),
        architectures=("Step3VL", "Step3Text"),
        vllm=Parser("step3", "0.10.2", _THINK),
        sglang=Parser("step3", "0.4.10"),
    ),
    Form(
        architectures=("Olmo",),
        opens="<think>",
        vllm=Parser("olmo3", "0.11.2"),
        sglang=Parser("deepseek-r1", "0.4.10"),
    ),
    Form(
        ("<think>", "truncate_history_thinking", _UNLESS_TOLD),
        architectures=("Nemotron",),
        vllm=Parser("nemotron_v3", "0.18.0", _THINK),
        sglang=Parser("nemotron_3", "0.5.10"),
    ),
    Form(
        ("<think>", "<｜Assistant｜>", _WHEN_TOLD),
        without=("DSML",),  # V3.2 and later write otherwise
        vllm=Parser("deepseek_v3", "0.11.2", _THINK),
        sglang=Parser("deepseek-v3", "0.5.3"),
    ),
    Form(
        ("<think>", "<|im_start|>", _UNLESS_TOLD),
        vllm=Parser("qwen3", "0.9.0", _THINK),
        sglang=Parser("qwen3", "0.4.10"),
    ),
    Form(
        opens="<think>", vllm=Parser("deepseek_r1", "0.9.0", _THINK), sglang=Parser("deepseek-r1", "0.4.10")
    ),
)


def choose(
    flags: Mapping[str, Flag], metadata: Metadata, request: Request, backend: Backend
) -> tuple[Request, tuple[Reason, ...]]:
    """The request with the parsers for what the model writes, and why these; what the user said stays.

    Nothing is chosen where the user wants none or brings another template, where the form is not one of
    these, and where this version of the backend has no parser for it.
    """
    template_is_ours = request.chat_template is None and metadata.category in ("llm", "vision-language")
    if request.auto_parsers is False or not template_is_ours or not set(FLAGS) <= set(flags):
        return request, ()
    reasons: list[Reason] = []
    if request.tool_call_parser is None and request.auto_tool_choice is not False:
        request, reason = _tools(flags, metadata, request, backend)
        reasons += reason
    if request.reasoning_parser is None and not _says(request, "--reasoning-parser"):
        for form, parser in _candidates(REASONING, metadata, backend, flags["reasoning_parser"]):
            request = dataclasses.replace(request, reasoning_parser=parser.name)
            sentence = f"the reasoning parser is {parser.name}, because the chat template {form.why}"
            reasons.append(Reason("reasoning_parser", sentence))
            break
    return request, tuple(reasons)


def _tools(
    flags: Mapping[str, Flag], metadata: Metadata, request: Request, backend: Backend
) -> tuple[Request, tuple[Reason, ...]]:
    """Choose the parser for tool calls.

    A template that omits the tools would silently ignore them, so tool calls then stay disabled.
    """
    found = next(_candidates(TOOL_CALLS, metadata, backend, flags["tool_call_parser"]), None)
    if found is None:
        return request, ()
    form, parser = found
    auto = flags.get("auto_tool_choice")
    if not _lists_tools(metadata.chat.template):
        words = ("--chat-template FILE", *(auto.spellings if auto else ()), "--tool-call-parser", parser.name)
        sentence = (
            f"tool calls are disabled: the chat template {form.why}, but does not list the tools for the "
            f"model; to enable them with another template, use -- {' '.join(words)}"
        )
        return request, (Reason("tool_call_parser", sentence),)
    request = dataclasses.replace(
        request, tool_call_parser=parser.name, auto_tool_choice=True if auto else None
    )
    sentence = f"the tool call parser is {parser.name}, because the chat template {form.why}"
    return request, (Reason("tool_call_parser", sentence),)


def _candidates(
    forms: tuple[Form, ...], metadata: Metadata, backend: Backend, flag: Flag
) -> Iterator[tuple[Form, Parser]]:
    """The forms that the model writes and this version of the backend reads."""
    if backend.flags is not None and flag.spellings[0] not in map(plain, backend.flags):
        return
    for form in forms:
        parser = form.parser(backend.name)
        if (
            parser is not None
            and form.fits(metadata)
            and numbers(backend.version) >= numbers(parser.since)
            and metadata.chat.tokens.issuperset(parser.tokens)
        ):
            yield form, parser


def _says(request: Request, flag: str) -> bool:
    """Whether the user's arguments name the key that a flag stands for (`--structured-outputs-config`)."""
    key = flag.removeprefix("--").replace("-", "_")
    return any(key in word.replace("-", "_") for word in request.extra)


def _lists_tools(template: str) -> bool:
    """Whether its code has the variable `tools`, the list that comes with a request."""
    blocks = (block.partition("%}")[0].partition("}}")[0] for block in re.split(r"\{[{%]", template)[1:])
    return any(re.search(r"(?<![\w.'\"])tools\b", block) for block in blocks)


def _opens(template: str, word: str) -> bool:
    """Whether the last that it writes before an answer is this word, and nothing switches that off."""
    _, asked, rest = template.rpartition("add_generation_prompt")
    closed = f"{word[:1]}/{word[1:]}"
    return bool(asked) and word in rest and closed not in rest and "enable_thinking" not in template
