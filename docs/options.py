"""Writes docs/options.md, the list of the configuration groups, from the comments in `conf/`.

Where a file has no comment, the docstring of the function that it names stands in.

python docs/options.py
"""

import inspect
import pydoc
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "options.md"
# Group -> what it chooses, and the page that explains it.
GROUPS = {
    "dataset": "The images. [data.md](data.md)",
    "model": "The network. [training.md](training.md#models-model), [other_libraries.md](other_libraries.md)",
    "constraint": "What makes the layers 1-Lipschitz. [layers.md](layers.md)",
    "loss": "The loss. [training.md](training.md#losses-loss)",
    "optimizer": "The optimiser. [layers.md](layers.md)",
    "training": "The training loop. [training.md](training.md)",
    "certificate": "Lower bounds; a list. [rounding.md](rounding.md), [baselines.md](baselines.md)",
    "attack": "Upper bounds; a list. [attacks.md](attacks.md), [other_libraries.md](other_libraries.md#attacks)",
    "measure": "Tables that are no bounds; a list. [explanations.md](explanations.md)",
}
HEAD = """# Options

`python docs/options.py` writes this page from the files in `conf/`.

`lipbench COMMAND --help` prints the options of a command. An option is written `name=value`. A
choice of a group is written `group=choice`, and an option of that choice `group.option=value`:
`loss=hkr loss.margin=2`. Lists are written `"attack=[lipbench,deepfool]"`, and their options
`attack.deepfool.steps=100`. Several values make a sweep: `seed=0,1,2` ([sweeps.md](sweeps.md)).

`experiment=mnist08/hkr_cnn` sets a choice of every group.
`lipbench run experiment=mnist08/hkr_cnn --cfg job` prints the result.
"""


def comment(lines: list[str]) -> str:
    """The comment at the top of a file."""
    top = []
    for line in lines:
        if not line.startswith("#"):
            break
        top.append(line.lstrip("# ").strip())
    return " ".join(top)


def docstring(target: str) -> str:
    """The first sentence of the docstring of a function or class."""
    text = " ".join((inspect.getdoc(pydoc.locate(target)) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s+(?=[A-Z])", text)[0].rstrip(":")


def options(content: dict) -> str:
    """Names and defaults of the options of a choice."""
    shown = {key: value for key, value in content.items() if not key.startswith("_") and key != "defaults"}
    return ", ".join(f"`{key}={flat(value)}`" for key, value in shown.items())


def flat(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("_target_", value.get("path", "…"))) if "_target_" in value else "…"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()


def page() -> str:
    parts = [HEAD]
    for group, meaning in GROUPS.items():
        parts.append(f"## `{group}`\n\n{meaning}\n\n| choice | options and defaults | remark |\n|---|---|---|")
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            text = path.read_text()
            content = yaml.safe_load(text) or {}
            content = content.get(path.stem, content)  # choices of a list stand under their names
            cells = (f"`{path.stem}`", options(content), comment(text.splitlines()) or docstring(content["_target_"]))
            parts.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
