"""The documentation, docstrings, comments of conf/ and messages are plain English: words that readers stumble over do
not appear. docs/glossary.md has the terms to use.
"""

import ast
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What we avoid -> what we write.
AVOIDED = {
    r"headline": "the attack lipbench",
    r"line-?up": "baseline networks, comparison",
    r"foothold": "starting point",
    r"(no|some|any|every)body's": "name who it is",
    r"beside": "next to, together with",
    r"mend(s|ed|ing)?": "fix",
    r"settled": "solved, finished",
    r"what is there is kept": "existing results are kept",
    r"nothing that you return": "lipbench re-checks",
    r"really have": "final weights",
    r"(enters|enter) no identity": "does not change the identity",
    r"belongs? to no identity": "does not change the identity",
    r"a discovery": "say what to check",
    r"will do[.;,]": "also works",
    r"is what everybody": "the quantity of interest",
    r"keeps to its basin": "stays in its local basin",
    r"by its own means": "name the means",
}
# Pronouns that leave open who or what is meant.
PRONOUNS = re.compile(r"\b(whatever|whoever|(no|some|any|every)body)\b", re.IGNORECASE)
BAD = re.compile(rf"\b(?:{'|'.join(AVOIDED)})(?!\w)", re.IGNORECASE)
LONGEST = 100

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
RECORDS = sorted([*ROOT.glob("benchmarks/*.md"), *ROOT.glob("results/*.md")])
SOURCES = sorted([*ROOT.glob("lipbench/**/*.py"), *ROOT.glob("hydra_plugins/**/*.py")])
SETTINGS = sorted(ROOT.glob("conf/**/*.yaml"))


def found(text: str) -> list[str]:
    return [match.group() for match in BAD.finditer(" ".join(text.split()))]


def texts(path: Path) -> list[str]:
    """The strings (docstrings and messages) and comments of a Python file."""
    with tokenize.open(path) as file:
        source = file.read()
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    lines = iter(source.splitlines(keepends=True))
    tokens = tokenize.generate_tokens(lambda: next(lines, ""))
    return strings + [token.string for token in tokens if token.type == tokenize.COMMENT]


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


@pytest.mark.skipif(not PAGES, reason="the documentation is not there")
@pytest.mark.parametrize("page", [*PAGES, *RECORDS], ids=lambda page: page.name)
def test_pages(page):
    assert not found(prose(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_who_and_what(page):
    assert not PRONOUNS.findall(prose(page))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_comments_and_messages(source):
    assert not [word for text in texts(source) for word in found(text)]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_of_the_configuration(settings):
    comments = [line for line in settings.read_text().splitlines() if line.lstrip().startswith("#")]
    assert not found("\n".join(comment.lstrip("# ") for comment in comments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page):
    free = ("|", "![", "* [", "](")  # tables and links
    long = [line for line in prose(page).splitlines() if len(line) > LONGEST and not line.lstrip().startswith(free)]
    assert not [line for line in long if "http" not in line]


def test_a_bad_word_is_found():
    assert found("the network of somebody's own, beside\nit") == ["somebody's", "beside"]
    assert not found("recommend the headlines of Mendel")
