"""Options of a wrong kind are refused by name, before anything is made."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipbench.commands import status
from lipbench.commands.kinds import OptionError, checked
from lipbench.commands.main import main
from lipbench.commands.mistakes import CommandError
from lipbench.commands.options import check_overrides, configured, quoted
from lipbench.commands.suites import CONF
from lipbench.files import ResultsError

PEERS = ("adv_lib", "foolbox", "torchattacks")
COMMANDS = ("config", "evaluate", "export", "import", "report", "reproduce")
GROUPS = (
    *("dataset", "model", "constraint", "loss", "optimizer", "training"),
    *("attack", "certificate", "measure"),
)


def composed(config: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(config))


def leaves(node: Mapping[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, *path, key)
        elif not key.startswith("_"):
            yield (*path, key), value


def changed(options: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    options = copy.deepcopy(options)
    node = options
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return options


def everything() -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Every option of conf/ once: of the commands, of each choice of each group, of each method. The attacks of other
    libraries have options of their own, which these check.
    """
    for command in COMMANDS:
        options = composed(command)
        yield from ((command, options, path) for path, _ in leaves(options))
    for group in GROUPS:
        files = sorted(file for file in (CONF / group).glob("*.yaml") if not file.stem.startswith(PEERS))
        for file in files:
            options = composed(f"{group}/{file.stem}")
            yield from ((file.stem, options, path) for path, _ in leaves(options))


def test_every_option_of_conf_refuses_a_value_of_a_wrong_kind() -> None:
    seen = 0
    for file, options, path in everything():
        assert checked(options) == options, "the defaults are right"
        value = options
        for key in path:
            value = value[key]
        name = ".".join(path)
        wrongs: list[Any] = [{"a": 1}]
        if isinstance(value, bool | int | float):
            wrongs += ["abc", [[1]]]
        elif isinstance(value, str):
            wrongs += [["abc"]]
        for wrong in wrongs:
            with pytest.raises(OptionError) as refused:
                checked(changed(options, path, wrong))
            assert str(refused.value).startswith(f"{name}="), (file, name, wrong)
            assert " is " in str(refused.value), "what is expected"
            seen += 1
    assert seen > 600


@pytest.mark.parametrize("key", ["images", "batch_size", "threads", "training.epochs", "training.batch_size"])
def test_a_whole_number_may_be_written_as_a_float(key: str) -> None:
    path = tuple(key.split("."))
    options = changed(composed("config"), path, 1e3)
    found: Any = checked(options)
    for part in path:
        found = found[part]
    assert (found, type(found)) == (1000, int)
    for wrong in (2.5, 0, -1, float("nan"), float("inf"), True, "1000 images"):
        with pytest.raises(OptionError, match=f"{key}={wrong}: {key} is a whole number"):
            checked(changed(options, path, wrong))


@pytest.mark.parametrize(("value", "radii"), [([], []), (0.5, [0.5]), ("36/255", [36 / 255]), ([1, "0.5"], [1, 0.5])])
def test_one_radius_or_several_are_taken(value: Any, radii: list[float]) -> None:
    assert checked(changed(composed("config"), ("epsilons",), value))["epsilons"] == radii


def test_one_name_is_taken_for_a_list_of_one() -> None:
    assert configured(["run=r", "trust=mine"], "export", ()).trust == ["mine"]
    assert configured(["datasets=digits08"], "report", ()).datasets == "digits08"
    with pytest.raises(OptionError, match=r"model\.widths=8: model\.widths is a list.*such as \[8\]"):
        checked(changed(composed("config"), ("model", "widths"), 8))


@pytest.mark.parametrize("value", [[0.5, -1], -1, "far", ["a"], [True], True])
def test_epsilons_are_radii(value: Any) -> None:
    options = composed("config")
    with pytest.raises((OptionError, ResultsError), match=r"epsilons(:| is a list, each a number, 0 or more)"):
        checked(changed(options, ("epsilons",), value))


def test_the_message_of_a_wrong_radius_shows_what_was_given() -> None:
    with pytest.raises(OptionError, match=r"^epsilons=-1: epsilons is a list, each a number, 0 or more\.$"):
        checked(changed(composed("config"), ("epsilons",), -1))


