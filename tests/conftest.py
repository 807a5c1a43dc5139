"""What the tests share."""

from collections.abc import Iterator

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same random numbers for every test, two threads at most."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    yield
    torch.set_num_threads(threads)
