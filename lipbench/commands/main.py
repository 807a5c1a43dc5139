"""The command `lipbench`, also `python -m lipbench`: dispatch, signals, exit codes, and errors without a traceback."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from lipbench.commands.help import COMMANDS, Command, command_help, overview
from lipbench.configuration import VERSION, unknown
from lipbench.escapes import say
from lipbench.runs.codes import FAILED, FINISHED, INTERRUPTED

# Hydra's own options, which show a configuration and run nothing.
SHOWING = {"--hydra-help", "--cfg", "-c", "--info", "-i"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. SIGTERM, which a batch system sends, is Ctrl-C: workers end with it, and locks are given back.

    Args:
        arguments: the command and its options; None: those of the command line.

    Returns:
        the exit code: 0; 1, or 2 of `reproduce`, where the command failed; 75 where another process makes a run; 130
        after an interruption.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not words or words[0] in ("-h", "--help", "help"):
        say(overview())
        return FINISHED if words else FAILED
    if words == ["--version"]:
        say(f"lipbench {VERSION}")
        return FINISHED
    name, *options = words
    if name not in COMMANDS:
        say(f"{unknown('command', name, COMMANDS)} See lipbench --help.", sys.stderr)
        return FAILED
    return _run(name, COMMANDS[name], options)


def _run(name: str, command: Command, options: Sequence[str]) -> int:
    try:
        return _done(name, command, options)
    except SystemExit as ended:  # of argparse, Hydra, or a launcher, which gives a text
        if isinstance(ended.code, str):
            say(ended.code, sys.stderr)
        return ended.code if isinstance(ended.code, int) else command.failed if ended.code else FINISHED
    except KeyboardInterrupt:  # also of the imports, which take seconds
        say(f"\nInterrupted. {command.interrupted}", sys.stderr)
        return INTERRUPTED


def _done(name: str, command: Command, options: Sequence[str]) -> int:
    if {"-h", "--help"} & set(options):
        say(command_help(name))
        return FINISHED
    from hydra.errors import HydraException  # here, because help and version need neither Hydra nor torch

    from lipbench.commands.mistakes import CommandError
    from lipbench.results import LawViolation
    from lipbench.runs.lock import Running
    from lipbench.runs.outcome import SAID

    try:
        if command.config and SHOWING & set(options):
            from lipbench.commands.options import show_hydra

            show_hydra(name, command.config, options)
            return FINISHED
        code: int = import_module(f"lipbench.commands.{name}").main(options)
        return code
    except (CommandError, HydraException, Running, *SAID) as error:
        title = "A LAW IS VIOLATED.\n" if isinstance(error, LawViolation) else ""
        say(f"{title}{error}", sys.stderr)
        return command.failed
