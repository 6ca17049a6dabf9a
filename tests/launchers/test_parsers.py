"""Which parsers are named for which models; the templates here have only what tells the families apart."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import pytest

from aimind import plan
from aimind.document import document
from aimind.launchers import LAUNCHERS, llama_server, sglang, vllm
from aimind.launchers.parsers import FLAGS, REASONING, SIGNATURES, TOOL_CALLS, Form, choose
from aimind.types import Backend, Category, Chat, Metadata, Plan, Request
from tests.samples import device, host, llama, model

# How templates list the tools of a request.
LIST = "{%- if tools %}{%- for tool in tools %}{{ tool | tojson }}{%- endfor %}{%- endif %}"


def asks(opening: str) -> str:
    """How templates end, to have an answer follow."""
    return "{%- if add_generation_prompt %}{{ '" + opening + "' }}{%- endif %}"


CHATML = asks("<|im_start|>assistant\\n")
SWITCH = "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}"
HERMES = LIST + '<tool_call>{"name": …, "arguments": …}</tool_call>'
CODER = LIST + "<tool_call><function=name><parameter=key>value</parameter></function></tool_call>"
GLM = "[gMASK]<sop>" + LIST + "<arg_key>…</arg_key><arg_value>…</arg_value></tool_call><think>"
GLM_SWITCH = "{{ '<think></think>' if (enable_thinking is defined and not enable_thinking) else '' }}"
LLAMA = '<|start_header_id|>Environment: ipython{"name": …, "parameters": …}'
DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>…<｜tool▁sep｜>…<｜tool▁calls▁end｜>"
THINK = ("<think>", "</think>")
R1 = DEEPSEEK + "function```json"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model, and the parsers that it shall get: of tool calls, and of its reasoning."""

    template: str
    vllm: tuple[str | None, str | None]
    sglang: tuple[str | None, str | None]
    architecture: str = "LlamaForCausalLM"
    tokens: tuple[str, ...] = ()


