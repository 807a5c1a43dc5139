"""`python -m lipbench <command>`, the same as `lipbench <command>`."""

from lipbench.commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
