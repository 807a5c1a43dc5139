"""The floors of the attacks: imports run downwards, and the engine knows no attack."""

import ast
from pathlib import Path

import lipbench

ROOM = Path(lipbench.__file__).parent / "attacks"
ENGINE = ("box", "noise", "exact", "judging", "boundary", "foothold", "searching", "combining")  # from the ground up


def imported(path: Path) -> set[str]:
    """The modules of lipbench that a file imports from, without the package's name."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module)
    return {node.module.removeprefix("lipbench.") for node in nodes if node.module.startswith("lipbench")}


def test_the_engine_imports_downwards():
    assert {path.stem for path in (ROOM / "engine").glob("*.py")} == {*ENGINE, "__init__"}
    for height, name in enumerate(ENGINE):
        below = {"gate", "state", *(f"attacks.engine.{lower}" for lower in ENGINE[:height])}
        assert imported(ROOM / "engine" / f"{name}.py") <= below, name


def test_attacks_import_the_engine_and_attacks_without_circles():
    files = {path.stem: path for path in ROOM.glob("*.py") if path.stem != "__init__"}
    below: dict[str, set[str]] = {}
    for name, path in files.items():
        found = imported(path)
        found -= {"state"}
        assert all(f.startswith("attacks.") for f in found), name
        below[name] = {f.split(".")[1] for f in found} - {"engine"}
        assert below[name] <= files.keys(), name
    while below:
        ready = {name for name, needs in below.items() if not needs}
        assert ready, f"a circle of {sorted(below)}"
        below = {name: needs - ready for name, needs in below.items() if name not in ready}
