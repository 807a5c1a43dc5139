"""The report, run."""

import pandas as pd
from hydra import compose, initialize_config_dir

from lipbench.commands import report
from lipbench.commands.suites import CONF


def run_report(*options: str) -> pd.DataFrame:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return report._report(compose("report", overrides=list(options)))
