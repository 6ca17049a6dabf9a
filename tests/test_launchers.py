"""One conformance test over all launchers: what each promises by the contract of `launchers/base.py`."""

from __future__ import annotations

import dataclasses
import email
import inspect
import io
import math
import wave
from email.policy import HTTP
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind import plan
from aimind.errors import UnsupportedError, UsageError
from aimind.launchers import LAUNCHERS, llama_cpp_python, vox_box
from aimind.launchers.arguments import absorb, render
from aimind.launchers.base import DEVICE_VARIABLES, Flag, Launcher, takes_key
from aimind.launchers.hello import hello
from aimind.types import File, Host, Metadata, Package, Plan, Request
from tests.samples import device, host, llama, model, speech

SECRET = "canary-4f1d"

every_launcher = pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.NAME)


MODELS = (llama(), llama(safetensors=True), speech())


MACHINES = (
    host(device()),
    host(device(vendor="ascend", free_gib=64)),
    dataclasses.replace(host(), os="macos", arch="arm64"),
)


def at_home(launcher: Launcher) -> tuple[Metadata, Host]:
    """A model that it takes, and where."""
    return next(
        (metadata, machine)
        for machine in MACHINES
        for metadata in MODELS
        if launcher.refuse(metadata, machine) is None
    )


def planned(launcher: Launcher, request: Request) -> Plan:
    metadata, machine = at_home(launcher)
    asked = dataclasses.replace(request, backend=launcher.NAME)
    return plan.make(model(metadata), metadata, machine, asked, LAUNCHERS)


@every_launcher
def test_it_is_one_short_file_named_after_itself(launcher: Launcher) -> None:
    assert isinstance(launcher, ModuleType)
    path = Path(inspect.getsourcefile(launcher) or "")
    assert path.stem == launcher.NAME.replace("-", "_")
    assert len(path.read_text().splitlines()) < 150


@every_launcher
def test_every_spelling_means_one_thing(launcher: Launcher) -> None:
    spellings = [s for flag in launcher.FLAGS.values() for s in (*flag.spellings, *flag.off)]
    assert len(spellings) == len(set(spellings))
    assert not set(spellings) & set(launcher.RESERVED)
    assert set(launcher.FLAGS) <= {field.name for field in dataclasses.fields(Request)}


def values(flag: Flag) -> st.SearchStrategy[object]:
    match flag.kind:
        case "switch" | "boolean":
            return st.booleans() if flag.off or flag.kind == "boolean" else st.just(value=True)
        case "int" | "tokens":
            return st.integers(1, 10**6)
        case "float":
            return st.integers(1, 99).map(lambda n: n / 100)
        case "floats":
            return st.lists(st.integers(1, 99).map(float), min_size=1, max_size=8).map(tuple)
        case _:
            known = [str(meaning) for _, meaning in flag.words if meaning is not None]
            return st.sampled_from(known) if known else st.from_regex(r"[a-z0-9_./]{1,20}", fullmatch=True)


@every_launcher
@given(data=st.data())
def test_absorb_undoes_render(launcher: Launcher, data: st.DataObject) -> None:
    """Law: the arguments that a plan's settings become are read back as these settings."""
    fields = {name: data.draw(st.none() | values(flag), label=name) for name, flag in launcher.FLAGS.items()}
    settings = Request(**fields)  # type: ignore[arg-type]
    assert absorb(launcher, Request(extra=render(launcher.FLAGS, settings))) == settings


@every_launcher
@pytest.mark.parametrize("name", ["-x", "--trust-remote-code", "--"])
def test_a_name_that_begins_with_a_dash_is_no_flag(launcher: Launcher, name: str) -> None:
    """A folder may be called so. llama.cpp takes the word after a flag for its value, whatever it is."""
    if "served_name" not in launcher.FLAGS:
        return
    flag = launcher.FLAGS["served_name"]
    rendered = render({"served_name": flag}, Request(served_name=name))
    assert rendered == ((f"{flag.spellings[0]}={name}",) if flag.attached else (flag.spellings[0], name))
    assert absorb(launcher, Request(extra=rendered)).served_name == name


