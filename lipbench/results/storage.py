"""Tables on disk: `bounds/<method>.parquet`, written, read and checked.

A file is Parquet, compressed with zstd. Rows of a certificate in L-infinity and L1 follow from the rows in L2: they are
not stored, but derived when the file is read. Metadata of a file: `schema_version`, `rows` (as read) and, where
rows are derived, `pixels` (numbers in an image). Older versions wrote `bounds/<method>.csv`, which is read as well.
"""

import hashlib
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lipbench.files import ResultsError, atomic, read_json, write_json
from lipbench.results.layout import RUN_COLUMNS, check_seed, run_folders, run_key, table_paths
from lipbench.results.manifest import MANIFEST, verify_tables
from lipbench.results.table import COLUMNS, NORMS, SIDES, radii

SCHEMA_VERSION = 1
WHOLE, TEXT = COLUMNS[:3], COLUMNS[3:6]
SCHEMA = pa.schema({**dict.fromkeys(WHOLE, pa.int64()), **dict.fromkeys(TEXT, pa.string()), "distance": pa.float64()})
ENCODED = pa.schema([f.with_type(pa.dictionary(pa.int32(), pa.string())) if f.name in TEXT else f for f in SCHEMA])
FACTS = (b"schema_version", b"rows", b"pixels")
FORMAT: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": ["label", "prediction", *TEXT],
    "column_encoding": {"index": "DELTA_BINARY_PACKED", "distance": "BYTE_STREAM_SPLIT"},
    "write_statistics": False,
    "store_schema": False,  # types of columns are in the file without Arrow's own record of them
}
# A file of a few bytes can promise any number of rows. The largest test set (CelebA) makes 60,000.
ROWS = 2**24


def write_bounds(folder: Path, table: pd.DataFrame, identity: Mapping[str, Any]) -> Path:
    """Writes `bounds/<method>.parquet` and, before it, `bounds/<method>.json` with what the table depends on and its
    SHA-256: a run that was stopped has no manifest yet, and its tables can be checked all the same.

    The same table gives the same bytes, with one version of pyarrow.

    Args:
        table: rows of one method, as `bounds_table` makes them.
    """
    (method,) = table["method"].unique()
    path = folder / "bounds" / f"{method}.parquet"
    stored, pixels = _stored(_arrow(table))
    facts = {"schema_version": SCHEMA_VERSION, "rows": len(table), **({"pixels": pixels} if pixels else {})}
    content = BytesIO()
    with pq.ParquetWriter(content, SCHEMA, **FORMAT) as writer:
        writer.write_table(stored)
        writer.add_key_value_metadata({key: str(value) for key, value in facts.items()})
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    write_json(path.with_suffix(".json"), {**identity, "sha256": sha256})
    with atomic(path) as temporary:
        temporary.write_bytes(content.getvalue())
    return path


def read_bounds(folder: Path) -> pd.DataFrame:
    """All tables of one run, in the order of their methods' names.

    Raises:
        ResultsError: no table, or one with other columns or values.
    """
    return _of_run(folder).cast(SCHEMA).to_pandas()


def read_table(path: Path) -> pd.DataFrame:
    """One table of a run, as `read_bounds` returns all.

    Raises:
        ResultsError: it has other columns or values.
    """
    return _of_file(path).cast(SCHEMA).to_pandas()


def is_imported(path: Path) -> bool:
    """Whether a table of bounds holds what a program outside of lipbench said (`lipbench import`): no run can make it
    again.
    """
    made_of = path.with_suffix(".json")
    held = read_json(made_of) if made_of.exists() else None
    return isinstance(held, dict) and "imported" in held


def read(root: str | Path) -> pd.DataFrame:
    """All tables under a folder, with the columns dataset, experiment, variant, seed, then those of a table.

    Columns of text are categorical. A run that is not finished is left out, with a warning.

    Args:
        root: a results folder such as `results/runs`, any folder inside it, or one run.

    Raises:
        ResultsError: there is no table of a finished run under it.
        Damaged: a table of a finished run was changed, removed or added after the run.
    """
    folders = run_folders(Path(root))
    if not folders:
        raise ResultsError(f"{root} holds no results: no <dataset>/<experiment>/<variant>/<seed>/bounds/ in it.")
    keys, tables = [], []
    for folder in folders:
        if verify_tables(folder) is None:
            warnings.warn(f"{folder} is left out: it has no {MANIFEST}, so the run is unfinished.", stacklevel=2)
            continue
        check_seed(folder)
        keys.append(run_key(folder))
        tables.append(_of_run(folder))
    if not tables:
        raise ResultsError(f"{root} holds no finished run. Run the experiments again: they go on where they stopped.")
    which = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    whole = pa.concat_tables(tables).unify_dictionaries().to_pandas(split_blocks=True)
    for position, column in enumerate(RUN_COLUMNS):
        values = pd.Series([key[column] for key in keys])
        values = values if column == "seed" else values.astype("category")
        whole.insert(position, column, values.array.take(which))
    return whole


