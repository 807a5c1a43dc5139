"""Python files of users, such as those of models: run as Python itself would run them, their errors told with the line
that raised them.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lipbench.files import file_hash
from lipbench.interop.kinds import ModelError, kind_of, not_what_was_expected


def is_module(path: str) -> bool:
    """Whether the part before the colon of `path:function` names a module, not a file."""
    return not path.endswith(".py") and "/" not in path and "\\" not in path


def built(path: str, function: str, known: dict[str, Any]) -> tuple[nn.Module, Path | None]:
    """The model that a function of a file or module gives, and the file of its code where there is one.

    Code is run, with the folder of the file on Python's path and an empty command line, as by `python file.py`.

    Args:
        path: of the file, or name of the module.
        known: what the function may ask for, by name.

    Raises:
        ModelError: there is no such file or function, its code fails, or it gives no `nn.Module`.
    """
    source, file = f"{path}:{function}", _file_of(path)
    with _as_started(file, path):
        module, made = _member(path, function, file)
        if not isinstance(made, nn.Module):
            made = _called(source, made, known)
    if not isinstance(made, nn.Module):
        raise ModelError(f"{source} gives a {type(made).__name__}, not an nn.Module.")
    return made, file or (Path(module.__file__) if module.__file__ else None)


def function_of(source: str) -> Callable[..., Any]:
    """The function that "file.py:function" or "package.module:function" names. Code is run as in `built`, now and
    whenever the function is called.

    Raises:
        ModelError: there is no such file or function, or its code fails. The function raises it where it fails.
    """
    path, _, name = source.rpartition(":")
    if not path or not name:
        raise ModelError(f"{source} names no function: give file.py:function or package.module:function.")
    file = _file_of(path)
    with _as_started(file, path):
        _, found = _member(path, name, file)
    if not callable(found):
        raise ModelError(f"{source} is a {type(found).__name__}, not a function.")

    def call(*arguments: Any) -> Any:
        with _as_started(file, path), explained(source):
            return found(*arguments)

    return call


def _file_of(path: str) -> Path | None:
    """The file of the code; None of a module."""
    file = None if is_module(path) else Path(path).expanduser()
    if file is not None and not file.exists():
        raise ModelError(f"There is no file {file}.")
    if file is not None and file.suffix != ".py":
        raise ModelError(not_what_was_expected(file, "Python code", kind_of(file)))
    return file


def _member(path: str, name: str, file: Path | None) -> tuple[ModuleType, Any]:
    """The module of a file (or of this name), and what it holds under a name."""
    with explained(f"{path}:{name}"):
        module = importlib.import_module(path) if file is None else _imported(file)
    if not hasattr(module, name):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelError(f"{path} has no {name}. It has: {', '.join(names) or 'no function'}.")
    return module, getattr(module, name)


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Errors of a model's code: what was raised, and the last line of that code on the way there.

    Raises:
        ModelError: the block raises any exception, the end of the process (`SystemExit`) included.
    """
    try:
        yield
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        advice = ""
        if isinstance(error, SystemExit):
            advice = (
                ". It ends the process when it is imported or called: put what reads the command line below "
                "if __name__ == '__main__':"
            )
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(f"{source} fails{place}: {type(error).__name__}: {lines[0][:200]}{advice}") from error


def code_hash(file: Path) -> str:
    """SHA-256 of a model's file; where that is Python, with the modules of its folder, or of the package that it is
    part of, that are imported by now.
    """
    if file.suffix != ".py":
        return file_hash(file)
    folder, digest = _package(file)[0], hashlib.sha256(file_hash(file).encode())
    others = {}
    for module in list(sys.modules.values()):
        found = getattr(module, "__file__", None)
        if found and Path(found).resolve().is_relative_to(folder) and Path(found).resolve() != file.resolve():
            others[Path(found).resolve().relative_to(folder).as_posix()] = Path(found)
    for name, path in sorted(others.items()):
        # Not the libraries of an environment inside the folder, nor lipbench in a checkout of its own.
        if "site-packages" not in name and not name.startswith("lipbench/") and path.exists():
            digest.update(f"{name} {file_hash(path)}".encode())
    return digest.hexdigest()[:16]


def _called(source: str, made: Any, known: dict[str, Any]) -> Any:
    if not callable(made):
        raise ModelError(f"{source} is a {type(made).__name__}, not a function that gives a model.")
    with explained(source):
        parameters = inspect.signature(made).parameters
    needed = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if unknown := [name for name in needed if name not in known]:
        raise ModelError(
            f"{source} needs {', '.join(unknown)}: give a function without arguments, or of shape and classes."
        )
    with explained(source):
        return made(**{name: value for name, value in known.items() if name in parameters})


def _package(file: Path) -> tuple[Path, list[str]]:
    """The folder outside the outermost package that a file is part of, and the names of the packages on the way."""
    folder = file.resolve().parent
    names: list[str] = []
    while (folder / "__init__.py").exists() and folder.name:
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, names


def _imported(file: Path) -> ModuleType:
    """Runs a file as a module of its package. All lies below a package of our own whose name is that of the folder's
    hash: no module that is already imported can have it, for any name of the file.
    """
    folder, names = _package(file)
    root = f"_model_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    sys.modules[root] = ModuleType(root)
    sys.modules[root].__path__ = [str(folder)]
    parent = ".".join([root, *names])
    importlib.import_module(parent)  # what each __init__.py does
    spec = importlib.util.spec_from_file_location(f"{parent}.{file.stem.replace('.', '_')}", file)
    assert spec is not None  # as the file ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in it look themselves up
    spec.loader.exec_module(module)
    return module


@contextmanager
def _as_started(file: Path | None, path: str) -> Iterator[None]:
    """Inside, Python's path and the command line are as after `python file.py`."""
    folders = [Path.cwd()] if file is None else [file.resolve().parent, _package(file)[0]]
    arguments, sys.argv = sys.argv, [path]
    added = list(dict.fromkeys(map(str, folders)))
    sys.path[:0] = added
    try:
        yield
    finally:
        sys.argv = arguments
        for folder in added:
            if folder in sys.path:  # unless the model's code took it out
                sys.path.remove(folder)


def _is_users(filename: str) -> bool:
    """Whether a line of a traceback is of the model's code, not of Python, a library or lipbench."""
    if not Path(filename).is_file() or "site-packages" in filename:
        return False
    known = (sysconfig.get_paths()["stdlib"], str(Path(__file__).resolve().parent.parent))
    return not str(Path(filename).resolve()).startswith(known)