@every_launcher
@given(data=st.data())
def test_every_form_means_the_same(launcher: Launcher, data: st.DataObject) -> None:
    """Law: `--parameter value`, `--parameter=value` and `--bool-parameter`, with any of its spellings.

    What is none of ours stays around it as it was.
    """
    field = data.draw(st.sampled_from(sorted(launcher.FLAGS)))
    flag = launcher.FLAGS[field]
    value = data.draw(values(flag))
    said = render({field: flag}, Request(**{field: value}))  # type: ignore[arg-type]
    spelling = data.draw(st.sampled_from(flag.off if value is False and flag.off else flag.spellings))
    if data.draw(st.booleans()) and spelling.startswith("--"):
        spelling = "--" + spelling[2:].replace("-", "_")
    if flag.kind == "switch":
        said = (spelling,)
    else:
        said = data.draw(st.sampled_from([(spelling, said[1]), (f"{spelling}={said[1]}",)]))
    before, after = ("--later=1", "--sooner", "2"), ("--latest",)
    found = absorb(launcher, Request(extra=(*before, *said, *after)))
    assert found == Request(extra=(*before, *after), **{field: value})  # type: ignore[arg-type]


@every_launcher
def test_a_value_that_would_not_be_heard_is_refused(launcher: Launcher) -> None:
    for flag in launcher.FLAGS.values():
        alone = [*flag.spellings, *flag.off] if flag.kind == "switch" else list(dict(flag.presets))
        for spelling in alone:
            with pytest.raises(UsageError, match=f"^{spelling} does not take a value$"):
                absorb(launcher, Request(extra=(f"{spelling}=false",)))


def test_llama_cpp_python_is_given_its_own_spelling() -> None:
    """Whatever the user writes, which its parser would refuse."""
    said = ("--n-threads", "2", "--rope_freq-base=1e-4", "--chat-format", "chat-ml")
    decided = planned(llama_cpp_python, Request(extra=said))
    argv = llama_cpp_python.command(decided, "/weights").argv
    assert argv[-5:] == ("--n_threads", "2", "--rope_freq_base=1e-4", "--chat_format", "chat-ml")


@every_launcher
def test_a_word_that_belongs_to_no_flag_is_refused(launcher: Launcher) -> None:
    """Python's servers would take it for a model, or pass over it."""
    for words in (("enforce-eager",), ("--port", "8001", "enforce-eager")):
        with pytest.raises(UsageError, match=r"^enforce-eager is not a flag") as caught:
            absorb(launcher, Request(extra=words))
        assert "--enforce-eager" in caught.value.hint
    passed = ("--later", "one", "two", "--", "three")
    assert absorb(launcher, Request(extra=passed)).extra == passed


@every_launcher
def test_a_number_out_of_its_range_is_refused(launcher: Launcher) -> None:
    """Whoever gives it: no plan is made with it."""
    bad = {"port": 65536, "max_num_seqs": 0, "tensor_parallel_size": -1, "gpu_memory_utilization": math.nan}
    bad |= {"gpu_layers": -2, "block_size": 0}
    for field in bad.keys() & launcher.FLAGS.keys():
        with pytest.raises(UsageError, match=launcher.FLAGS[field].spellings[0]):
            planned(launcher, Request(**{field: bad[field]}))  # type: ignore[arg-type]


@every_launcher
def test_a_value_that_is_missing_is_asked_for(launcher: Launcher) -> None:
    for flag in launcher.FLAGS.values():
        if flag.kind != "switch":
            for spelling in flag.spellings:
                with pytest.raises(UsageError, match=f"^{spelling} needs a value$"):
                    absorb(launcher, Request(extra=(spelling,)))


