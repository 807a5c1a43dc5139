"""The help of every command. Options, defaults and choices are read from `conf/`, so they cannot differ."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from lipbench.commands.suites import CONF

WIDTH = 100
GOES_ON = "The same command continues where this one stopped."


@dataclass(frozen=True)
class Command:
    """What is said of a command.

    Attributes:
        purpose: what it does, in one sentence.
        usage: how its options are written.
        examples: three command lines at most, without "lipbench".
        config: its file in `conf/`; "" where it has none.
        options: name -> meaning, of the options that no file of `conf/` has.
        failed: its exit code where it cannot do its work.
        interrupted: what is said after an interruption.
    """

    purpose: str
    usage: str
    examples: tuple[str, ...]
    config: str = ""
    options: tuple[tuple[str, str], ...] = ()
    failed: int = 1
    interrupted: str = GOES_ON


RUN = "results/runs/digits08/hkr_cnn/default/0"
COMMANDS = {
    "run": Command(
        "Train a network, certify it and attack it; write all results to one folder.",
        "experiment=DATASET/NAME [option=value ...]",
        (
            "run experiment=digits08/hkr_mlp",
            "run suite=digits08 seed=0,1,2 images=100",
            "run experiment=mnist08/hkr_cnn constraint=aol loss.margin=1,2 -m",
        ),
        "config",
        (
            ("suite=", "All experiments of a data set, or a list such as digits08,mnist08/hkr_mlp. It is a sweep."),
            ("-m", "A sweep: every value of a list such as seed=0,1,2 makes a run of its own."),
        ),
    ),
    "evaluate": Command(
        "Certify and attack your own model; write all results to one folder.",
        "model=SOURCE [option=value ...]",
        (
            "evaluate model=my_model.py:build checkpoint=weights.safetensors dataset=mnist08",
            "evaluate model=net.onnx dataset=mnist input_mean=0.1307 input_std=0.3081",
            'evaluate model=my_model.py:build dataset=digits "attack=[deepfool,lipbench]"',
        ),
        "evaluate",
    ),
    "report": Command(
        "Write the leaderboard, the figures and the page of a results folder.",
        "[results=FOLDER] [option=value ...]",
        ("report", "report results=results/runs compare=results/reference", "report datasets=[mnist08] figures=false"),
        "report",
        interrupted="The same command draws the figures again.",
    ),
    "status": Command(
        "Count the finished runs; list those that run, failed, stopped, are missing, violated or damaged.",
        "[results=FOLDER] [the options of a sweep]",
        ("status", "status results=results/runs", "status suite=mnist08 seed=0,1,2 loss.margin=1,2"),
        options=(
            ("results=results/runs", "Root of the results. Alone: all runs that were begun."),
            ("option=value", "The options of `lipbench run`: the runs of that command, also missing ones."),
        ),
        interrupted="Nothing was changed.",
    ),
    "reproduce": Command(
        "Make a finished run again from its own files and compare the tables.",
        "run=FOLDER [option=value ...]",
        (f"reproduce run={RUN}", f"reproduce run={RUN} out=again", f"reproduce run={RUN} trust=[mypackage]"),
        "reproduce",
        failed=2,
        interrupted="Only the files in out= are kept.",
    ),
    "export": Command(
        "Write a trained network, properties for verifiers, or distances for AttackBench.",
        "run=FOLDER [option=value ...]",
        (f"export run={RUN}", f"export run={RUN} formats=[onnx] vnnlib=20", f"export run={RUN} attackbench=true"),
        "export",
    ),
    "import": Command(
        "Read the verdicts of a verifier into a finished run, as bounds.",
        "run=FOLDER verdicts=FILE method=NAME [option=value ...]",
        (f"import run={RUN} verdicts=out.csv method=sdp_crown",),
        "import",
        interrupted="lipbench run finishes the run again; then import once more.",
    ),
    "data": Command(
        "Download, check or draw the files of a data set.",
        "NAME [--root FOLDER] [option ...]",
        ("data mnist", "data cifar10 --root data", "data celeba_drawn --number 1000"),
        interrupted="No incomplete file has the name of a data set.",
    ),
    "forget": Command(
        "Remove runs. It does not ask. It refuses a folder that is no run or that is running.",
        "FOLDER [FOLDER ...]",
        (f"forget {RUN}",),
    ),
}


@dataclass(frozen=True)
class Option:
    """An option of a file of `conf/`: its name, its default as the file writes it, and its comment."""

    name: str
    default: str
    meaning: str


def overview() -> str:
    """The help of `lipbench` itself."""
    lines = [f"  {name:10s} {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "lipbench: how far is the nearest adversarial example? Certificates from below, attacks from above.",
            "\nUsage: lipbench COMMAND [options]\n",
            *lines,
            "\nlipbench COMMAND --help shows the options of a command. Documentation: README.md and docs/.",
        ]
    )


def command_help(name: str) -> str:
    """The help of one command: its purpose, its examples, every option with meaning and default, groups and choices."""
    command = COMMANDS[name]
    parts = [f"lipbench {name}: {command.purpose}", f"Usage: lipbench {name} {command.usage}"]
    parts.append("\n".join(["Examples:", *(f"  lipbench {example}" for example in command.examples)]))
    options = [Option(*extra) for extra in ((key, "", meaning) for key, meaning in command.options)]
    if command.config:
        options += options_of(command.config)
    if name == "data":
        from lipbench.commands.data import parser

        return "\n\n".join([*parts, parser().format_help().partition("\n\n")[2].strip()])
    if options:
        parts.append("\n".join(["Options (name=default):", *map(_lines, options)]))
    if choices := dict(groups_of(command.config)):
        shown = [_lines(Option(group, default, _listed(group))) for group, default in choices.items()]
        parts.append("\n".join(["Groups (name=default, then the choices):", *shown]))
    if "training" in choices:
        inside = [_lines(Option(f"training.{o.name}", o.default, o.meaning)) for o in options_of("training/default")]
        parts.append("\n".join(["Options of the training:", *inside]))
        parts.append(f"Options of any choice: lipbench {name} GROUP=CHOICE --cfg job")
    if command.config:
        parts.append("Hydra's own help: --hydra-help")
    return "\n\n".join(parts)


def options_of(file: str) -> list[Option]:
    """The options of a file of `conf/`, but for its groups. The comment above an option is its meaning.

    Args:
        file: without its ending, such as "config".
    """
    found, comment, inside = [], [], ""
    for line in (CONF / f"{file}.yaml").read_text(encoding="utf-8").splitlines():
        key = re.match(r"(?:  )?(\w+): *(.*)$", line)
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
        if key is None or key[1].startswith("_"):
            continue
        nested = line.startswith(" ")
        if not (nested or key[2]):
            inside = key[1]
        if (not nested and key[2]) or (nested and inside not in ("defaults", "hydra")):
            name = {"model.source": "model"}.get(f"{inside}.{key[1]}", f"{inside}.{key[1]}") if nested else key[1]
            found.append(Option(name, key[2], " ".join(comment)))
        if key[2] or inside == "defaults":
            comment = []
    return found


def groups_of(config: str) -> Iterator[tuple[str, str]]:
    """(group, default choice), of the groups of a command."""
    text = (CONF / f"{config}.yaml").read_text(encoding="utf-8") if config else ""
    yield from re.findall(r"^  - (\w+): (.+)$", text, re.MULTILINE)


def choices_of(group: str) -> list[str]:
    """The choices of a group, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def _listed(group: str) -> str:
    if group != "experiment":
        return ", ".join(choices_of(group))
    sets = sorted(path.name for path in (CONF / group).glob("[!_]*") if path.is_dir())
    return f"DATASET/NAME; of the data sets {', '.join(sets)}. Files: conf/experiment/DATASET/NAME.yaml"


def _lines(option: Option) -> str:
    head = f"  {option.name}" + (f"={option.default}" if option.default else "")
    indent = " " * 24
    if len(head) < len(indent) - 1:
        return textwrap.fill(option.meaning, WIDTH, initial_indent=f"{head:24s}", subsequent_indent=indent)
    return f"{head}\n" + textwrap.fill(option.meaning, WIDTH, initial_indent=indent, subsequent_indent=indent)
