"""Files are whole or absent."""

import errno

import pytest

from pipeline import files


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "plan.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["plan.json"]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "manifest.parquet"
    with pytest.raises(OSError) as full, files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        with open("/dev/full", "wb", buffering=0) as handle:
            handle.write(b"more")
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []


def test_an_unchanged_text_is_not_written_again(tmp_path):
    path = tmp_path / "inventory.tsv"
    assert files.write_if_changed(path, "a\n")
    before = path.stat().st_mtime_ns
    assert not files.write_if_changed(path, "a\n")
    assert path.stat().st_mtime_ns == before
    assert files.write_if_changed(path, "b\n")


def test_broken_json_names_the_file_and_the_remedy(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json.*remove it"):
        files.read_json(tmp_path / "run.json")


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert files.digest_of({"a": 1, "b": [2]}) == files.digest_of({"b": [2], "a": 1})
    assert files.digest_of({"a": 1}) != files.digest_of({"a": "1"})


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
