"""The layout of the package, read from its files: imports run downwards, without circles; files and functions are
short.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lipbench

PACKAGE = Path(lipbench.__file__).parent
# From the top. A package imports from lower rows, and from the files that lie next to the packages.
ROWS = (
    {"commands"},
    {"runs"},
    {"evaluation"},
    {"training", "interop", "measures", "attacks"},
    {"certificate"},
    {"models", "report"},
    {"layers", "figures"},
    {"data", "results"},
)
HEIGHT = {package: len(ROWS) - number for number, row in enumerate(ROWS) for package in row}
# What users import stands above all packages.
INTERFACE = ("lipbench", "lipbench.__main__", "lipbench.interface", "lipbench.plot")
FILE_LINES, FUNCTION_LINES = 400, 50
# Functions that are longer today. The list may only become shorter.
LONG = {
    "lipbench.attacks.tangent.tangent": 58,
    "lipbench.certificate.smoothing.certify_smoothed": 61,
    "lipbench.commands.reproduce.reproduce": 56,
    "lipbench.data.own.arrays.arrays": 56,
    "lipbench.data.own.folder.folder": 57,
    "lipbench.evaluation.evaluate.evaluate": 56,
    "lipbench.interop.load.load_model": 59,
    "lipbench.measures.explanations.explanations": 61,
    "lipbench.measures.one_class.one_class": 51,
    "lipbench.models.convnet.convnet": 58,
    "lipbench.models.resnet.resnet": 52,
    "lipbench.training.fit.fit": 87,
    "lipbench.training.monitor.monitor": 53,
}

FILES = {
    ".".join(("lipbench", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imported(tree: ast.AST) -> set[str]:
    """The modules of lipbench that a module imports from, wherever in the file; a name that is a module is one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name if name in FILES else name.rpartition(".")[0] for name in found if name.startswith("lipbench")}


IMPORTS = {name: imported(tree) for name, tree in TREES.items()}


def height(module: str) -> int:
    """0 for a file next to the packages."""
    if module in INTERFACE:
        return len(ROWS) + 1
    package = module.split(".")[1]
    assert package in HEIGHT or FILES[module].parent == PACKAGE, f"{package} is in no row"
    return HEIGHT.get(package, 0)


def upwards(imports: dict[str, set[str]]) -> list[str]:
    """Imports that do not run downwards, but for those inside a package."""
    return [
        f"{name} imports {other}"
        for name, below in imports.items()
        for other in below
        if height(other) >= height(name) > 0 or height(other) > height(name)
        if name.split(".")[1:2] != other.split(".")[1:2]
    ]


def test_every_package_has_a_row():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(HEIGHT)


def test_imports_run_downwards():
    found = upwards({name: below for name, below in IMPORTS.items() if name not in INTERFACE})
    assert not found
    assert upwards({"lipbench.judge": {"lipbench.runs.lock"}})
    assert upwards({"lipbench.models.mlp": {"lipbench.report"}}), "packages of one row do not know each other"


def test_modules_import_each_other_in_no_circle():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle
    with pytest.raises(CycleError):
        list(TopologicalSorter({**IMPORTS, "lipbench.files": {"lipbench.commands.run"}}).static_order())


def test_packages_do_not_ask_for_the_interface():
    """`from lipbench import attacks` inside of a package would load all of lipbench first, in a circle."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "lipbench" and name not in INTERFACE:
                assert [alias.name for alias in node.names] == ["configuration"], name


def test_files_are_short():
    assert not {name: n for name, path in FILES.items() if (n := len(path.read_text().splitlines())) > FILE_LINES}


def long_functions() -> dict[str, int]:
    return {
        f"{name}.{node.name}": lines
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }


def test_functions_are_short():
    found = long_functions()
    assert found.keys() <= LONG.keys()
    for name, lines in found.items():
        assert lines <= LONG[name], name


@pytest.mark.parametrize("folder", ["engine", "peers"])
def test_what_attacks_are_built_with_knows_no_attack(folder):
    attacks = {f"lipbench.attacks.{path.stem}" for path in (PACKAGE / "attacks").glob("*.py")} | {"lipbench.attacks"}
    for name, below in IMPORTS.items():
        if name.startswith(f"lipbench.attacks.{folder}."):
            assert not below & attacks, name