@pytest.mark.parametrize(
    ("loss", "options"),
    [("cross_entropy", {"temperature": 0.0}), ("hkr", {"alpha": 1.5}), ("soft_hkr", {"alpha": 1.5})],
)
def test_a_loss_refuses_an_option_before_the_training(loss: str, options: dict[str, float]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(OptionError, match=rf"^loss\.{name}={value}: .*got {value}"):
        checked({"loss": {"_target_": f"lipbench.losses.{loss}", **options}})
    checked({"loss": {"_target_": "lipbench.losses.soft_hkr", "temperature": 0.0}})


def test_an_option_that_a_function_does_not_have_is_answered_with_those_it_has() -> None:
    with pytest.raises(OptionError, match=r"training\.epoch=3: lipbench\.training\.fit has no epoch\. It has .*epochs"):
        checked(changed(composed("config"), ("training", "epoch"), 3))


WRONG = [
    *("images=2.5", "images=0", "images=many", "seed=abc", "seed=-1", "seed=1.5", "batch_size=0", "threads=two"),
    *("epsilons=far", "epsilons=[-1]", "force=maybe", "progress=2", "tensorboard=[]", "device=[cpu]", "device=gpu"),
    *("training.epochs=0", "training.batch_size=x", "training.minutes=soon", "training.balanced=1", "loss.margin=wide"),
    *("loss.margin=-1", "loss.alpha=-0.1"),
    *("model.widths=8", "model.widths=[8.5]", "optimizer.lr=fast", "attack.fgm.sizes=few", "dataset.keep=[a]"),
    *("constraint.factor=[]", "dataset.keep=0", "training.precision=float16", "training.augment=flip"),
    *(
        "attack=null",
        "model=null",
        "measure=3",
        "results=",
        f"training.epochs={'9' * 400}",
        "optimizer.lr=1" + 400 * "0",
    ),
]


@pytest.mark.parametrize("option", WRONG)
def test_a_run_with_a_wrong_option_makes_nothing(option: str, tmp_path, capsys) -> None:
    folder = tmp_path / "results"
    command = ["run", "experiment=digits08/hkr_mlp", f"results={folder}", "training.epochs=1", option]
    assert main(command) == 1
    words = capsys.readouterr().err
    key = option.partition("=")[0]
    assert key in words
    assert "Traceback" not in words
    assert not list(tmp_path.iterdir())


def test_a_run_without_its_data_makes_nothing(tmp_path, capsys) -> None:
    assert main(["run", "experiment=mnist08/hkr_mlp", f"results={tmp_path}/r", f"data_root={tmp_path}/none"]) == 1
    assert "make data DATA=mnist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_value_of_a_sweep_is_checked_before_the_first_run() -> None:
    check_overrides(["--multirun", "images=5,1e1", "loss.margin=1,2"], "config")
    for sweep in ("images=5,7.5", "seed=0,x", "loss.margin=1,wide"):
        with pytest.raises(CommandError, match=sweep.split(",")[-1]):
            check_overrides(["--multirun", sweep], "config")


@pytest.mark.parametrize(
    ("value", "sweeps", "kept"),
    [
        ("/x/20\u00fc", True, "'/x/20\u00fc'"),
        ("a=b (c)", True, "'a=b (c)'"),
        ("2024_01", True, "'2024_01'"),
        ("1e3", True, "'1e3'"),
        ("a,b", True, "a,b"),
        ("a,b", False, "'a,b'"),
        ("it's", False, "'it\\'s'"),
        ("'a b'", True, "'a b'"),
        ("null", True, "null"),
    ],
)
def test_paths_and_names_reach_hydra_as_they_are_written(value: str, sweeps: bool, kept: str) -> None:
    assert quoted(f"results={value}", ["results"], sweeps) == f"results={kept}"
    assert quoted(f"loss={value}", ["results"], sweeps) == f"loss={value}"


def test_a_tilde_is_the_home_folder(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert quoted("results=~/runs", ["results"]) == "results='/home/me/runs'"


@pytest.mark.parametrize("option", ["attack=null", "attack=[fgm],null", "results=", f"training.epochs={'9' * 400}"])
def test_status_answers_a_wrong_option(option: str) -> None:
    with pytest.raises(CommandError, match=option.partition("=")[0]):
        status.states(["experiment=digits08/hkr_mlp", option])


def test_an_empty_results_folder_is_not_the_working_directory() -> None:
    with pytest.raises(CommandError, match="results"):
        status.states(["results="])