@every_launcher
def test_the_user_s_variables_reach_the_backend(launcher: Launcher) -> None:
    """Law: they come before those of aimind, but where the user is told that they do not, or may not be."""
    ours = launcher.command(planned(launcher, Request()), "/weights")
    assert {name for name in ours.env if "VISIBLE" in name} <= DEVICE_VARIABLES
    names = [*{*ours.env, *filter(str.isidentifier, ours.unset_env), "NOTE"} - DEVICE_VARIABLES]
    decided = planned(launcher, Request(env=dict.fromkeys(names, "theirs")))
    told = " ".join(decided.notes)
    kept = {name: "theirs" for name in names if name not in told}
    assert "NOTE" in kept
    inherited = dict.fromkeys(names, "inherited")
    assert kept.items() <= launcher.command(decided, "/weights").environment(inherited).items()


@every_launcher
def test_variables_that_leak_do_not_reach_the_backend(launcher: Launcher) -> None:
    """Neither those that ask for another hub's client, nor what Kubernetes sets for such a service."""
    command = launcher.command(planned(launcher, Request()), "/weights")
    leaking = {}
    if launcher.NAME in ("vllm", "sglang"):
        service = launcher.NAME.upper()
        leaking = {
            "VLLM_USE_MODELSCOPE": "True",
            "SGLANG_USE_MODELSCOPE": "True",
            f"{service}_PORT": "tcp://10.0.0.1:80",
            f"{service}_PORT_80_TCP_ADDR": "10.0.0.1",
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT_HTTP": "80",
        }
    assert not leaking.keys() & command.environment(leaking).keys()


@every_launcher
def test_every_flag_of_its_command_is_known(launcher: Launcher) -> None:
    """What aimind sets, the user's own arguments change in the plan, may not name, or replace."""
    decided = planned(launcher, Request())
    known = {s for flag in launcher.FLAGS.values() for s in (*flag.spellings, *flag.off)} | set(
        launcher.RESERVED
    )
    argv = launcher.command(decided, "/weights").argv
    flags = {word for word in argv[1:] if word.startswith("-") and word != "-m"}
    for flag in flags - known:
        replaced = planned(launcher, Request(extra=(flag, "x")))
        assert launcher.command(replaced, "/weights").argv.count(flag) == 1


def takes_arguments(launcher: Launcher) -> bool:
    """All but those whose parameters become a file, which have tests of their own (MindIE)."""
    return launcher.NAME != "mindie"


@every_launcher
def test_the_command_is_the_plan(launcher: Launcher) -> None:
    by_file = Request(port=9123, max_model_len=4096)
    by_arguments = Request(port=9123, extra=("--later", "1"))
    decided = planned(launcher, by_arguments if takes_arguments(launcher) else by_file)
    command = launcher.command(decided, "/weights")
    assert decided.backend.executable in command.argv
    rendered = render(launcher.FLAGS, decided.settings)
    assert absorb(launcher, Request(extra=rendered)).port == 9123
    if takes_arguments(launcher):
        assert command.argv[0] == decided.backend.executable
        assert command.argv[-2:] == ("--later", "1")
        left_out = {word for word in rendered if word.startswith("--")} - set(command.argv)
        assert left_out <= {"--max-num-seqs", "--max-num-batched-tokens"}  # what vLLM chooses alike
    else:
        (file,) = command.files
        assert all(text in file.text for text in ("9123", "4096", '"/weights"'))
    assert command.url == "http://127.0.0.1:9123"
    assert ":9123/" in command.ready.url


@every_launcher
def test_a_secret_is_in_the_secret_environment_alone(launcher: Launcher) -> None:
    """Law: nobody who asks for a key gets a server without one."""
    if not takes_key(launcher):
        with pytest.raises(UnsupportedError, match="does not support API keys"):
            planned(launcher, Request(api_key=SECRET))
        return
    command = launcher.command(planned(launcher, Request(api_key=SECRET)), "/weights")
    assert SECRET in command.secret_env.values()
    assert SECRET not in repr(command)
    assert SECRET not in " ".join(command.argv)


