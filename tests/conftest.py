"""What the tests share."""

import functools
import http.server
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")

# Attacks of other libraries: first words of their name -> what they import, and how it is installed.
LIBRARIES = {
    "torchattacks": ("torchattacks", "pip install torchattacks"),
    "foolbox": ("foolbox", "pip install lipbench[foolbox]"),
    "adv_lib": ("adv_lib.attacks", "see docs/other_libraries.md"),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same random numbers for every test, two threads at most."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def need_library_of() -> Callable[[str], None]:
    """Skips the test, with the reason, where the library of the attack of that name is missing."""
    path = Path(__file__).parent.parent / "benchmarks" / "adv_lib_import.py"
    spec = importlib.util.spec_from_file_location("adv_lib_import", path)
    assert spec is not None
    assert spec.loader is not None
    stand_ins = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_ins)

    def need(attack: str) -> None:
        for prefix, (module, remedy) in LIBRARIES.items():
            if attack.startswith(f"{prefix}_"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of their imports
                    if prefix == "adv_lib" and importlib.util.find_spec("adv_lib") is not None:
                        stand_ins.import_adv_lib()
                    pytest.importorskip(module, reason=f"{module} is not installed: {remedy}")

    return need


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and counts what is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], tuple[str, list[str]]]]:
    """A function that serves a folder on this machine: -> (address, paths asked for so far)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running: list[tuple[http.server.ThreadingHTTPServer, threading.Thread]] = []

    def start(folder: Path) -> tuple[str, list[str]]:
        asked: list[str] = []
        handler = type("Handler", (Quiet,), {"asked": asked})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/", asked

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()
