"""`lipbench import run=FOLDER verdicts=FILE method=NAME`: what a verifier says of the properties of `lipbench export`,
as tables of the run.
"""

from collections.abc import Sequence
from pathlib import Path

from lipbench.commands.mistakes import CommandError
from lipbench.commands.options import configured
from lipbench.escapes import say
from lipbench.results import named_run
from lipbench.runs.verdicts import import_verdicts


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench import`. It fails where a proof contradicts an attack."""
    cfg = configured(arguments, "import", ("run", "verdicts", "method", "data_root", "source"))
    for name, example in (("run", "results/runs/digits08/hkr_cnn/default/0"), ("verdicts", "results.csv")):
        if cfg[name] is None:
            raise CommandError(f"Which {name}? {name}={example}, for example.")
    if cfg.method is None:
        raise CommandError("Which method? method=sdp_crown, for example: what the verifier is called in the tables.")
    if not Path(cfg.run).is_dir():
        raise CommandError(
            f"run={cfg.run} is no folder. The tables are written into the folder of a run: give its path."
        )
    run = named_run(cfg.run)
    places = {"data_root": cfg.data_root, "source": cfg.source}
    done = import_verdicts(run, Path(cfg.verdicts), str(cfg.method), trust=list(cfg.trust), **places)
    say(f"{cfg.method}: {done.asked} images, {done.proved} proved, {done.broken} with a witness that is adversarial.")
    say("\n".join([*done.notes, "Written:", *(f"  {path}" for path in done.tables)]))
    return 0
