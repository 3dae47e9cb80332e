"""Makes the generators under ``faults`` importable, for tests, campaigns and whoever prints the table of cases."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
