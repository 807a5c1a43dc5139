"""The runs of a sweep: which ones there are, before any is started, and how they ended."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lipbench.commands.mistakes import CommandError
from lipbench.commands.suites import CONF
from lipbench.commands.variants import called, folder_of
from lipbench.runs import state as states
from lipbench.runs.codes import ELSEWHERE, FAILED, FINISHED
from lipbench.runs.outcome import Outcome
from lipbench.runs.state import state_of

# Outcomes of the runs that this process has made, or had a launcher make. Hydra passes them to sweepers alone.
OUTCOMES: list[Outcome] = []


@dataclass(frozen=True)
class Planned:
    """A run that a command line asks for.

    Attributes:
        name: "<dataset>/<experiment>".
        folder: of its results.
        command: makes this run alone.
    """

    name: str
    folder: Path
    command: str


def command_of(overrides: Sequence[str]) -> str:
    """The command that makes one run alone."""
    return shlex.join(["lipbench", "run", *overrides])


def planned(arguments: Sequence[str]) -> list[Planned]:
    """The runs of a command line of `lipbench run`, by the rules of Hydra's basic sweeper; suites are expanded already.

    Raises:
        CommandError: a sweeper that chooses its runs as it goes.
    """
    # The launcher does not change which runs there are, and may not be installed.
    overrides = [a for a in arguments if not a.startswith(("-", "hydra/launcher", "hydra.launcher"))]
    parser = OverridesParser.create()
    fixed = [override.input_line for override in parser.parse_overrides(overrides) if not override.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[str(line) for line in fixed], return_hydra_config=True)
    if not str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper"):
        raise CommandError("A sweeper that chooses its runs as it goes has no list of them: give results= alone.")
    # Sweep parameters of the experiment file; the command line overrides them.
    own = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = parser.parse_overrides([*own, *(o for o in overrides if not o.startswith("hydra"))])
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return [_planned(job, config, parser) for job in jobs]


def _planned(overrides: Sequence[str], config: DictConfig, parser: OverridesParser) -> Planned:
    task = [override for override in overrides if not override.lstrip("+~").startswith("hydra")]
    asked = {override.get_key_element(): override.value() for override in parser.parse_overrides(list(task))}
    name = str(asked.get("experiment") or OmegaConf.select(config, "hydra.runtime.choices.experiment"))
    folder = folder_of(asked.get("results", config.results), name, task, asked.get("seed", config.seed))
    return Planned(called(folder), folder, command_of(task))


def lost(overrides: Sequence[str], config: DictConfig, why: str) -> Outcome:
    """The outcome of a run whose process said nothing, from the state of its folder.

    Args:
        overrides: of the command line, those of this run.
        config: of the sweep, Hydra's part included.
        why: how the process ended.
    """
    run = _planned(overrides, config, OverridesParser.create())
    state = state_of(run.folder)
    codes = {states.FINISHED: FINISHED, states.RUNNING: ELSEWHERE}
    said = state.detail if state.kind in (states.RUNNING, states.FAILED) else why
    return Outcome(run.name, str(run.folder), codes.get(state.kind, FAILED), said)
