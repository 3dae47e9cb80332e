"""A decoder that hangs, crashes or inflates without end costs one scan and says why; the process that asked lives on."""

import faulthandler
import os
import signal
import time

import pytest
from faults.series import make_series, save
from pydicom.uid import RLELossless

from pipeline.scans.dicom import objects
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import Limits, read_scan


@pytest.fixture
def paths(tmp_path):
    slices = make_series()
    for ds in slices:
        ds.compress(RLELossless, generate_instance_uid=False)
    return save(slices, tmp_path)


def dies_of(number):
    def act(*_):
        faulthandler.disable()  # pytest's would print where the child stood
        os.kill(os.getpid(), number)

    return act


def spins(*_):
    while True:
        pass


FAULTS = {
    "hangs": (lambda *_: time.sleep(60), Code.TIME_OUT),
    "spins": (spins, Code.TIME_OUT),
    "crashes": (dies_of(signal.SIGSEGV), Code.DECODER),
    "aborts": (dies_of(signal.SIGABRT), Code.DECODER),
    "leaves without a word": (lambda *_: os._exit(0), Code.DECODER),
    "inflates without end": (lambda *_: bytearray(4 << 30), Code.TOO_LARGE),
    "raises what it likes": (lambda *_: 1 / 0, Code.CORRUPT),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_decoder_that_fails_costs_one_scan(name, paths, monkeypatch) -> None:
    fault, code = FAULTS[name]
    with monkeypatch.context() as patch:
        patch.setattr(objects, "decompressed", fault)
        begun = time.monotonic()
        with pytest.raises(Refused) as refused:
            read_scan("dicom", paths, Limits(memory_mb=500, processor_s=1, clock_s=2.0))
    assert refused.value.code is code
    assert time.monotonic() - begun < 10
    assert read_scan("dicom", paths).grid.shape == (10, 12, 8)
