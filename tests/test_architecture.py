"""The house rules that a reader can rely on: which way imports point, how long things are, what every verb and rule has."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "anatomy").rglob("*.py")])
VERBS = [path for path in sorted((ROOT / "pipeline" / "verbs").glob("*.py")) if path.stem != "__init__"]
SMK = sorted((ROOT / "workflow").rglob("*.smk"))

# Rooms from the bottom up; rooms on one level don't import each other. Names are files or folders of pipeline/.
LEVELS = (
    {"buffers", "files", "folder", "shapes", "keys", "lease", "matrices", "nested", "progress", "__init__"},
    {"manifest"},
    {"volumes"},
    {"scans"},
    {"labels"},
    {"step", "plugins"},
    {"cohorts"},
    {"crops", "views", "objectives", "networks", "tasks", "lexicon"},
    {"configuration"},
    {"recipe", "study", "task"},
    {"plan"},
    {"tracking"},
    {"training"},
    {"transfer"},
    {"reports", "exports"},
    {"verbs"},
    {"__main__"},
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
# Longest file and function; what is longer stands here with its reason.
FILE_LINES, FUNCTION_LINES, SMK_LINES = 250, 40, 120
LONGER = {
    "pipeline/step.py": "the one page that says what views, networks, objectives and the learner hand to each other",
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path, top_only: bool = False) -> list[str]:
    """Absolute names of the modules that a file imports; the ones for type checkers only are left out."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}:{node.lineno}: imports are absolute"
            modules = (ROOT / node.module.replace(".", "/")).is_dir()
            found += [f"{node.module}.{alias.name}" for alias in node.names] if modules else [node.module]
    return found


def room(module: str) -> str:
    parts = module.split(".")
    known = (ROOT / "pipeline" / parts[1]).is_dir() or (ROOT / "pipeline" / f"{parts[1]}.py").is_file() if len(parts) > 1 else False
    return parts[1] if known else "__init__"


@pytest.mark.parametrize("path", PACKAGES, ids=named)
def test_imports_point_one_way(path):
    own = path.relative_to(ROOT).with_suffix("").parts
    for module in imports_of(path):
        if own[0] == "anatomy":
            assert not module.startswith("pipeline"), f"{named(path)} imports {module}: anatomy/ imports nothing of pipeline/"
        elif module.split(".")[0] == "pipeline":
            here, there = own[1], room(module)
            assert here in LEVEL, f"pipeline/{here} is a new room: give it a level in tests/test_architecture.py"
            assert there == here or LEVEL[there] < LEVEL[here], f"{named(path)} imports {module}: {there} is not below {here}"


def test_folders_in_a_room_do_not_import_each_other_in_circles():
    folders = {named(path.parent).replace("/", ".") for path in PACKAGES if len(path.relative_to(ROOT).parts) > 3}
    graph = {
        folder: {
            other
            for path in (ROOT / folder.replace(".", "/")).glob("*.py")
            for module in imports_of(path)
            for other in folders - {folder}
            if module.startswith(f"{other}.")
        }
        for folder in folders
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(folders) > 5


@pytest.mark.parametrize("path", [path for path in PACKAGES if path.parts[len(ROOT.parts)] == "anatomy"], ids=named)
def test_anatomy_needs_only_numpy_and_scipy(path):
    outside = {module.split(".")[0] for module in imports_of(path)} - set(sys.stdlib_module_names) - {"anatomy"}
    assert outside <= {"numpy", "scipy"}, f"{named(path)} imports {', '.join(sorted(outside - {'numpy', 'scipy'}))}"


@pytest.mark.parametrize("path", PACKAGES, ids=named)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= FILE_LINES or named(path) in LONGER, f"{named(path)} has {lines} lines; the budget is {FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name, length = f"{named(path)}:{node.name}", node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES or name in LONGER, f"{name} has {length} lines; the budget is {FUNCTION_LINES}"


@pytest.mark.parametrize("path", [path for path in PACKAGES if path.read_text().strip()], ids=named)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{named(path)} has no docstring"


def test_what_is_allowed_to_be_longer_exists():
    known = {named(path) for path in PACKAGES}
    assert {name.partition(":")[0] for name in LONGER} <= known


def test_no_folder_is_a_room_for_leftovers():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    places = tracked or [named(path) for path in PACKAGES]
    names = {part.removesuffix(".py") for place in places for part in Path(place).parts}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "lib"}


@pytest.mark.parametrize("path", VERBS, ids=named)
def test_every_verb_shows_examples_and_imports_its_rooms_when_called(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, f"{named(path)} has no docstring"
    assert f"Examples:\n  vesalius {path.stem}" in text, f"{named(path)}: its docstring shows no example"
    assert text.partition("\n")[0].endswith("."), f"{named(path)}: the first line is one sentence"
    heavy = {module.split(".")[0] for module in imports_of(path, top_only=True)} - set(sys.stdlib_module_names) - {"typer"}
    assert not heavy, f"{named(path)} imports {', '.join(sorted(heavy))} before it is called"


def test_the_command_line_starts_without_torch():
    code = "import sys, pipeline.__main__, pipeline.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_snakemake_imports_nothing_of_ours():
    for path in [ROOT / "Snakefile", *SMK]:
        found = re.findall(r"^\s*(?:import|from)\s+(pipeline|anatomy)\b", path.read_text(), re.MULTILINE)
        assert not found, f"{named(path)} imports {found}"


@pytest.mark.parametrize("path", SMK, ids=named)
def test_rule_files_are_short_and_define_no_function(path):
    text = path.read_text()
    assert len(text.splitlines()) <= SMK_LINES
    assert not re.search(r"^\s*def ", text, re.MULTILINE), f"{named(path)}: functions belong to the package, not to a rule file"


def rules() -> dict[str, str]:
    """Text of each rule and checkpoint, by name."""
    parts = [re.split(r"^(?:rule|checkpoint) (\w+):\n", path.read_text(), flags=re.MULTILINE) for path in SMK]
    return {name: body for part in parts for name, body in zip(part[1::2], part[2::2], strict=True)}


@pytest.mark.parametrize("name", rules())
def test_every_rule_has_all_its_parts_in_order(name):
    body = rules()[name]
    assert re.match(r'    """[A-Z].+?"""\n', body, re.DOTALL), f"rule {name} has no docstring"
    parts = re.findall(r"^    (\w+):", body, re.MULTILINE)
    wanted = ["output", "params", "log", "benchmark", "threads", "resources", "shell"]
    assert [part for part in parts if part in wanted] == wanted, f"rule {name} has {parts}"
    assert "version=VERSION" in body, f"rule {name}: a new version of the package would not wake it"
    shell = body.partition("shell:")[2]
    assert all(hole.endswith(":q") for hole in re.findall(r"\{([^}]*)\}", shell)), f"rule {name}: everything in a shell command is quoted"
