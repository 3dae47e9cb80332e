"""Lists on disk: they behave as lists do, hold any name of a file, and cost no memory for what is in them."""

import errno
import gc
import shutil
import tracemalloc
from pathlib import Path

import pytest
from faults.series import make_series, save

from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code
from pipeline.scans.spool import Spool, Table
from pipeline.scans.stock import File, Inventory

IDENTITY = Identity(bytes(32))
ODD = ["a", "B", "ä", "\udcff", "tab\t", "\U0001f600", "ﬁ", "nul\0", ""]


def table(keys=()):
    return Table(Spool(), "words", ("word", "size"), lambda pair: pair, lambda *pair: pair, keys)


@pytest.mark.parametrize("keys", [(), ("word",)])
def test_a_table_is_a_list_that_is_sorted_as_python_sorts(keys):
    pairs = [(word, len(word)) for word in ODD + ODD[::-1]]
    found = table(keys)
    found.extend(pairs)
    assert list(found) == pairs
    assert len(found) == found.end == len(pairs)
    assert found[4] == pairs[4]
    assert list(found.ordered("word")) == sorted(pairs)
    assert list(found.where(word="\udcff")) == [("\udcff", 1)] * 2
    assert list(found.numbered(word=("a", "ﬁ"), size=1)) == [(n, pair) for n, pair in enumerate(pairs) if pair[0] in ("a", "ﬁ")]
    assert list(found.between(range(3, 6))) == pairs[3:6]
    assert found.counts("size") == {0: 2, 1: 12, 4: 4}
    with pytest.raises(IndexError):
        found[len(pairs)]


def test_values_are_replaced_while_they_are_looked_at_and_removed_for_good():
    found = table()
    found.extend((str(number), 0) for number in range(1000))
    for number, (word, _) in found.numbered(size=0):
        found[number] = (word * 50, 1)
    assert [word for word, _ in found.where(size=1)] == [str(number) * 50 for number in range(1000)]
    assert found.remove(word="7" * 50) == 1
    assert found.remove(word="7" * 50) == 0
    assert len(found) == 999
    assert found[8] == ("8" * 50, 1), "numbers stay"
    assert found.last(size=1) == ("999" * 50, 1)
    assert found.last(size=2) is None


def test_files_come_back_as_they_were_and_by_their_whole_path(tmp_path):
    places = [Place(tmp_path / "b", "two"), Place(tmp_path, "one", task="organ")]
    files = [File("1", "z", places[0], "volume", None, "s t", "dicom"), File("2", "c/\udcff", places[1], "quarantined", Code.EMPTY)]
    found = Inventory()
    found.files.extend(files)
    assert list(found.files) == files
    assert [file for _, file in found.files_by_path()] == sorted(files, key=lambda file: str(file.path.absolute()))


def test_a_full_disk_is_told_with_the_folder_that_is_full():
    spool = Spool()
    spool.run("PRAGMA max_page_count = 20")
    words = Table(spool, "words", ("word",), lambda word: (word,), str)
    with pytest.raises(OSError, match=r"temporary files \(\$SQLITE_TMPDIR, \$TMPDIR") as raised:
        words.extend("x" * 1000 for _ in range(1000))
    assert raised.value.errno == errno.ENOSPC


def test_series_that_lie_among_each_other_in_one_folder_are_told_apart(tmp_path):
    for number in range(3):
        for at, path in enumerate(save(make_series(series=f"S{number}", offset=number), tmp_path / str(number))):
            path.rename(tmp_path / f"{at:03d}-{number}")
        (tmp_path / str(number)).rmdir()
    found = take_stock([Place(tmp_path, "scans")], IDENTITY)
    assert [len({path.name[-1] for path in scan.paths}) for scan in found.scans] == [1, 1, 1]
    assert [scan.paths[0] for scan in found.scans] == [next(iter(scan.paths)) for scan in found.scans]
    assert sum(len(scan.paths) for scan in found.scans) == len(found.files)


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    """The benchmark measures the process; here what Python holds of 80 and of 480 files."""
    slices = make_series(shape=(8, 8))
    series = str(slices[0].SeriesInstanceUID)
    raws = [path.read_bytes() for path in save(slices, tmp_path / "template")]
    for number in range(60):
        (tmp_path / f"few-and-more/{number:02d}").mkdir(parents=True)
        for at, raw in enumerate(raws):
            raw = raw.replace(series.encode(), f"{series[:-2]}{number:02d}".encode())
            (tmp_path / f"few-and-more/{number:02d}/{at}").write_bytes(raw)
    few = tmp_path / "few"
    few.mkdir()
    for number in range(10):
        shutil.copytree(tmp_path / f"few-and-more/{number:02d}", few / f"{number:02d}")

    def held(folder: Path) -> int:
        tracemalloc.start()
        found = take_stock([Place(folder, "scans")], IDENTITY)
        gc.collect()
        bytes_held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(found.files) == 8 * len(found.scans) == 8 * len(list(folder.iterdir()))
        return bytes_held

    held(few)  # what is imported or made once
    assert held(tmp_path / "few-and-more") - held(few) < 100 * 400