FAMILIES = {
    "Qwen2.5": Family(template=HERMES + CHATML, vllm=("hermes", None), sglang=("qwen", None)),
    "Qwen3": Family(
        template=HERMES + CHATML + "<think>" + SWITCH,
        tokens=THINK,
        vllm=("hermes", "qwen3"),
        sglang=("qwen", "qwen3"),
    ),
    "Qwen3 Instruct of July 2025, which strips thoughts of others": Family(
        template=HERMES + "{{ content.split('</think>')[-1] }}" + CHATML,
        tokens=THINK,
        vllm=("hermes", None),
        sglang=("qwen", None),
    ),
    "Qwen3 Thinking, QwQ": Family(
        template=HERMES + "</think>" + asks("<|im_start|>assistant\\n<think>\\n"),
        tokens=THINK,
        vllm=("hermes", "deepseek_r1"),
        sglang=("qwen", "deepseek-r1"),
    ),
    "Qwen3-Coder": Family(template=CODER + CHATML, vllm=("qwen3_coder", None), sglang=("qwen3_coder", None)),
    "Qwen3.5": Family(
        template=CODER + CHATML + SWITCH,
        tokens=THINK,
        vllm=("qwen3_coder", "qwen3"),
        sglang=("qwen3_coder", "qwen3"),
    ),
    "Hermes": Family(template=HERMES, vllm=("hermes", None), sglang=("qwen", None)),
    "Llama 3": Family(
        template=LIST + LLAMA,
        tokens=("<|python_tag|>",),
        vllm=("llama3_json", None),
        sglang=("llama3", None),
    ),
    "Llama 4, JSON": Family(
        template=LIST + '<|header_start|><|python_start|>{"name": …, "parameters": …}<|python_end|>',
        vllm=(None, None),  # its tokenizer has no <|python_tag|>
        sglang=("llama3", None),
    ),
    "Llama 4, Python": Family(
        template=LIST + "<|header_start|>[func_name1(params_name1=…)]",
        vllm=("llama4_pythonic", None),
        sglang=("pythonic", None),
    ),
    "Mistral": Family(
        template="{% if tools is not none %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]",
        tokens=("[TOOL_CALLS]",),
        architecture="MistralForCausalLM",
        vllm=("mistral", None),
        sglang=("mistral", None),
    ),
    "Magistral": Family(
        template=LIST + "[TOOL_CALLS]{{ '[THINK]' + block['thinking'] + '[/THINK]' }}",
        tokens=("[TOOL_CALLS]",),
        architecture="Mistral3ForConditionalGeneration",
        vllm=("mistral", "mistral"),
        sglang=("mistral", "mistral"),
    ),
    "DeepSeek V3 with a template that has tools": Family(
        template=LIST + R1 + asks("<｜Assistant｜>"),
        tokens=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        architecture="DeepseekV3ForCausalLM",
        vllm=("deepseek_v3", None),
        sglang=("deepseekv3", None),
    ),
    "DeepSeek R1": Family(
        template=R1 + "</think>" + asks("<｜Assistant｜><think>\\n"),
        tokens=(*THINK, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        architecture="DeepseekV3ForCausalLM",
        vllm=(None, "deepseek_r1"),
        sglang=(None, "deepseek-r1"),
    ),
    "DeepSeek V3.1 with a template that has tools": Family(
        template="{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        + LIST
        + DEEPSEEK
        + "{% if add_generation_prompt %}<｜Assistant｜>{% if thinking %}<think>{% else %}</think>",
        tokens=(*THINK, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        architecture="DeepseekV3ForCausalLM",
        vllm=("deepseek_v31", "deepseek_v3"),
        sglang=("deepseekv31", "deepseek-v3"),
    ),
    "Granite 3.2": Family(
        template=LIST + "<|tool_call|>…Here is my thought process:…Here is my response:",
        architecture="GraniteForCausalLM",
        vllm=("granite", "granite"),
        sglang=(None, None),
    ),
    "Granite 4": Family(
        template=HERMES,
        architecture="GraniteMoeHybridForCausalLM",
        vllm=("granite4", None),
        sglang=("qwen", None),
    ),
    "Phi-4-mini, whose tools are in a message": Family(
        template="{% if message['tools'] %}<|tool|>{{ message['tools'] }}<|/tool|>{% endif %}",
        architecture="Phi3ForCausalLM",
        vllm=(None, None),
        sglang=(None, None),
    ),
    "Kimi K2": Family(
        template=LIST + "<|tool_calls_section_begin|>",
        architecture="DeepseekV3ForCausalLM",
        vllm=("kimi_k2", None),
        sglang=("kimi_k2", None),
    ),
    "Kimi K2 Thinking": Family(
        template=LIST + "<|tool_calls_section_begin|>{{ '<think>' + message.reasoning }}",
        architecture="DeepseekV3ForCausalLM",
        vllm=("kimi_k2", "kimi_k2"),
        sglang=("kimi_k2", "kimi_k2"),
    ),
    "GLM 4.5": Family(
        template=GLM + "{{ '\\n<tool_call>' + tc.name }}" + GLM_SWITCH,
        tokens=THINK,
        architecture="Glm4MoeForCausalLM",
        vllm=("glm45", "glm45"),
        sglang=("glm45", "glm45"),
    ),
    "GLM 4.7": Family(
        template=GLM + "{{- '<tool_call>' + tc.name -}}" + GLM_SWITCH,
        tokens=THINK,
        architecture="Glm4MoeForCausalLM",
        vllm=("glm47", "glm45"),
        sglang=("glm47", "glm45"),
    ),
    "MiniMax M1": Family(
        template=LIST + '<tool_calls>{"name": …, "arguments": …}</tool_calls>',
        architecture="MiniMaxM1ForCausalLM",
        vllm=(None, None),  # vLLM has dropped its parser
        sglang=(None, None),
    ),
    "MiniMax M2": Family(
        template=LIST + "<minimax:tool_call>" + asks("]~b]ai\\n<think>\\n"),
        tokens=THINK,
        architecture="MiniMaxM2ForCausalLM",
        vllm=("minimax_m2", "minimax_m2_append_think"),
        sglang=("minimax-m2", "minimax-append-think"),
    ),
    "gpt-oss": Family(
        template=LIST + "<|start|>assistant<|channel|>analysis<|message|>",
        architecture="GptOssForCausalLM",
        vllm=("openai", "openai_gptoss"),
        sglang=("gpt-oss", "gpt-oss"),
    ),
    "Seed-OSS": Family(
        template=LIST + "<seed:think>…<seed:tool_call><function=name><parameter=key>",
        tokens=("<seed:think>", "</seed:think>"),
        architecture="SeedOssForCausalLM",
        vllm=("seed_oss", "seed_oss"),
        sglang=(None, None),
    ),
    "Step 3": Family(
        template=LIST + '<｜tool_calls_begin｜><steptml:invoke name="…">' + asks("<think>\\n"),
        tokens=THINK,
        architecture="Step3VLForConditionalGeneration",
        vllm=("step3", "step3"),
        sglang=("step3", "step3"),
    ),
    "Step 3.5": Family(
        template=CODER + asks("<|im_start|>assistant\\n<think>\\n"),
        tokens=THINK,
        architecture="Step3p5ForCausalLM",
        vllm=("step3p5", "step3p5"),
        sglang=("step3p5", "step3p5"),
    ),
    "Hunyuan A13B": Family(
        template=LIST + '<tool_calls><tool_call>{"name": …, "arguments": …}<think>…<answer>',
        architecture="HunYuanMoEV1ForCausalLM",
        vllm=("hunyuan_a13b", "hunyuan_a13b"),
        sglang=(None, None),
    ),
    "InternLM": Family(
        template=LIST + "<|action_start|><|plugin|>",
        architecture="InternLM3ForCausalLM",
        vllm=("internlm", None),
        sglang=("interns1", None),
    ),
    "Jamba": Family(
        template=LIST + "<tool_calls>[…]</tool_calls>",
        tokens=("<tool_calls>", "</tool_calls>"),
        architecture="JambaForCausalLM",
        vllm=("jamba", None),
        sglang=(None, None),
    ),
    "Gemma 3": Family(
        template="<start_of_turn>user{{ message['content'] }}<end_of_turn>",
        architecture="Gemma3ForConditionalGeneration",
        vllm=(None, None),
        sglang=(None, None),
    ),
    "Gemma 4": Family(
        template=LIST + "<|tool_call>call:…<tool_call|><|channel>thought",
        architecture="Gemma4ForConditionalGeneration",
        vllm=("gemma4", "gemma4"),
        sglang=("gemma4", "gemma4"),
    ),
    "ERNIE 4.5 Thinking": Family(
        template=LIST + '<think>…</think><response>…</response><tool_call>{"name": …, "arguments": …}',
        tokens=THINK,
        architecture="Ernie4_5_MoeForCausalLM",
        vllm=("ernie45", "ernie45"),
        sglang=(None, None),
    ),
    "Olmo 3 Think": Family(
        template=LIST + "<function_calls>" + asks("<|im_start|>assistant\\n<think>"),
        tokens=THINK,
        architecture="Olmo3ForCausalLM",
        vllm=("olmo3", "olmo3"),
        sglang=(None, "deepseek-r1"),
    ),
    "xLAM 2": Family(
        template=LIST + 'make calls in a single JSON array: [{"name": "tool_call_name", "arguments": …}]',
        vllm=("xlam", None),
        sglang=(None, None),
    ),
    "Nemotron 3": Family(
        template=CODER
        + "{% set truncate_history_thinking = true %}"
        + "{% set enable_thinking = enable_thinking if enable_thinking is defined else True %}"
        + asks("<|im_start|>assistant\\n<think>\\n"),
        tokens=THINK,
        architecture="NemotronHForCausalLM",
        vllm=("qwen3_coder", "nemotron_v3"),
        sglang=("qwen3_coder", "nemotron_3"),
    ),
    "a model that thinks only when told to": Family(
        template=HERMES
        + "{% if add_generation_prompt %}<|im_start|>{% if enable_thinking %}<think>{% endif %}{% endif %}",
        tokens=THINK,
        vllm=("hermes", None),
        sglang=("qwen", None),
    ),
    "one of no known form": Family(template=LIST + "<SPECIAL>", vllm=(None, None), sglang=(None, None)),
    "no template": Family(template="", vllm=(None, None), sglang=(None, None)),
}


def metadata(family: Family, category: Category = "llm") -> Metadata:
    return dataclasses.replace(
        llama(safetensors=True),
        architecture=family.architecture,
        category=category,
        chat=Chat(template=family.template, tokens=frozenset(family.tokens)),
    )


def planned(name: str, backend: str = "vllm", *extra: str, auto: bool | None = None) -> Plan:
    read = metadata(FAMILIES[name])
    # By force, since vLLM has dropped MiniMax M1 and a user may have an older one.
    request = Request(backend=backend, extra=extra, auto_parsers=auto, force=True)
    return plan.make(model(read), read, host(device(free_gib=80)), request, LAUNCHERS)


def parsers(decided: Plan) -> tuple[str | None, str | None]:
    return decided.settings.tool_call_parser, decided.settings.reasoning_parser


def reasons(decided: Plan) -> dict[str, str]:
    return {each.field: each.sentence for each in decided.reasons if each.field.endswith("_parser")}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gets_its_parsers(name: str) -> None:
    assert parsers(planned(name)) == FAMILIES[name].vllm
    assert parsers(planned(name, "sglang")) == FAMILIES[name].sglang


def test_the_plan_says_which_and_why_and_the_command_has_them() -> None:
    decided = planned("Qwen3")
    assert reasons(decided) == {
        "tool_call_parser": "the tool call parser is hermes, because the chat template writes <tool_call>",
        "reasoning_parser": "the reasoning parser is qwen3, because the chat template writes <think>",
    }
    command = vllm.command(decided, "/weights")
    argv = " ".join(command.argv)
    assert "--enable-auto-tool-choice" in argv
    assert "--tool-call-parser hermes" in argv
    assert "--reasoning-parser qwen3" in argv
    shown = document(decided, command)
    assert (shown["tool_call_parser"], shown["reasoning_parser"]) == ("hermes", "qwen3")
    argv = " ".join(sglang.command(planned("Qwen3", "sglang"), "/weights").argv)
    assert "--tool-call-parser qwen --reasoning-parser qwen3" in argv
    assert "auto-tool-choice" not in argv
    opened = reasons(planned("Qwen3 Thinking, QwQ"))["reasoning_parser"]
    assert (
        opened
        == "the reasoning parser is deepseek_r1, because the chat template begins every answer with <think>"
    )


def test_of_what_is_not_recognized_nothing_is_said() -> None:
    for name in ("one of no known form", "no template", "Gemma 3"):
        decided = planned(name)
        assert reasons(decided) == {}
        assert "parser" not in " ".join(vllm.command(decided, "/weights").argv)
        assert "tool_call_parser" not in document(decided, vllm.command(decided, "/weights"))


def test_a_template_that_leaves_the_tools_out_is_told() -> None:
    """The server would take the tools, and the model never see them."""
    assert reasons(planned("DeepSeek R1"))["tool_call_parser"] == (
        "tool calls are disabled: the chat template writes <｜tool▁calls▁begin｜>, but does not list the "
        "tools for the model; to enable them with another template, use -- --chat-template FILE "
        "--enable-auto-tool-choice --tool-call-parser deepseek_v3"
    )
    told = reasons(planned("DeepSeek R1", "sglang"))["tool_call_parser"]
    assert told.endswith("with another template, use -- --chat-template FILE --tool-call-parser deepseekv3")


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_what_the_user_says_stays(backend: str) -> None:
    own = planned("Qwen3", backend, "--tool-call-parser", "mine")
    assert parsers(own) == ("mine", "qwen3")
    assert own.settings.auto_tool_choice is None
    own = planned("Qwen3", backend, "--reasoning-parser=mine")
    assert own.settings.reasoning_parser == "mine"
    assert own.settings.tool_call_parser in ("hermes", "qwen")
    assert "reasoning_parser" not in reasons(own)
    assert parsers(planned("Qwen3", backend, "--chat-template", "./own.jinja")) == (None, None)
    assert parsers(planned("Qwen3", backend, auto=False)) == (None, None)
    assert parsers(planned("Qwen3", backend, "--tool-call-parser", "mine", auto=False)) == ("mine", None)


def test_vllm_may_be_told_otherwise_in_more_ways() -> None:
    assert parsers(planned("Qwen3", "vllm", "--no-enable-auto-tool-choice")) == (None, "qwen3")
    decided = planned("Qwen3", "vllm", "--enable-auto-tool-choice")
    assert parsers(decided) == ("hermes", "qwen3")
    assert vllm.command(decided, "/w").argv.count("--enable-auto-tool-choice") == 1
    for said in (
        "--structured-outputs-config.reasoning_parser",
        "--structured_outputs_config.reasoning-parser",
    ):
        assert parsers(planned("Qwen3", "vllm", said, "mine")) == ("hermes", None)


def chosen(name: str, backend: Backend) -> tuple[str | None, str | None]:
    flags = {"vllm": vllm, "sglang": sglang}[backend.name].FLAGS
    request, _ = choose(flags, metadata(FAMILIES[name]), Request(), backend)
    return request.tool_call_parser, request.reasoning_parser


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("Qwen3", "0.8.5", ("hermes", None)),
        ("Qwen3", "0.9.0.1", ("hermes", "qwen3")),
        ("Qwen3", "0.8.4", (None, None)),
        ("Granite 4", "0.17.1", ("hermes", None)),  # which reads it, too
        ("Granite 4", "0.18.0rc1", ("granite4", None)),
        ("GLM 4.7", "0.13.0", ("glm45", "glm45")),
        ("Seed-OSS", "0.10.2+cpu", ("seed_oss", None)),
        ("Qwen3-Coder", "0.9.2", (None, None)),
        ("ERNIE 4.5 Thinking", "0.11.0", (None, None)),
    ],
)
def test_an_older_version_gets_what_it_has(
    name: str, version: str, found: tuple[str | None, str | None]
) -> None:
    assert chosen(name, Backend(name="vllm", version=version, executable="/x")) == found


