"""Local models: real folders, real links, real readers."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from pathlib import Path

import pytest

from aimind import files
from aimind import hub as source
from aimind.errors import ModelNotFoundError, UnsupportedError
from aimind.hub import local
from aimind.types import File, Model, Reference
from tests.hub.samples import Progress


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(os.fsencode(path))


def resolved(path: Path | str) -> Model:
    return source.resolve(Reference(source="local", name=str(path)))


def paths(model: Model) -> list[str]:
    return [file.path for file in model.files]


def test_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "model.safetensors", "config.json", "1_Pooling/config.json", ".git/config", ".cache/x/y")
    model = resolved(tmp_path)
    assert model.root == str(tmp_path)
    assert model.commit is None
    assert model.files == (
        File("1_Pooling/config.json", 21),
        File("config.json", 11),
        File("model.safetensors", 17),
    )
    assert source.fetch(model, Progress()) == source.location(model) == tmp_path


def test_a_file_with_its_parts_and_projector(tmp_path: Path) -> None:
    parts = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    make(tmp_path, *parts, "mmproj-F16.gguf", "notes.txt", "sub/other.gguf")
    model = resolved(tmp_path / parts[1])
    assert model.root == str(tmp_path)
    assert model.reference.file == parts[1]
    assert paths(files.choose(model)) == [*parts, "mmproj-F16.gguf"]


def test_one_of_many_files(tmp_path: Path) -> None:
    make(tmp_path, "a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "mmproj-b-F16.gguf", "mmproj-F16.gguf")
    assert paths(files.choose(resolved(tmp_path / "a-Q4_K_M.gguf"))) == ["a-Q4_K_M.gguf"]
    assert paths(files.choose(resolved(tmp_path / "b-Q4_K_M.gguf"))) == ["b-Q4_K_M.gguf", "mmproj-b-F16.gguf"]


def test_a_file_of_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "model.safetensors", "config.json", "notes.md")
    assert paths(files.choose(resolved(tmp_path / "model.safetensors"))) == [
        "config.json",
        "model.safetensors",
    ]


def test_relative_paths_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "sub/m.gguf")
    monkeypatch.chdir(tmp_path / "sub")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("./m.gguf", "m.gguf", "../sub/m.gguf", "~/sub/m.gguf"):
        model = resolved(name)
        assert Path(str(model.root)).is_absolute()
        assert paths(model) == ["m.gguf"]
        assert source.open_file(model, model.files[0]).read(0, 99) == b"sub/m.gguf"
    assert resolved(".").root == str(tmp_path / "sub")


def test_names_with_colons_and_odd_characters(tmp_path: Path) -> None:
    make(tmp_path, "a:b@c/-m.gguf")
    assert paths(resolved(tmp_path / "a:b@c")) == ["-m.gguf"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    make(tmp_path, "non\udcff/x.gguf")
    assert paths(resolved(tmp_path / "non\udcff")) == ["x.gguf"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make(tmp_path, "blobs/content", "snapshot/config.json")
    (tmp_path / "snapshot/m.gguf").symlink_to("../blobs/content")
    (tmp_path / "snapshot/again").symlink_to(".")
    model = resolved(tmp_path / "snapshot")
    assert model.files == (File("config.json", 20), File("m.gguf", 13))
    assert source.open_file(model, model.files[1]).read(6, 7) == b"content"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/1_Pooling/config.json", "m/model.safetensors")
    (tmp_path / "m/modules").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/back").symlink_to("../m")
    assert paths(resolved(tmp_path / "m")) == ["model.safetensors", "modules/1_Pooling/config.json"]


def test_what_no_model_needs_stops_nothing(tmp_path: Path) -> None:
    make(tmp_path, "m.gguf", "@eaDir/m.gguf@SynoResource")
    (tmp_path / "README.md").symlink_to("/nowhere/README.md")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.json")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    assert paths(resolved(tmp_path)) == ["@eaDir/m.gguf@SynoResource", "m.gguf"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_inside_that_may_not_be_read(tmp_path: Path) -> None:
    make(tmp_path, "m.gguf", "lost+found/x")
    (tmp_path / "lost+found").chmod(0)
    assert paths(resolved(tmp_path)) == ["m.gguf"]
    (tmp_path / "lost+found").chmod(0o700)


def test_a_link_to_nowhere_that_the_model_needs(tmp_path: Path) -> None:
    make(tmp_path, "model.safetensors")
    (tmp_path / "config.json").symlink_to("gone")
    with pytest.raises(ModelNotFoundError, match=r"config\.json is a link to gone"):
        resolved(tmp_path)


@pytest.mark.parametrize(
    ("readable", "gone"),
    [
        (("m-Q4_K_M.gguf",), "below/other.gguf"),
        (("m-Q4_K_M.gguf",), "other-Q8_0.gguf"),
        (("m-Q4_K_M.gguf",), "config.json"),
        (("m-Q4_K_M.gguf",), "model.safetensors"),
        (("model.safetensors", "config.json"), "below/model.safetensors"),
        (("model.safetensors", "config.json"), "pytorch_model.bin"),
        (("model.safetensors", "config.json"), "m-Q4_K_M.gguf"),
        (("pytorch_model.bin", "config.json"), "below/config.json"),
    ],
)
def test_weights_that_are_gone_and_not_needed(tmp_path: Path, readable: tuple[str, ...], gone: str) -> None:
    make(tmp_path, *readable)
    (tmp_path / gone).parent.mkdir(exist_ok=True)
    (tmp_path / gone).symlink_to("/nowhere/at/all")
    assert paths(files.choose(resolved(tmp_path))) == sorted(readable)


@pytest.mark.parametrize(
    ("readable", "gone"),
    [
        (("config.json",), "model.safetensors"),
        (("config.json", "model-00001-of-00002.safetensors"), "model-00002-of-00002.safetensors"),
        (("config.json", "pytorch_model.bin"), "model.safetensors"),
        (("README.md",), "below/m.gguf"),
    ],
)
def test_weights_that_are_gone_and_needed(tmp_path: Path, readable: tuple[str, ...], gone: str) -> None:
    make(tmp_path, *readable)
    (tmp_path / gone).parent.mkdir(exist_ok=True)
    (tmp_path / gone).symlink_to("/nowhere/at/all")
    with pytest.raises(ModelNotFoundError, match="is a link to /nowhere/at/all"):
        resolved(tmp_path)


def test_the_quantization_that_is_asked_for_is_gone(tmp_path: Path) -> None:
    make(tmp_path, "m-Q2_K.gguf")
    (tmp_path / "m-Q4_K_M.gguf").symlink_to("/nowhere/at/all")
    asked = Reference(source="local", name=str(tmp_path), quantization="Q4_K_M")
    with pytest.raises(ModelNotFoundError, match="is a link to /nowhere/at/all"):
        source.resolve(asked)
    assert paths(source.resolve(dataclasses.replace(asked, quantization="Q2_K"))) == ["m-Q2_K.gguf"]


def test_names_of_weights_that_are_no_files(tmp_path: Path) -> None:
    make(tmp_path, "m.gguf", "folder.gguf/inside.txt", "folder.safetensors/inside.txt")
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.mkfifo(tmp_path / "pipe.gguf")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.gguf"))
    for named in (tmp_path, tmp_path / "m.gguf"):
        assert paths(files.choose(resolved(named))) == ["m.gguf"]


def test_gguf_without_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "sha256-415aad60").write_bytes(b"GGUF and more")
    model = resolved(tmp_path / "sha256-415aad60")
    assert paths(files.choose(model)) == ["sha256-415aad60"]
    assert model.files[0].is_gguf


@pytest.mark.parametrize("name", ["missing", "missing.gguf", "file/below"])
def test_a_missing_path(tmp_path: Path, name: str) -> None:
    make(tmp_path, "file")
    with pytest.raises(ModelNotFoundError, match=r"does not exist|Not a directory"):
        resolved(tmp_path / name)


def test_no_such_user() -> None:
    with pytest.raises(ModelNotFoundError, match="home folder of an unknown user"):
        resolved("~nobody-of-this-name/model")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(ModelNotFoundError, match="holds no files"):
        resolved(tmp_path)


@pytest.mark.parametrize("asked", ["m.gguf", ""])
def test_a_link_to_nowhere(tmp_path: Path, asked: str) -> None:
    (tmp_path / "m.gguf").symlink_to("gone")
    with pytest.raises(ModelNotFoundError, match=r"m\.gguf is a link to gone, which does not exist"):
        resolved(tmp_path / asked)


def test_a_link_to_nowhere_beside_a_good_file(tmp_path: Path) -> None:
    make(tmp_path, "m.gguf")
    (tmp_path / "other.gguf").symlink_to("gone")
    assert paths(resolved(tmp_path / "m.gguf")) == ["m.gguf"]


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").symlink_to("m.gguf")
    with pytest.raises(ModelNotFoundError, match="cannot be read: Too many levels"):
        resolved(tmp_path / "m.gguf")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    make(tmp_path, "sub/m.gguf")
    model = resolved(tmp_path / "sub/m.gguf")
    (tmp_path / "sub/m.gguf").chmod(0)
    with pytest.raises(ModelNotFoundError, match="cannot be read: Permission denied"):
        source.open_file(model, model.files[0])
    (tmp_path / "sub").chmod(0)
    with pytest.raises(ModelNotFoundError, match="cannot be read: Permission denied"):
        resolved(tmp_path / "sub")
    (tmp_path / "sub").chmod(0o700)


def test_a_file_that_is_gone_when_it_is_read(tmp_path: Path) -> None:
    make(tmp_path, "m.gguf")
    model = resolved(tmp_path)
    (tmp_path / "m.gguf").unlink()
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        source.open_file(model, model.files[0])


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "m.gguf.part"])
def test_a_file_that_is_no_model(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    with pytest.raises(UnsupportedError, match="neither a folder nor a file of weights"):
        resolved(tmp_path / name)


def test_what_is_no_file_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(UnsupportedError, match="neither a folder nor a file of weights"):
        resolved(tmp_path / "pipe.gguf")
    make(tmp_path, "m.gguf")
    assert paths(resolved(tmp_path)) == ["m.gguf"]


def test_a_folder_of_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MOST_ENTRIES", 5)
    make(tmp_path, "m/a/1", "m/b/2")
    (tmp_path / "m/empty").mkdir()
    assert len(paths(resolved(tmp_path / "m"))) == 2
    (tmp_path / "m/b/another").mkdir()
    with pytest.raises(UnsupportedError, match="more than 5 files and folders"):
        resolved(tmp_path / "m")


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"0123456789")
    model = resolved(tmp_path / "m.gguf")
    reader = source.open_file(model, model.files[0])
    assert reader.size_bytes == 10
    assert [reader.read(7, 2), reader.read(0, 3), reader.read(8, 9), reader.read(50, 1)] == [
        b"78",
        b"012",
        b"89",
        b"",
    ]


def test_the_demo_model(tmp_path: Path) -> None:
    make(tmp_path, local.DEMO_GGUF, "__init__.py", "huggingface/config.json", "huggingface/model.safetensors")
    gguf = local.resolve_demo(Reference(source="demo", name="demo"), tmp_path)
    assert paths(files.choose(gguf)) == [local.DEMO_GGUF]
    assert gguf.root == str(tmp_path)
    folder = Reference(source="demo", name="demo", quantization="SAFETENSORS")
    model = local.resolve_demo(folder, tmp_path)
    assert paths(files.choose(model)) == ["config.json", "model.safetensors"]
    assert source.location(model) == tmp_path / "huggingface"


def test_a_quantization_that_the_demo_model_has_not(tmp_path: Path) -> None:
    make(tmp_path, local.DEMO_GGUF)
    demo = local.resolve_demo(Reference(source="demo", name="demo", quantization="Q4_K_M"), tmp_path)
    with pytest.raises(ModelNotFoundError) as caught:
        files.choose(demo)
    assert "F16" in caught.value.hint


def test_a_folder_here_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "owner/name/m.gguf")
    assert source.local_twin(Reference(source="huggingface", name="owner/name")) == "owner/name"
    assert source.local_twin(Reference(source="huggingface", name="owner/other")) is None
    in_it = Reference(source="huggingface", name="owner/name", file="m.gguf")
    assert source.local_twin(in_it) == "owner/name/m.gguf"
    assert source.local_twin(Reference(source="modelscope", name="owner/name")) is None
    assert source.local_twin(Reference(source="local", name="./owner/name")) is None
