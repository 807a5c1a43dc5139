"""The pages that the website is made of: everything is in its navigation, and what is generated is up to date."""

import importlib.util
import pydoc
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import lipbench

DOCS = Path(__file__).parent.parent / "docs"
SITE = DOCS.parent / "mkdocs.yml"

pytestmark = pytest.mark.skipif(not SITE.exists(), reason="the documentation is not there")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(entry: object) -> set[str]:
    if isinstance(entry, str):
        return {entry}
    entries = entry.values() if isinstance(entry, dict) else entry
    return set().union(*map(pages, entries))


def test_every_page_is_in_the_navigation():
    assert pages(yaml.safe_load(SITE.read_text())["nav"]) == {page.name for page in DOCS.glob("*.md")}


def test_the_options_are_those_of_the_configuration():
    options = load("options")
    assert options.PAGE.read_text() == options.page(), "write it again: python docs/options.py"
    assert set(options.GROUPS) == {path.name for path in (DOCS.parent / "conf").iterdir() if path.is_dir()} - {
        "experiment",
        "hydra",
    }


def test_the_reference_names_every_public_function():
    named = set(re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(), re.M))
    for module in ("attacks", "certificate", "data", "layers", "losses", "models", "training"):
        assert f"lipbench.{module}" in named
    # A function with the name of its module hides it from the reader of docstrings, so it needs a line of its own.
    for module in ("attacks", "data", "models"):
        package = getattr(lipbench, module)
        for name in package.__all__:
            source = getattr(package, name).__module__
            if (DOCS.parent / "lipbench" / module / name).with_suffix(".py").exists():
                assert f"{source}.{name}" in named


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of foolbox, when it is imported
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_the_names_on_a_page_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    names = re.findall(r"`(lipbench(?:\.\w+)+)[`(]", text)
    assert not [name for name in names if pydoc.locate(name) is None]


def test_links_out_of_the_documentation_become_text():
    convert = load("hooks").on_page_markdown
    assert convert("see [the table](../benchmarks/attacks.md#one).") == "see the table (`benchmarks/attacks.md`)."
    assert convert("see [data](data.md)") == "see [data](data.md)"
