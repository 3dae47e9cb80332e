"""The table of fault cases: what each builds, and what a reader must make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from faults.outcome import Outcome
from faults.phantom import error

from pipeline.volumes.volume import Volume


@dataclass(frozen=True)
class Case:
    """``volumes`` that must be accepted, with every voxel within ``tolerance`` of the field (plus one of ``offsets``), and exactly the
    reason ``codes``. ``check`` replaces the comparison with the field; ``fair`` replaces the error of a volume for readers that need not
    share our policy (padding kept, Bq/ml left as they are); ``needs``: modules without which the case cannot be built."""

    name: str
    kind: str
    build: Callable[[Path], None]
    volumes: int = 1
    codes: tuple[str, ...] = ()
    tolerance: float = 0.51
    offsets: tuple[float, ...] = (0.0,)
    check: Callable[[Outcome], bool] | None = None
    fair: Callable[[Volume], float] | None = None
    needs: tuple[str, ...] = ()

    @property
    def lacks(self) -> str:
        """The modules that it needs and that are not installed."""
        return ", ".join(name for name in self.needs if find_spec(name) is None)

    def verdict(self, outcome: Outcome) -> str:
        """``right``, or ``refused`` as it should be; else what is wrong."""
        if len(outcome.volumes) != self.volumes or outcome.codes != set(self.codes):
            return f"{len(outcome.volumes)} volumes and {sorted(outcome.codes)}, not {self.volumes} and {sorted(self.codes)}"
        if self.check is not None:
            return ("right" if self.volumes else "refused") if self.check(outcome) else "wrong values"
        left = list(self.offsets)
        for volume in outcome.volumes:
            close = [offset for offset in left if error(volume, offset) <= self.tolerance]
            if not close:
                return f"wrong by {min(error(volume, offset) for offset in self.offsets):.3g}"
            if len(self.offsets) == self.volumes:
                left.remove(close[0])
        return "right" if self.volumes else "refused"


class Table(dict):
    """Cases by name; ``case`` is the decorator that adds one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def case(self, volumes: int = 1, codes: str = "", **expected):
        def add(build: Callable[[Path], None]) -> Callable[[Path], None]:
            name = build.__name__.strip("_").replace("_", " ")
            if name in self:
                raise ValueError(f"{name}: is the name of two cases")
            self[name] = Case(name, self.kind, build, volumes, tuple(codes.split()), **expected)
            return build

        return add


def tables() -> list[Table]:
    """Every table that a module of this folder holds."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = import_module(f"{__package__}.{path.stem}")
        found |= {id(item): item for item in vars(module).values() if isinstance(item, Table)}
    return list(found.values())


def cases(*kinds: str) -> dict[str, Case]:
    """All cases of some kinds of file, by name."""
    found: dict[str, Case] = {}
    for table in tables():
        for name, case in table.items() if table.kind in kinds else ():
            if name in found:
                raise ValueError(f"{name}: is the name of two {table.kind} cases")
            found[name] = case
    return found
