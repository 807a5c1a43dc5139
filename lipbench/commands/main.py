"""One door to every command: `lipbench <command>`, or `python -m lipbench <command>`."""

import sys
from importlib import import_module

COMMANDS = ("run", "evaluate", "report", "status", "reproduce", "export", "data")


def main() -> None:
    """Hands the rest of the command line to the command that its first word names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        raise SystemExit(f"lipbench <command>: one of {', '.join(COMMANDS)}.")
    sys.argv[:2] = [f"lipbench {name}"]
    raise SystemExit(import_module(f"lipbench.commands.{name}").main())