def test_a_version_without_the_flag_gets_none() -> None:
    told = frozenset({"--tool_call_parser", "--other"})
    for name in ("vllm", "sglang"):
        version = "99.0" if name == "vllm" else "0.5.23"
        backend = Backend(name=name, version=version, executable="/x", flags=told)
        tool, reasoning = chosen("Qwen3", backend)
        assert tool is not None
        assert reasoning is None


def test_vllm_gets_no_parser_that_its_tokenizer_would_not_let_start() -> None:
    for name, left in (("Qwen3", ("hermes", None)), ("Llama 3", (None, None)), ("Mistral", (None, None))):
        bare = dataclasses.replace(FAMILIES[name], tokens=())
        backend = Backend(name="vllm", version="0.32.0", executable="/x")
        request, said = choose(vllm.FLAGS, metadata(bare), Request(), backend)
        assert (request.tool_call_parser, request.reasoning_parser) == left
        assert len(said) == len([parser for parser in left if parser])


def test_only_what_answers_has_parsers() -> None:
    backend = Backend(name="vllm", version="0.32.0", executable="/x")
    seeing = metadata(FAMILIES["Qwen3"], "vision-language")
    assert choose(vllm.FLAGS, seeing, Request(), backend)[0].tool_call_parser == "hermes"
    pooling = metadata(FAMILIES["Qwen3"], "embedding")
    assert choose(vllm.FLAGS, pooling, Request(), backend) == (Request(), ())
    own = Backend(name="llama-server", version="9999", executable="/x")
    assert choose(llama_server.FLAGS, metadata(FAMILIES["Qwen3"]), Request(), own) == (Request(), ())


