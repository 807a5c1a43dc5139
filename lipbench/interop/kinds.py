"""What a file is, by its first bytes: the ending of a name says little. Nothing in the file is run."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

# Bytes that are read of a file that is no zip archive.
HEAD = 512


class ModelError(ValueError):
    """A model that cannot be loaded, or is no classifier of the images, with what would help."""


@dataclass(frozen=True)
class Kind:
    """What a file is, and what to do with it where a model is expected."""

    name: str
    remedy: str = ""


NAME_A_FUNCTION = "Give it as checkpoint=, together with the code of the network: model=file.py:function."
BY_ONNX = "Convert the network to ONNX with the library that made the file, and give model=file.onnx."
UNPACK = "Unpack it and name the file of the model."
AGAIN = "Download or copy it again."

SAVED = Kind("a file of torch.save", f"{NAME_A_FUNCTION} Of a pickled module, save the state_dict() alone.")
SAFETENSORS = Kind("a file of safetensors", NAME_A_FUNCTION)
EXPORTED = Kind("a torch.export file", "Give it as model=, without checkpoint=.")
SCRIPTED = Kind("a TorchScript file", "Give it as model=, without checkpoint=.")
ONNX = Kind("an ONNX file", "Give it as model=, without checkpoint=.")
PYTHON = Kind("Python code", "Name the function that builds the network: model=file.py:function.")
ARRAYS = Kind("arrays of numpy", "Fill the nn.Module with them and save its state_dict().")
POINTER = Kind("a Git LFS pointer, not the file that it stands for", "In its repository run git lfs pull.")
PAGE = Kind("a web page", "Download the file itself: open the page, and follow its link for the raw file.")
UNKNOWN = Kind("a file of an unknown kind", AGAIN)

# Where the bytes stand, the bytes, and what they begin.
MAGIC = (
    (0, b"\x89HDF\r\n", Kind("an HDF5 file, such as Keras writes", BY_ONNX)),
    (4, b"TFL3", Kind("a TensorFlow Lite file", BY_ONNX)),
    (0, b"GGUF", Kind("a GGUF file of a language model", "Give a classifier of images.")),
    (0, b"\x93NUMPY", ARRAYS),
    (0, b"MATLAB 5.0", Kind("a file of MATLAB", BY_ONNX)),
    (0, b"\x1f\x8b", Kind("a gzip archive", UNPACK)),
    (0, b"BZh", Kind("a bzip2 archive", UNPACK)),
    (0, b"\xfd7zXZ\x00", Kind("an xz archive", UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", UNPACK)),
    (0, b"Rar!\x1a\x07", Kind("a RAR archive", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a zstd archive", UNPACK)),
    (257, b"ustar", Kind("a tar archive", UNPACK)),
    (0, bytes(HEAD), Kind("a file of zeros", AGAIN)),
    (0, b"%PDF", Kind("a PDF document", "Name the file of the model.")),
    (0, b"\x89PNG", Kind("a picture (PNG)", "Name the file of the model.")),
    (0, b"\xff\xd8\xff", Kind("a picture (JPEG)", "Name the file of the model.")),
    (2, b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", SAVED),  # as torch before 1.6 wrote it
    (0, b"\x80", Kind("a pickle that torch.save did not write", "Save the state_dict() by torch.save.")),
)


def kind_of(path: Path) -> Kind:
    """What a file is. It never raises: what cannot be opened is a kind of its own."""
    try:
        if not path.is_file():
            name = "a folder" if path.is_dir() else "no regular file"
            return Kind(name, "Name the file that holds the model.")
        with path.open("rb") as file:
            head = file.read(HEAD)
        size = path.stat().st_size
    except OSError as error:
        return Kind(f"a file that cannot be opened ({error.strerror})", "Get the right to read it, or copy it.")
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, HEAD):
        return SAFETENSORS
    known = (kind for start, magic, kind in MAGIC if head[start : start + len(magic)] == magic)
    kind = next(known, None) or _of_text(head, path.suffix)
    # A protocol buffer has no first bytes of its own; exporters write the version of the format first.
    return kind or (ONNX if path.suffix == ".onnx" or head[0] == 8 else UNKNOWN)


def not_what_was_expected(path: Path, expected: str, kind: Kind) -> str:
    """The refusal of a file of another kind."""
    return f"{path.name} cannot be read as {expected}: it is {kind.name}. {kind.remedy}"


def _of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile's own errors, and those of struct and of codecs
        return Kind("a zip archive that is cut off or damaged", AGAIN)
    inside = {name.partition("/")[2] for name in names}
    kinds = (
        (bool(inside & {"archive_format", "models/model.json"}), EXPORTED),
        ("constants.pkl" in inside and any(name.startswith("code/") for name in inside), SCRIPTED),
        ("data.pkl" in inside, SAVED),
        (any(name.endswith(".npy") for name in names), ARRAYS),
        (any(name.endswith(".weights.h5") for name in names), Kind("a file of Keras", BY_ONNX)),
    )
    return next((kind for found, kind in kinds if found), Kind(f"a zip archive of {len(names)} files", UNPACK))


def _of_text(head: bytes, suffix: str) -> Kind | None:
    """What a text is; None for what is no text."""
    text = head.decode("utf-8", "ignore")  # HEAD may cut a character
    if len(text.encode()) < len(head) - 3 or any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        return None
    start = text.lstrip("\ufeff \t\r\n").lower()
    kinds = (
        (not start, Kind("an empty file", AGAIN)),
        (start.startswith("version https://git-lfs"), POINTER),
        (start.startswith(("<!doctype", "<html", "<head", "<?xml", "<!--")), PAGE),
        (suffix == ".py", PYTHON),
        (start.startswith(("{", "[")), Kind("a JSON text", "Name the file of the model.")),
    )
    told = Kind(f"a text that begins with {text.strip()[:40]!r}", AGAIN)
    return next((kind for found, kind in kinds if found), told)
