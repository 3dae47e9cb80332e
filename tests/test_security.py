"""Files from outside that mean harm: none is executed, and none takes the memory or the time of the machine."""

import ast
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from pipeline.cohorts import _fetch
from pipeline.cohorts._unpack import unpack
from pipeline.configuration import read_config, read_yaml
from pipeline.study import Study
from pipeline.task import Task
from pipeline.training.checkpoints.weights import read_tensors

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "anatomy").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {"extractall", "popen", "unpack_archive", "read_pickle", "to_pickle", "unsafe_load", "full_load"}
BUILT_IN = {"eval", "exec", "compile", "__import__"}  # by themselves: network.eval() is another thing


def faults(text: str) -> list[str]:
    """What in a source file could run what a file from outside says."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {name}" for name in modules if name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
            named = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            alone = isinstance(node.func, ast.Name) and name in BUILT_IN
            if name in FORBIDDEN_CALLS or alone or (owner, name) == ("os", "system"):
                found.append(f"{name} in line {node.lineno}")
            if (owner, name) == ("torch", "load") and named.get("weights_only") is not True:
                found.append(f"torch.load without weights_only=True in line {node.lineno}")
            if (owner, name) == ("yaml", "load") or named.get("allow_pickle") or named.get("shell"):
                found.append(f"{owner}.{name} in line {node.lineno}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_can_run_what_a_file_says(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)",
     "yaml.load(t, Loader=L)", "subprocess.run(c, shell=True)", "tar.extractall(p)", "eval(t)", "os.system(t)", "pd.read_pickle(p)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line):
    assert faults(line)


class Bomb:
    """Unpickled, it leaves a canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("kind", ["pth", "pickle", "npy"])
def test_a_pickle_in_place_of_weights_is_refused_and_not_run(tmp_path, kind):
    path, canary = tmp_path / "model.safetensors", tmp_path / "canary"
    if kind == "pth":
        torch.save({"weight": Bomb(canary)}, path)
    elif kind == "npy":
        np.save(path.with_suffix(".npy"), np.array([Bomb(canary)], dtype=object), allow_pickle=True)
        path.with_suffix(".npy").rename(path)
        with pytest.raises(ValueError, match=r"[Pp]ickle"):
            np.load(path)
    else:
        path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(ValueError, match=r"model\.safetensors: "):
        read_tensors(path)
    assert not canary.exists()


