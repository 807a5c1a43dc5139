"""README.md and docs/: the numbers are those of the committed results, the code runs, and no link is broken."""

import ast
import math
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lipbench
from lipbench.results.storage import read_bounds

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
REFERENCE = ROOT / "results/reference/mnist08"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")

pytestmark = pytest.mark.skipif(not README.exists(), reason="the documentation is not there")


def rows() -> dict[str, list[str]]:
    """Experiment -> the cells of its row in the table of results."""
    table = re.findall(r"^\| .*\(`(\w+)`\) \| (.*) \|$", README.read_text(), re.M)
    return {name: [cell.strip(" %") for cell in cells.split("|")] for name, cells in table}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the committed results are not there")
@pytest.mark.parametrize("experiment", ["hkr_mlp", "hkr_cnn", "ce_cnn", "adversarial_cnn", "plain_cnn"])
def test_the_results_are_those_of_the_committed_tables(experiment):
    table = read_bounds(REFERENCE / experiment / "default/0")
    table = table[table["norm"] == "l2"]
    assert "lipbench" in set(table["method"])
    found = table[table["side"] == "upper"].groupby("index")["distance"].min()
    proven = table[table["side"] == "lower"].groupby("index")["distance"].max().loc[found.index]
    assert len(found) == 500
    chosen = ((found, 0), (proven, 1), (found, 1), (proven, 3), (found, 3))
    shares = [100 * (values > radius).mean() for values, radius in chosen]
    expected = [f"{share:.1f}" for share in shares] + [f"{proven.median():.2f}", f"{found.median():.2f}"]
    assert rows()[experiment] == expected
    if experiment == "hkr_mlp":
        margin = table[table["method"] == "certificate"].set_index("index")["distance"].loc[found.index]
        right = found > 0
        attacked = table[(table["side"] == "upper") & (table["label"] == table["prediction"])]
        assert right.sum() == attacked["index"].nunique()
        gap = 100 * ((found / proven)[right].median() - 1)
        sentence = " ".join(README.read_text().split())
        rounded_up = math.ceil(100 * gap) / 100
        assert f"images that it classifies rightly the two bounds differ by at most {rounded_up:.2f} %" in sentence
        met = 100 * ((found / proven)[right & (proven > 0)] < 1 + 1e-3).mean()
        assert f"within 0.1 % on {met:.0f} % of the images that are classified rightly" in sentence
        assert f"alone proves {100 * (margin > 3).mean():.1f} %" in sentence


@pytest.mark.skipif(not REFERENCE.exists(), reason="the committed results are not there")
def test_the_share_of_ten_classes_is_that_of_the_committed_tables():
    runs = [REFERENCE.parent / "mnist/margin_mlp/default" / seed for seed in "012"]
    tables = [read_bounds(run) for run in runs]
    proven = [table[(table["norm"] == "l2") & (table["method"] == "certificate_inscribed")] for table in tables]
    assert {len(table) for table in proven} == {10_000}
    share = 100 * sum((table["distance"] > 1.58).mean() for table in proven) / 3
    assert f"prove {share:.1f} % of the whole test set at 1.58" in " ".join(README.read_text().split())


@pytest.mark.skipif(not REFERENCE.exists(), reason="the committed results are not there")
def test_the_code_runs():
    scope: dict = {}
    for code in re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S):
        exec(code, scope)
    right = scope["table"].query("method == 'certificate'").set_index("index").eval("label == prediction")
    assert right.mean() > 0.9
    assert (scope["radii"] > 0).double().mean() > 0.9
    assert set(scope["table"]["side"]) == {"lower", "upper"}


def names_in(page: Path) -> tuple[set[str], set[str], set[str]]:
    """What a page says of lipbench in Python: the dotted names that its code and its inline calls use, the names that
    it mentions, and its import statements.
    """
    text, used, imports = page.read_text(), set(), set()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            written = ast.unparse(node) if isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute) else ""
            if re.match(r"(from|import) lipbench\b", written):
                imports.add(written)
            elif re.fullmatch(r"lipbench[.\w]+", written):
                used.add(written)
    inline = " ".join(re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)))
    imports |= set(re.findall(r"from lipbench[.\w]* import \w+", inline))
    used |= set(re.findall(r"\b(lipbench(?:\.\w+)+)\(", inline))
    return used, set(re.findall(r"(?<![./-])\blipbench(?:\.(?!py\b|git\b)\w+)+", text)) - used, imports


# Names of which a plain `import lipbench` may lack a part.
DEEP = {page: [name for name in sorted(names_in(page)[0]) if name.count(".") > 1] for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_python_interface_exist(page):
    used, mentioned, imports = names_in(page)
    for name in mentioned | (used - set(DEEP[page])):
        if not name.startswith("lipbench.attacks.peers.with_"):  # which imports an extra
            pkgutil.resolve_name(name)
    for line in imports:
        exec(line)


@pytest.mark.parametrize("page", [page for page in PAGES if DEEP[page]], ids=lambda page: page.name)
def test_what_code_uses_exists_after_import_lipbench_alone(page):
    command = [sys.executable, "-c", "\n".join(["import lipbench", *DEEP[page]])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{done.stderr} Write an explicit import in the page."


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CITATION.cff"])
def test_the_version_is_named(name):
    assert lipbench.__version__ in (ROOT / name).read_text()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_broken(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target, anchor in LINK.findall(text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{target} does not exist"
        assert not anchor or path.suffix != ".md" or anchor in anchors(path), f"{target}#{anchor}: no such heading"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "Makefile"], ids=lambda page: page.name)
def test_files_of_tests_that_are_named_exist(page):
    for name in re.findall(r"\btests/[\w/]+\.py", page.read_text()):
        assert (ROOT / name).exists(), name
