"""Tables of bounds: schema, reading, writing, the sandwich law, robust accuracy."""

from lipbench.results.compare import COMBINED, Comparison, compare
from lipbench.results.files import (
    ResultsError,
    atomic,
    differences,
    file_hash,
    fingerprint,
    read_json,
    write_json,
    write_text,
)
from lipbench.results.history import layer_columns, read_histories
from lipbench.results.recall import class_accuracies, imbalance
from lipbench.results.summary import EPSILONS, read_summary, summarize, table_hashes, write_summary
from lipbench.results.tables import (
    COLUMNS,
    NORMS,
    RUN_COLUMNS,
    LawViolation,
    best,
    bounds_table,
    read,
    read_bounds,
    run_folders,
    run_key,
    survival,
    violations,
    write_bounds,
)

__all__ = [
    "COLUMNS",
    "COMBINED",
    "EPSILONS",
    "NORMS",
    "RUN_COLUMNS",
    "Comparison",
    "LawViolation",
    "ResultsError",
    "atomic",
    "best",
    "bounds_table",
    "class_accuracies",
    "compare",
    "differences",
    "file_hash",
    "fingerprint",
    "imbalance",
    "layer_columns",
    "read",
    "read_bounds",
    "read_histories",
    "read_json",
    "read_summary",
    "run_folders",
    "run_key",
    "summarize",
    "survival",
    "table_hashes",
    "violations",
    "write_bounds",
    "write_json",
    "write_summary",
    "write_text",
]
