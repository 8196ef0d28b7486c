from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = frozenset({"topology", "agents", "probes", "results"})
PACKAGES = LAYERS | {"experiments"}
COMMON = "common ground"
ENTRY = "python -m unnoticed"
OUTSIDE = "tests and benchmarks"
MAY_IMPORT = {
    **{layer: frozenset({layer}) for layer in LAYERS},
    "experiments": PACKAGES,
    COMMON: frozenset(),
    ENTRY: frozenset({"experiments"}),
    OUTSIDE: PACKAGES,
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, wherever it stands and however: "." before a relative one."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def violations(source: str, *, part: str) -> list[str]:
    """What a module of `part` imports that it must not, as "line: name"."""
    wrong = []
    for line, name in imports(source):
        first, *rest = name.split(".")
        package = rest[0] if rest else ""
        is_bare = first in PACKAGES or name.startswith(".")
        is_elsewhere = first == "unnoticed" and package in PACKAGES and package not in MAY_IMPORT[part]
        if is_bare or is_elsewhere:
            wrong.append(f"{line}: {name}")
    return wrong


def modules() -> Iterator[tuple[str, Path]]:
    for package in sorted(PACKAGES):
        yield from ((package, path) for path in sorted((ROOT / package).rglob("*.py")))
    for path in sorted((ROOT / "src/unnoticed").glob("*.py")):
        yield (ENTRY if path.name == "__main__.py" else COMMON), path
    for folder in ("tests", "benchmarks"):
        yield from ((OUTSIDE, path) for path in sorted((ROOT / folder).rglob("*.py")))


@pytest.mark.parametrize(("part", "path"), [pytest.param(*row, id=str(row[1].relative_to(ROOT))) for row in modules()])
def test_a_module_imports_only_what_its_part_may(part, path):
    assert violations(path.read_text(encoding="utf-8"), part=part) == []


def test_every_part_has_modules_to_look_at():
    assert {part for part, _path in modules()} == set(MAY_IMPORT)


def test_the_import_root_holds_a_link_to_each_package_and_modules():
    entries = [path for path in (ROOT / "src/unnoticed").iterdir() if path.name != "__pycache__"]
    links = {path.name: path.readlink() for path in entries if path.is_symlink()}
    assert links == {package: Path("../..") / package for package in PACKAGES}
    assert {path.suffix for path in entries if not path.is_symlink()} == {".py", ".typed"}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("agents", "import unnoticed.topology"),
        ("agents", "import unnoticed.topology.links as links"),
        ("agents", "from unnoticed import clock, topology"),
        ("agents", "from unnoticed.probes import capture"),
        ("agents", "def late():\n    from unnoticed.probes.capture import Ring"),
        ("agents", "if TYPE_CHECKING:\n    import unnoticed.results.tables"),
        ("agents", "importlib.import_module('unnoticed.results')"),
        ("agents", "import_module('unnoticed.experiments.cli')"),
        ("results", "__import__('unnoticed.experiments')"),
        ("results", "import unnoticed.experiments.planning.plan"),
        ("agents", "import agents.wire"),
        ("experiments", "from results import tables"),
        ("experiments", "from . import plan"),
        ("experiments", "from ..agents import wire"),
        (COMMON, "from unnoticed.agents import wire"),
        (COMMON, "from unnoticed import experiments"),
        (ENTRY, "from unnoticed.agents import wire"),
        (OUTSIDE, "import topology"),
    ],
)
def test_a_forbidden_import_is_found(part, source):
    assert len(violations(source, part=part)) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("agents", "from unnoticed.agents.wire import Hello"),
        ("agents", "from unnoticed.clock import now_ns"),
        ("agents", "from unnoticed import errors"),
        ("agents", "import resultsets, probes_of_others"),
        ("experiments", "from unnoticed.topology import fabric\nfrom unnoticed.results import tables"),
        (COMMON, "from unnoticed.errors import PlanError"),
        (ENTRY, "from unnoticed.experiments.cli import main"),
        (OUTSIDE, "import unnoticed.probes.capture"),
    ],
)
def test_an_import_that_is_allowed_is_not_found(part, source):
    assert violations(source, part=part) == []
