"""What runs are called: their data set and their variant."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipbench.commands.run import experiment_of
from lipbench.commands.status import states
from lipbench.commands.suites import CONF, CommandError, experiments
from lipbench.commands.variants import folder_of, numbers_like_default, variant_of
from lipbench.data import Dataset, Split, digits
from lipbench.files import read_config, read_json

NAME = "digits08/hkr_mlp"
REFERENCE = Path(__file__).parents[2] / "results" / "reference"
# Committed under a name of their own although they are the default: what is refused now.
DOUBLES = {"mnist08/ce_cnn/loss.temperature=1/0", "mnist08/hkr_mlp/loss.margin=2/0"}


def text(*overrides: str, name: str = NAME) -> str:
    return variant_of(name, overrides).text


@pytest.mark.parametrize(
    "overrides",
    [
        *(["training.epochs=40"], ["training.epochs=40.0"], ["training.epochs=4e1"], ["++training.epochs=40"]),
        *(["loss=hkr"], ["loss=hkr", "loss.margin=1"], ["loss.margin=1.0"], ["loss.margin=1e0"], ["model=mlp"]),
        *(["model.head_kind='auto'"], ["model.mean=[0]"], ["training.minutes=null"], ["training.balanced=false"]),
        *(["loss.margin=3", "loss.margin=1"], ["dataset=digits08"], ["dataset.keep=[0, 8]"], ["constraint=orthogonal"]),
        *(["seed=3"], ["images=5"], ["data_root=/elsewhere"], ["attack=[fgm]"], ["results=/x"], []),
    ],
)
def test_what_changes_nothing_is_no_variant(overrides: list[str]) -> None:
    assert text(*overrides) == "default"


def test_every_default_of_an_experiment_makes_no_second_run() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={NAME}"])
    for part in ("loss", "optimizer", "training", "model", "constraint", "dataset"):
        for key, value in OmegaConf.to_container(config[part]).items():
            if not key.startswith("_") and isinstance(value, bool | int | float):
                assert text(f"{part}.{key}={str(value).lower()}") == "default", f"{part}.{key}"
                if not isinstance(value, bool):
                    assert text(f"{part}.{key}={float(value):e}") == "default", f"{part}.{key}"
                    assert text(f"{part}.{key}={value + 1}") != "default", f"{part}.{key}"


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (["loss.margin=2"], ["loss.margin=2.0"], "loss.margin=2"),
        (["loss.margin=2"], ["++loss.margin=2e0"], "loss.margin=2"),
        (["loss.margin=1e-3"], ["loss.margin=0.001"], "loss.margin=0.001"),
        (["loss.margin=2", "loss.alpha=0.5"], ["loss.alpha=0.50", "loss.margin=2"], "loss.alpha=0.5,loss.margin=2"),
        (["model.widths=[16, 8]"], ["model.widths=[16,8.0]"], "model.widths=_16,8_"),
        (["model.head_kind='antipodal'"], ["model.head_kind=antipodal"], "model.head_kind=antipodal"),
        (["training.balanced=true"], ["loss=hkr", "training.balanced=True"], "training.balanced=true"),
        (["loss=hinge", "loss.margin=2"], ["loss.margin=2.0", "loss=hinge"], "loss.margin=2,loss=hinge"),
        (["loss.margin=3", "loss.margin=2"], ["loss.margin=2"], "loss.margin=2"),
        (["+training.x=1"], ["++training.x=1.0"], "training.x=1"),
    ],
)
def test_how_an_override_is_written_does_not_matter(first: list[str], second: list[str], name: str) -> None:
    assert text(*first) == text(*second) == name
    networks = []
    for overrides in (first, second):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=[f"experiment={NAME}", *overrides])
        network = OmegaConf.to_container(config, resolve=True)
        networks.append(numbers_like_default({k: network[k] for k in ("loss", "model", "training")}, NAME, overrides))
    assert repr(networks[0]) == repr(networks[1]), "of one identity"


def test_what_an_experiment_sweeps_is_named_as_its_file_writes_it() -> None:
    name = "two_moons/hkr_mlp"
    assert text(name=name) == text("loss.alpha=0.99", name=name) == "loss.alpha=0.99"
    assert text("loss.alpha=0", name=name) == "loss.alpha=0.0"
    assert text("loss.alpha=0.25", name=name) == "loss.alpha=0.25"
    assert text("loss.margin=2", "constraint=soc", name="mnist08/layers_cnn") == "constraint=soc,loss.margin=2.0"


def test_committed_results_keep_their_names_and_identities() -> None:
    files = sorted(REFERENCE.glob("*/*/*/*/config.yaml"))
    assert len(files) > 50
    for file in files:
        dataset, experiment, variant, seed = file.parts[-5:-1]
        name, overrides = f"{dataset}/{experiment}", [] if variant == "default" else variant.split(",")
        # Runs of today hold the overrides: of a list, a folder's name has other characters.
        overrides = read_json(file.with_name("manifest.json")).get("run", {}).get("overrides", overrides)
        known = file.parent.relative_to(REFERENCE).as_posix()
        # A default says nothing but that no override has no name: one of each data set.
        some = variant != "default" or experiment == "hkr_cnn"
        if known not in DOUBLES and some:
            assert folder_of("x", name, overrides, int(seed)) == Path("x") / known
            network = read_config(file)
            assert repr(numbers_like_default(network, name, overrides)) == repr(network), known


def test_long_names_are_cut_and_differ() -> None:
    first, second = (f"+training.x={'x' * 300}{end}" for end in "ab")
    assert len(text(first)) < 130
    assert text(first) != text(second)


def flowers() -> Dataset:
    """A data set of one's own, with a name of its own."""
    ours = digits((0, 8))
    small = Split(ours.test.images[:20].contiguous(), ours.test.labels[:20])
    return Dataset("flowers", ("a", "b"), small, small, small)


@pytest.mark.parametrize(
    ("overrides", "dataset"),
    [
        ([], "digits08"),
        (["dataset=digits08"], "digits08"),
        (["dataset=folder", "dataset.root=/none", "dataset.name=flowers"], "flowers"),
        (["dataset=arrays", "dataset.path=/none.npz", "dataset.name=2024"], "2024"),
        (["dataset=digits"], "digits"),
        (["dataset=digits08", "dataset.keep=[3,5]"], "digits35"),
        (["dataset._target_=tests.commands.test_variants.flowers", "~dataset.keep"], "flowers"),
        (["dataset=two_moons"], "two_moons"),
        (["dataset=digits_oneclass", "dataset.inlier=4"], "digits_oneclass"),
    ],
)
def test_a_run_lies_under_the_name_of_its_data_set(overrides: list[str], dataset: str) -> None:
    folder = folder_of("r", NAME, overrides, 0)
    assert folder.parts[1:3] == (dataset, "hkr_mlp")
    (planned,) = states([f"experiment={NAME}", "results=r", *overrides])
    assert planned == folder, "the status looks where the run writes"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={NAME}", "results=r", *overrides])
    job = experiment_of(config, NAME, overrides)
    assert job.folder == folder
    if not any("/none" in override for override in overrides):
        assert job.load_dataset().name == dataset


@pytest.mark.parametrize("name", ["a/b", "..", ".", "''"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(CommandError, match="a folder"):
        folder_of("r", NAME, ["dataset=folder", f"dataset.name={name}"], 0)


def test_an_experiment_of_conf_lies_in_the_folder_of_its_data_set() -> None:
    last = {name.split("/")[0]: name for name in experiments()}
    for dataset, name in last.items():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
        assert config.hydra.runtime.choices.dataset == dataset
