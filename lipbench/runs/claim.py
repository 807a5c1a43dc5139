"""Whose results a folder holds, and what of them can be kept. Nothing is changed before every check has passed."""

import hashlib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lipbench.files import ResultsError, differences, digest, read_config, read_json, write_text
from lipbench.results import MANIFEST, Damaged, as_json, damage, read_manifest, table_paths
from lipbench.runs.identity import read_back
from lipbench.runs.lock import LOCK

# What the tables of all methods share: none of these can be made again without them.
SHARED = {"costs.csv", "flags.json", "gallery.npz"}


class OtherNetwork(ResultsError):
    """A folder is another run's."""


@dataclass(frozen=True)
class Claim:
    """What a folder holds of a run that is asked for, and whether it can be used.

    Attributes:
        folder: of the run.
        trained: names of the files that only a new training can make.
        files: what the manifest says of each file; empty where the run is unfinished.
        broken: name of each damaged file -> what is wrong with it.
    """

    folder: Path
    trained: Collection[str] = ()
    files: Mapping[str, Any] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, trained: Collection[str]) -> "Claim":
        """Reads all files of a finished run.

        Raises:
            Damaged: what is damaged cannot be made again.
        """
        try:
            manifest = read_manifest(folder)
        except Damaged as error:
            advice = "Restore it from a copy, or delete it: the run is then checked table by table and finished again."
            raise Damaged(folder, error.files, advice) from None
        if manifest is None:
            return cls(folder, trained, broken=_changed_tables(folder))
        broken = damage(folder, manifest)
        strange = {name: why for name, why in broken.items() if name not in manifest["files"]}
        if strange:
            raise Damaged(folder, strange, "Remove it, or use force=true to make the run again.")
        lost = {name: why for name, why in broken.items() if name in trained}
        if lost:
            advice = "Only a new training makes it: restore it from a copy, or use force=true to make the run again."
            raise Damaged(folder, lost, advice)
        return cls(folder, trained, manifest["files"], broken)

    def check(self, network: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, str]:
        """Whether the folder holds this network, judged on these images.

        Returns:
            name -> content of the files that say so, of those that the folder lacks.

        Raises:
            OtherNetwork: it holds another network, or results of other images, or does not say which.
        """
        texts = {"config.yaml": OmegaConf.to_yaml(OmegaConf.create(dict(network))), "data.json": as_json(data)}
        read = {"config.yaml": read_config, "data.json": read_json}
        missing = {}
        for name, now in (("config.yaml", read_back(network)), ("data.json", data)):
            path, what = self.folder / name, "another network" if name == "config.yaml" else "other images"
            if path.exists() and name not in self.broken:
                lines = differences(read[name](path), now)
                listed = "".join(f"\n  {line}" for line in lines)
                why = f"Differences (in the folder -> asked for):{listed}\n" if lines else ""
            else:
                missing[name] = texts[name]
                why = self._unknown(name, texts[name])
            if why:
                raise OtherNetwork(f"{self.folder} holds results of {what}. {why}{self.replace}")
        return missing

    def _unknown(self, name: str, text: str) -> str:
        """Why a file that is missing or damaged cannot be written again; "" where it can."""
        recorded = self.files.get(name)
        if recorded is not None and hashlib.sha256(text.encode()).hexdigest() != recorded["sha256"]:
            return f"{name} is missing or damaged, and was not what this command would write.\n"
        made = [path for path in self.trained if (self.folder / path).exists()]
        if recorded is None and (made or table_paths(self.folder)):
            return f"{name} is missing, which would say what the other files are made of.\n"
        return ""

    def check_table(self, table: Path, identity: Mapping[str, Any]) -> None:
        """The number of images is no difference: see `enough`.

        Raises:
            ResultsError: a table of the folder depends on something else than what is asked for.
        """
        made_of = table.with_suffix(".json")
        if not table.exists() or table.relative_to(self.folder).as_posix() in self.remade:
            return
        held = read_json(made_of) if made_of.exists() else {}
        asked = {key: value for key, value in identity.items() if key != "images"}
        lines = differences({key: held.get(key) for key in asked} if isinstance(held, dict) else {}, asked)
        if lines:
            raise ResultsError(
                f"{table} was made with other options. Differences (in the folder -> asked for):\n  "
                + "\n  ".join(lines)
                + f"\nDelete that table. {self.replace}"
            )

    def check_others(self, asked: Collection[str], network: str) -> None:
        """Whether tables of methods that are not asked for are of this network: they enter the combined attack.

        Args:
            network: its fingerprint.

        Raises:
            ResultsError: one is of another network.
        """
        for table in table_paths(self.folder):
            path = table.with_suffix(".json")
            if table.stem in asked or table.relative_to(self.folder).as_posix() in self.remade:
                continue
            held = read_json(path) if path.exists() else None
            if not isinstance(held, dict) or held.get("network") != network:
                raise ResultsError(f"{table} is no table of this network. Remove it. {self.replace}")

    @property
    def replace(self) -> str:
        """What to do with results of something else. An external model has no training, and any name."""
        return f"Use force=true to replace the run, or give another {'' if self.trained else 'name= or '}results=."

    @property
    def remade(self) -> set[str]:
        """Names of the files that are made again: the damaged ones and what depends on them."""
        names = {other for name in self.broken for other in (name, *_pair(name))}
        if SHARED & names:
            names |= {name for name in self.files if name.startswith("bounds/")}
        return names & {*self.files, *self.broken}

    def begin(self, missing: Mapping[str, str]) -> None:
        """Makes the folder the run's: removes what is made again, writes what `check` returned; then the manifest goes,
        until the run is finished.
        """
        for name in sorted(self.remade - missing.keys()):
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        for name, text in missing.items():
            write_text(self.folder / name, text)
        (self.folder / MANIFEST).unlink(missing_ok=True)


