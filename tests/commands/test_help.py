"""The help of every command says what conf/ holds, and its examples are commands that work."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipbench.commands.help import COMMANDS, choices_of, command_help, groups_of, options_of
from lipbench.commands.main import main
from lipbench.commands.options import check_overrides
from lipbench.commands.suites import CONF, expand_suites

CONFIGURED = [name for name, command in COMMANDS.items() if command.config]


def composed(config: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(config))


@pytest.mark.parametrize("name", CONFIGURED)
def test_every_option_is_shown_with_its_default_and_a_meaning(name, capsys):
    config = COMMANDS[name].config
    groups, held = dict(groups_of(config)), composed(config)
    shown = {option.name: option for option in options_of(config)}
    assert shown.keys() == held.keys() - groups.keys() | ({"model"} if name == "evaluate" else set())
    for key, option in shown.items():
        value = held[key]["source"] if key == "model" else held[key]
        assert OmegaConf.to_container(OmegaConf.create(f"v: {option.default}"))["v"] == value
        assert len(option.meaning.split()) > 2, f"{key} is explained"
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for key, option in shown.items():
        assert f"  {key}={option.default}" in text
    for group in groups:
        assert all(choice in text for choice in choices_of(group) if group != "experiment")
    assert "Hydra" not in text.partition("Hydra's own help")[0]
    assert max(map(len, text.splitlines())) <= 100


def test_the_options_of_the_training_are_those_of_conf():
    held = OmegaConf.to_container(OmegaConf.load(CONF / "training/default.yaml"))
    names = {option.name.partition(".")[0] for option in options_of("training/default")}
    assert names == {key for key in held if not key.startswith("_")}
    assert "training.epochs=10" in command_help("run")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_are_accepted(name):
    command = COMMANDS[name]
    assert 1 <= len(command.examples) <= 3
    for example in command.examples:
        first, *arguments = shlex.split(example)
        assert first == name
        assert f"lipbench {example}" in command_help(name)
        if command.config:
            words = [f"model.source={a[6:]}" if a.startswith("model=") else a for a in arguments]
            check_overrides(expand_suites(words), command.config)


def test_the_help_of_all_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert main([]) != 0


def test_hydra_shows_its_own_help_where_it_is_asked(capsys):
    assert main(["report", "--hydra-help"]) == 0
    assert "Configuration groups" in capsys.readouterr().out
    assert main(["run", "--cfg", "job", "loss=kr"]) == 0
    assert "_target_: lipbench.losses.kr" in capsys.readouterr().out