@every_launcher
def test_reserved_flags_are_refused_with_the_reason(launcher: Launcher) -> None:
    for spelling, why in launcher.RESERVED.items():
        with pytest.raises(UsageError) as caught:
            absorb(launcher, Request(extra=(f"{spelling}=x",)))
        assert why in caught.value.message


@every_launcher
@pytest.mark.parametrize("flag", ["--api-key", "--api_key", "--api-ke", "--api", "--hf-token", "--hf_tok"])
def test_a_secret_is_no_argument_of_a_backend(launcher: Launcher, flag: str) -> None:
    """Python's servers also take flags that are cut short."""
    for argv in ((f"{flag}={SECRET}",), (flag, SECRET)):
        with pytest.raises(UsageError) as caught:
            absorb(launcher, Request(extra=argv))
        assert SECRET not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("path", ["mmproj-tests/model.gguf", "MODEL.GGUF"])
def test_a_model_is_found_whatever_its_folder_is_called(path: str) -> None:
    metadata = llama()
    served = dataclasses.replace(model(metadata), files=(File("mmproj-F16.gguf", 1), File(path, 2)))
    decided = plan.make(served, metadata, host(device()), Request(backend="xllamacpp"), LAUNCHERS)
    argv = next(each for each in LAUNCHERS if each.NAME == "xllamacpp").command(decided, "/weights").argv
    assert argv[argv.index("--model") + 1] == f"/weights/{path}"
    assert argv[argv.index("--mmproj") + 1] == "/weights/mmproj-F16.gguf"


@every_launcher
def test_a_refusal_is_half_a_sentence(launcher: Launcher) -> None:
    refusals = [launcher.refuse(metadata, machine) for metadata in MODELS for machine in MACHINES]
    assert None in refusals
    for refusal in filter(None, refusals):
        assert len(refusal.split()) > 3
        assert not refusal.endswith(".")
    assert any(refusals)


@every_launcher
def test_a_name_is_given_or_refused(launcher: Launcher) -> None:
    """Law: where the backend cannot name the model, requests do not name it either."""
    if "served_name" in launcher.FLAGS:
        assert planned(launcher, Request(served_name="mine")).settings.served_name == "mine"
        assert planned(launcher, Request()).settings.served_name == "owner/name"
    else:
        assert planned(launcher, Request()).settings.served_name is None
        with pytest.raises(UsageError, match="does not support --served-model-name"):
            planned(launcher, Request(served_name="mine"))


@every_launcher
def test_its_small_request_is_what_curl_is_given(launcher: Launcher) -> None:
    """Law: the request that decides on ready is of the kind that the user is told to try."""
    said = hello(planned(launcher, Request()))
    said.body.encode("ascii")
    if "-d" in said.curl:
        assert said.curl[said.curl.index("-d") + 1] == said.body
        assert f"Content-Type: {said.content_type}" in said.curl
    else:
        assert "multipart/form-data" in said.content_type
        assert 'filename="hello.wav"' in said.body


def test_the_sound_that_is_heard_is_a_wav() -> None:
    said = hello(planned(vox_box, Request()))
    boundary = said.content_type.rpartition("=")[2]
    parts = email.message_from_string(f"Content-Type: {said.content_type}\r\n\r\n{said.body}", policy=HTTP)
    (sound,) = parts.iter_parts()
    assert sound.get_filename() == "hello.wav"
    with wave.open(io.BytesIO(sound.get_content())) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 1)
        assert file.getnframes() == 2048
        assert len(set(file.readframes(2048))) > 1
    assert said.body.endswith(f"--{boundary}--\r\n")


@every_launcher
def test_what_its_environment_changes_has_a_build_of_its_own(launcher: Launcher) -> None:
    """Law: builds of a version that differ lie in different folders."""
    packages = [launcher.source(machine) for machine in (host(device()), host())]
    builds = {build for each in packages if isinstance(each, Package) for build in each.builds}
    flat = {dataclasses.replace(build, slim=None) for build in builds}
    assert len({build.variant for build in flat}) == len(flat)