def enough(table: Path, asked: Mapping[str, Any]) -> bool:
    """Whether a table is there and is of all images that are asked for, or of more: a bound of an image holds, whatever
    other images the method judged.

    Args:
        asked: what the table depends on. Its "images" is the number of the first test images; None: all of them, as
            for a measure without it.
    """
    held, wanted = images_of(table), asked.get("images")
    return table.exists() and (held is None or (wanted is not None and held >= wanted))


def images_of(table: Path) -> int | None:
    """How many images a table was made of, the first ones; None: all. 0 where nothing says it of a table of bounds."""
    path = table.with_suffix(".json")
    held = read_json(path) if path.exists() else None
    images = held.get("images", None if "measure" in held else 0) if isinstance(held, dict) else 0
    return images if images is None or type(images) is int else 0


def _changed_tables(folder: Path) -> dict[str, str]:
    """Name of each table of an unfinished run that is not as it was written -> what is wrong with it."""
    found = {}
    for table in table_paths(folder):
        record = table.with_suffix(".json")
        held = read_json(record) if record.exists() else None
        if isinstance(held, dict) and held.get("sha256", digest(table)) != digest(table):
            found[table.relative_to(folder).as_posix()] = "has another content than the run wrote"
    return found


def empty(folder: Path) -> None:
    """Removes what a folder holds: the manifest first, so that no part of it is taken for a finished run; what says
    whose it is last, so that no other network is found in it.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif LOCK not in path.name and path.name != "config.yaml":  # nor what others try the lock with
            path.unlink(missing_ok=True)
    (folder / "config.yaml").unlink(missing_ok=True)


def _pair(name: str) -> list[str]:
    """The other file of a table: what it holds, or what it is made of."""
    others = {".csv": [".json"], ".parquet": [".json"], ".json": [".csv", ".parquet"]}.get(Path(name).suffix, [])
    return [Path(name).with_suffix(other).as_posix() for other in others]