def tensors_file(path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(start, stop, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


HOSTILE = {
    "overlapping": ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "gap": ({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "trailing bytes": ({"a": entry(0, 4)}, bytes(12)),
    "past the end": ({"a": entry(0, 400)}, bytes(12)),
    "shape says otherwise": ({"a": entry(0, 8, [3])}, bytes(8)),
    "negative": ({"a": entry(0, 8, [-1, -2])}, bytes(8)),
    "huge product": ({"a": entry(0, 8, [1 << 62, 1 << 62])}, bytes(8)),
    "unknown type": ({"a": entry(0, 8, [2], "Q99")}, bytes(8)),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "list": ([], b""),
    "no json": (b"{nonsense", b""),
    "nested": (b"[" * 200_000, b""),
    "no text": (b"\xff\xfe\xfd{}", b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_refused_by_name(tmp_path, name):
    path = tensors_file(tmp_path / "foreign.safetensors", *HOSTILE[name])
    with pytest.raises(ValueError, match=r"foreign\.safetensors: "):
        read_tensors(path)


def test_an_empty_and_a_short_file_are_refused(tmp_path):
    for content in (b"", b"\x01", struct.pack("<Q", 1 << 63)):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.safetensors: is no safetensors"):
            read_tensors(tmp_path / "x.safetensors")


def test_good_files_are_read_with_and_without_metadata(tmp_path):
    values = {"b": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "a": torch.zeros(0), "c": torch.tensor(3)}
    for metadata in (None, {"format": "pt"}):
        save_file(values, tmp_path / "good.safetensors", metadata=metadata)
        found = read_tensors(tmp_path / "good.safetensors")
        assert all(torch.equal(found[name], value) for name, value in values.items())


def in_little(code: str) -> str:
    """What a program prints that may take 1 s of processor time and 256 MB beyond its imports; it ends with the seconds that it took."""
    before = """
        import resource, sys, time
        from pathlib import Path
        import numpy, zipfile, tarfile
        from pipeline.training.checkpoints.weights import check
        from pipeline.cohorts._unpack import unpack
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
        begun = time.process_time()
        try:
    """
    after = """
        except ValueError as error:
            print(error)
        print(time.process_time() - begun)
    """
    program = textwrap.dedent(before) + textwrap.indent(textwrap.dedent(code), "    ") + textwrap.dedent(after)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    words, _, seconds = done.stdout.strip().rpartition("\n")
    assert float(seconds) < 1.0
    return words


def test_a_header_of_99_mb_and_one_of_a_million_tensors_cost_nothing(tmp_path):
    tensors_file(tmp_path / "fat.safetensors", b'{"__metadata__": {"a": "' + b"x" * (99 << 20) + b'"}}')
    many = ",".join(f'"{n:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(1_000_000))
    tensors_file(tmp_path / "many.safetensors", f"{{{many}}}".encode())
    some = ",".join(f'"{n:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(120_000))
    tensors_file(tmp_path / "some.safetensors", f"{{{some}}}".encode())
    for name in ("fat", "many", "some"):
        assert f"{name}.safetensors: its header" in in_little(f"check(Path({str(tmp_path / f'{name}.safetensors')!r}))")


def many_members(path, number):
    """A zip that lists a million empty files, written by hand."""
    one = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    contents = b"".join(one + b"%07d" % n for n in range(number))
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(contents), 0, 0)
    path.write_bytes(contents + end)


def test_an_archive_of_a_million_members_is_not_opened(tmp_path):
    many_members(tmp_path / "many.zip", 1_000_000)
    words = in_little(f"unpack(Path({str(tmp_path / 'many.zip')!r}), Path({str(tmp_path / 'out')!r}), lambda name: name)")
    assert "many.zip: lists its files in" in words
    assert not (tmp_path / "out").exists()


def test_a_zip_of_more_members_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.cohorts._unpack.MAX_MEMBERS", 2)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(3):
            archive.writestr(str(number), b"")
    with pytest.raises(ValueError, match="more than 2 files"):
        unpack(tmp_path / "a.zip", tmp_path / "out", lambda name: name)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, kind):
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(50 << 20))
    else:
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo("zeros")
            info.size = 50 << 20
            archive.addfile(info, io.BytesIO(bytes(50 << 20)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="more than the limit"):
        unpack(path, tmp_path / "out", lambda name: name, max_bytes=10 << 20)
    assert not (tmp_path / "out").exists()


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for place in (data.index(b"PK\3\4") + 22, data.index(b"PK\1\2") + 24):
        data[place : place + 4] = struct.pack("<I", 100)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "out", lambda name: name, max_bytes=1000)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch canary']",
        "a: !!python/name:os.system",
        "a: !custom 1",
        "a: &x [1]\nb: *x",
        "a: &a [lol]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]",
        "<<: {a: 1}\na: &b {c: 1}",
        "a: " + "[" * 5000,
        "- a\n- b",
        "just words",
        "a: 1\n\tb: 2",
        "\x00",
    ],
)
def test_yaml_that_is_more_than_values_is_refused_by_name(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"evil\.yaml: "):
        read_yaml(tmp_path / "evil.yaml")
    assert not (tmp_path / "canary").exists()


def test_yaml_that_is_too_large_or_no_text_is_refused_by_name(tmp_path):
    (tmp_path / "large.yaml").write_text("a: " + "x" * 1_000_001)
    (tmp_path / "odd.yaml").write_bytes(b"a: \xff\xfe")
    for name in ("large", "odd"):
        with pytest.raises(ValueError, match=rf"{name}\.yaml: "):
            read_yaml(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"colour": "red"}, "colour: is not a key here"),
        ({"split": {"test": 2, "validation": 1, "sead": 1}}, r"split\.sead: is not a key here"),
        ({"split": {"test": "many", "validation": 1}}, r"split\.test: "),
        ({"sources": [{"path": "x", "subject": "("}]}, r"sources\.0\.subject: is no regular expression"),
        ({"pool": []}, "pool: "),
        ({"max_refused": float("nan")}, "max_refused: "),
        ({"preprocess": {"spacing_mm": [1, 2]}}, r"preprocess\.spacing_mm"),
    ],
)
def test_a_wrong_key_or_type_is_one_line_with_its_path(tmp_path, changes, where):
    study = {"sources": [{"path": "x"}], "split": {"test": 2, "validation": 1}} | changes
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(ValueError, match=rf"tiny\.yaml: {where}"):
        read_config(tmp_path / "tiny.yaml", Study)


def test_several_wrong_keys_are_a_line_each(tmp_path):
    (tmp_path / "organ.yaml").write_text("labels: 3\nkind: {segmentation: {}}\nextra: 1\n")
    with pytest.raises(ValueError) as wrong:
        read_config(tmp_path / "organ.yaml", Task)
    lines = str(wrong.value).splitlines()
    assert len(lines) >= 2
    assert all(line.startswith(str(tmp_path / "organ.yaml")) for line in lines)


def test_a_download_with_another_digest_is_never_looked_into(tmp_path, monkeypatch):
    """It gets no name in the cache, so nothing can open it."""
    opened = []
    monkeypatch.setattr(_fetch, "_copy", lambda url, path, algorithm: (path.write_bytes(b"PK\3\4 evil"), "0" * 64)[1])
    monkeypatch.setattr(zipfile, "ZipFile", lambda *words: opened.append(words))
    monkeypatch.setattr(tarfile, "open", lambda *words: opened.append(words))
    with pytest.raises(ValueError, match="nothing of it is kept"):
        _fetch.fetch_url("https://127.0.0.1/x.zip", tmp_path / "x.zip", "sha256:" + "1" * 64)
    assert opened == []
    assert list(tmp_path.iterdir()) == []
