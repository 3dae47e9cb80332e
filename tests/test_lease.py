"""Two writers never share a run's folder."""

import subprocess
import sys

import pytest

from pipeline.lease import lease

HOLD = """
import sys
from pathlib import Path
from pipeline.lease import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_while_the_first_lives_and_admitted_when_it_dies(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline().strip() == "held"
    with pytest.raises(ValueError, match=f"process {owner.pid}"), lease(tmp_path):
        pass
    owner.kill()
    owner.wait()
    with lease(tmp_path):
        assert (tmp_path / ".lease").exists()
