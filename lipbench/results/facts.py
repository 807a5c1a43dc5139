"""What a run is: its command, its overrides, its label and its look, kept in its manifest."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from lipbench.files import read_config, read_json
from lipbench.results.layout import run_key
from lipbench.results.looks import kind_of, network_look
from lipbench.results.manifest import read_manifest

# The name of a long variant ends in a hash: its overrides cannot be read from it.
CUT = re.compile(r"-[0-9a-f]{16}$")


def run_facts(folder: Path) -> dict[str, Any]:
    """The facts of a run.

    Returns:
        command: the command line that makes it, such as "lipbench run experiment=digits08/hkr_mlp seed=0"; "" where it
            is not known. Paths, the device and the results folder are not part of it.
        overrides: the options that make its network another than the experiment's, as "name=value".
        label: its name in figures and tables, such as "hkr_mlp, loss.margin=2".
        look: kind (what a built-in network was trained with, such as "hkr"; else its name), name, color and marker.

    Raises:
        Damaged: the manifest was changed after the run.
        ResultsError: another file of the run cannot be read.
    """
    stored = (read_manifest(folder) or {}).get("run")
    return stored if _are_facts(stored) else _derived(folder)


def facts_of(experiment: str, command: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """The facts of a new run, for its manifest.

    Args:
        experiment: its name without its data set.
        command: the words of the command line.
        overrides: as in `run_facts`.
    """
    look = network_look(experiment)
    return {
        "command": shlex.join(command),
        "overrides": list(overrides),
        "label": ", ".join([experiment, *overrides]),
        "look": {
            **{"kind": kind_of(experiment) or experiment, "name": look.label},
            **{"color": look.color, "marker": look.marker},
        },
    }


def with_images(facts: Mapping[str, Any], images: int) -> dict[str, Any]:
    """The same facts, of a command that attacks this many images."""
    words = [word for word in shlex.split(facts["command"]) if not word.startswith("images=")]
    return {**facts, "command": shlex.join([*words, f"images={images}"])}


def _are_facts(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value of a manifest is what `facts_of` returns: anybody can write a manifest."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("command", "label"))
        and isinstance(value.get("overrides"), list)
        and all(isinstance(override, str) for override in value["overrides"])
        and isinstance(value.get("look"), dict)
        and all(isinstance(value["look"].get(key), str) for key in ("kind", "name", "color", "marker"))
    )


def _derived(folder: Path) -> dict[str, Any]:
    """The facts of a run whose manifest lacks them, from its folder's name, its configuration and its summary."""
    key = run_key(folder)
    path, summary = folder / "config.yaml", folder / "summary.json"
    source = read_json(summary).get("source") if summary.exists() else None
    if source is not None:
        words = ["lipbench", "evaluate", f"model={source}", f"dataset={key['dataset']}", f"name={key['experiment']}"]
        return facts_of(key["experiment"], words, [])
    variant = str(key["variant"])
    if CUT.search(variant):
        return {**facts_of(key["experiment"], [], []), "label": f"{key['experiment']}, {variant}"}
    known = variant != "default" and path.exists()
    overrides = _overrides(variant, read_config(path) if known else {})
    words = ["lipbench", "run", f"experiment={key['dataset']}/{key['experiment']}", f"seed={key['seed']}"]
    return facts_of(key["experiment"], [*words, *overrides], overrides)


def _overrides(variant: str, configuration: Any) -> list[str]:
    """The overrides that a variant is named by. The configuration has the lists: the folder's name has no brackets."""
    found = []
    for text in [] if variant == "default" else re.split(r",(?=[A-Za-z_][\w.]*=)", variant):
        key, _, value = text.partition("=")
        node = configuration
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if "." in key and isinstance(node, list):
            value = "[" + ",".join(map(str, node)) + "]"
        found.append(f"{key}={value}")
    return found
