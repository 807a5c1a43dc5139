"""The history in TensorBoard, an optional package."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def event_log(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function for `fit`'s `on_epoch` that writes each history row to TensorBoard: a scalar per column, under its
    name, at step `epoch`. Each row is on disk before the next epoch begins.

    A resumed run appends; epochs after its checkpoint, which it does again, replace those that were logged.

    Args:
        folder: of the event files.

    Raises:
        ImportError: there is no TensorBoard. It is raised at once, before any training.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"tensorboard=true needs TensorBoard ({error}): pip install lipbench[tensorboard], or leave the option out."
        ) from error
    writer: SummaryWriter | None = None

    def write(row: dict[str, Any]) -> None:
        nonlocal writer
        epoch = int(row["epoch"])
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=epoch)
        for column, value in row.items():
            if column != "epoch":
                writer.add_scalar(column, value, epoch)
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
