"""Makes the generators of this folder, and those of DICOM series, importable."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "scans")]