def test_a_hostile_template_takes_no_time() -> None:
    """As large as one may be, made of what the search begins with."""
    backend = Backend(name="vllm", version="0.32.0", executable="/x")
    for piece in ("{%", "{{ tools", "enable_thinking ", "'<tool_call>' ", "add_generation_prompt<think>"):
        text = piece * ((1 << 20) // len(piece)) + "<tool_call>arguments"
        hostile = dataclasses.replace(FAMILIES["Qwen3"], template=text)
        request, _ = choose(vllm.FLAGS, metadata(hostile), Request(), backend)
        assert request.tool_call_parser == ("hermes" if "tools" in piece else None)


@pytest.mark.parametrize("form", [*TOOL_CALLS, *REASONING], ids=lambda form: form.why)
def test_every_form_can_be_told_and_is_read_by_a_backend(form: Form) -> None:
    assert form.vllm or form.sglang
    assert form.marks or form.opens
    for parser in filter(None, (form.vllm, form.sglang)):
        assert re.fullmatch(r"\d+\.\d+\.\d+", parser.since)


@pytest.mark.parametrize(
    "line",
    [
        "KeyError: 'invalid tool call parser: hermes (chose from { granite,jamba })'",
        "KeyError: 'invalid reasoning parser: qwen3 (chose from { deepseek_r1 })'",
        "launch_server.py: error: argument --tool-call-parser: invalid choice: 'qwen' (choose from 'llama3')",
        "RuntimeError: DeepSeekR1ReasoningParser reasoning parser could not locate think start/end tokens",
        "TypeError: --reasoning-parser deepseek_r1 cannot be used with the tokenizer of '/m': x",
    ],
)
def test_an_end_by_a_parser_has_its_remedy(line: str) -> None:
    (found,) = (each for each in SIGNATURES if re.search(each.pattern, line))
    assert "--no-auto-parsers" in (found.remedy or "")
    assert set(SIGNATURES) <= set(vllm.SIGNATURES) & set(sglang.SIGNATURES)
    assert set(FLAGS) <= set(vllm.FLAGS) & set(sglang.FLAGS)