def _of_run(folder: Path) -> pa.Table:
    paths = table_paths(folder)
    if not paths:
        raise ResultsError(f"{folder} holds no tables: nothing matches bounds/*.parquet. Run the experiment first.")
    return pa.concat_tables([_of_file(path) for path in paths])


def _of_file(path: Path) -> pa.Table:
    """The rows of one table, the derived ones as well. Text is encoded by a dictionary."""
    content = path.read_bytes()
    try:
        table = _of_csv(content) if path.suffix == ".csv" else _of_parquet(content)
    except Exception as error:  # of the parsers, in many ways
        raise ResultsError(f"{path} is damaged: {error} Delete it and run the experiment again.") from error
    return table


def _of_parquet(content: bytes) -> pa.Table:
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=TEXT)
    facts = {key: int(value) for key, value in (file.metadata.metadata or {}).items() if key in FACTS}
    if facts.get(b"schema_version") != SCHEMA_VERSION:
        raise ValueError(f"it has no schema of version {SCHEMA_VERSION}.")
    if not file.metadata.num_rows <= facts[b"rows"] <= ROWS or facts.get(b"pixels", 1) < 1:
        raise ValueError(f"it promises {facts[b'rows']:,} rows, or images of no pixels.")
    if file.schema_arrow.remove_metadata() != ENCODED:
        raise ValueError(f"it has columns {file.schema_arrow.names}; expected {COLUMNS} of their types.")
    table = _checked(file.read(use_threads=False).replace_schema_metadata())
    if b"pixels" in facts:
        table = _derived(table, facts[b"pixels"])
    if len(table) != facts[b"rows"]:
        raise ValueError(f"it has {len(table)} rows, expected {facts[b'rows']}.")
    return table


def _of_csv(content: bytes) -> pa.Table:
    # Python's float() returns the very number that was written; pandas' own parser may miss the last bit.
    table = pd.read_csv(BytesIO(content), dtype={"distance": object}, keep_default_na=False)
    if list(table.columns) != COLUMNS:
        raise ValueError(f"it has columns {list(table.columns)}; expected {COLUMNS}.")
    table["distance"] = table["distance"].to_numpy().astype(float)
    return _checked(_arrow(table).cast(ENCODED))


def _checked(table: pa.Table) -> pa.Table:
    """The same table.

    Raises:
        ValueError: a value is none that a run writes.
    """
    table.validate(full=True)  # Arrow does not check by itself that the codes of a text lie in its dictionary
    if any(column.null_count for column in table.columns):
        raise ValueError("it has a value that is missing.")
    for column, known in (("side", SIDES), ("norm", NORMS)):
        if not set(table[column].unique().to_pylist()) <= set(known):
            raise ValueError(f"it has a {column} that is none of {known}.")
    if not (table["distance"].to_numpy() >= 0).all():
        raise ValueError("it has a distance that is negative or NaN.")
    return table


def _arrow(table: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(table[COLUMNS], SCHEMA, preserve_index=False).replace_schema_metadata()


def _stored(table: pa.Table) -> tuple[pa.Table, int]:
    """The rows that are stored, and the numbers in an image: 0 where all rows are stored.

    Only rows that can be derived to the last bit are left out.
    """
    if set(table["side"].unique().to_pylist()) != {"lower"}:
        return table, 0
    first, other = (table.filter(pc.equal(table["norm"], norm)) for norm in ("l2", "linf"))
    if len(first) != len(other) or not len(first):
        return table, 0
    l2, linf = (part["distance"].to_numpy() for part in (first, other))
    known = np.isfinite(l2) & (linf > 0)
    # A radius of 0 or infinity is the same in every norm, however many numbers an image has.
    pixels = round((l2[known][0] / linf[known][0]) ** 2) if known.any() else 1
    return (first, pixels) if pixels and _derived(first, pixels).equals(table) else (table, 0)


def _derived(l2: pa.Table, pixels: int) -> pa.Table:
    """The rows of a certificate in every norm, of those in L2."""
    parts = []
    for norm, distances in radii(l2["distance"].to_numpy(), pixels).items():
        norms = pa.DictionaryArray.from_arrays(np.zeros(len(l2), dtype=np.int32), [norm])
        columns = {**dict(zip(COLUMNS, l2.columns, strict=True)), "norm": norms, "distance": distances}
        parts.append(pa.table(columns).cast(l2.schema))
    return pa.concat_tables(parts)
