"""Tables of bounds: schema, reading, writing, the sandwich law, robust accuracy."""

from lipbench.files import as_json, digest
from lipbench.results.classwise import IMBALANCED, class_accuracies, imbalance
from lipbench.results.compare import COMBINED, Comparison, compare
from lipbench.results.equality import Equality, equalities
from lipbench.results.history import layer_columns, read_histories
from lipbench.results.laws import LawViolation, check_laws, transport_holds, violations
from lipbench.results.layout import RUN_COLUMNS, named_run, run_folders, run_key, table_path, table_paths
from lipbench.results.manifest import MANIFEST, Damaged, damage, read_manifest, touched, verify, write_manifest
from lipbench.results.storage import read, read_bounds, read_table, write_bounds
from lipbench.results.summary import EPSILONS, read_summary, summarize, table_hashes, write_summary
from lipbench.results.table import (
    COLUMNS,
    FLOAT32_CERTIFICATES,
    FLOAT32_FALSIFIER,
    NORMS,
    balanced_survival,
    best,
    bounds_table,
    survival,
)

__all__ = [
    "COLUMNS",
    "COMBINED",
    "EPSILONS",
    "FLOAT32_CERTIFICATES",
    "FLOAT32_FALSIFIER",
    "IMBALANCED",
    "MANIFEST",
    "NORMS",
    "RUN_COLUMNS",
    "Comparison",
    "Damaged",
    "Equality",
    "LawViolation",
    "as_json",
    "balanced_survival",
    "best",
    "bounds_table",
    "check_laws",
    "class_accuracies",
    "compare",
    "damage",
    "digest",
    "equalities",
    "imbalance",
    "layer_columns",
    "named_run",
    "read",
    "read_bounds",
    "read_histories",
    "read_manifest",
    "read_summary",
    "read_table",
    "run_folders",
    "run_key",
    "summarize",
    "survival",
    "table_hashes",
    "table_path",
    "table_paths",
    "touched",
    "transport_holds",
    "verify",
    "violations",
    "write_bounds",
    "write_manifest",
    "write_summary",
]
