"""Wrong words are answered with what was meant, and nothing is made."""

import pytest
import torch

import lipbench
from lipbench.commands.help import COMMANDS
from lipbench.commands.main import main
from lipbench.commands.suites import CONF, experiments
from lipbench.configuration import ALIASES, unknown

MISTAKES = {
    "attack=cw": ["Did you mean carlini_wagner?"],
    "attack=[fgsm,pgd]": ["Did you mean l2_pgd?"],
    "certificate=crown": ["Did you mean certificate_crown?"],
    "epochs=3": ["Did you mean training.epochs?"],
    "digits08/hkr_mlp": ["experiment=digits08/hkr_mlp"],
    "digits08": ["suite=digits08"],
    "experiment=hkr_mpl": ["/hkr_mlp?"],
    "experiment=digits08/ce_mlp loss.margin=2": ["digits08/ce_mlp", "cross_entropy", "temperature", "hkr"],
    "experiment=digits08/hkr_mlp,digits08/ce_mlp loss.margin=2 -m": ["digits08/ce_mlp", "no margin"],
    "experiment=digits08/hkr_mlp loss=kr": ["loss.margin=1.0", "digits08/hkr_mlp sets it", "~loss.margin"],
    "experiment=digits08/hkr_mlp loss=kr loss.margin=2": ["loss.margin=2", "kr has no margin"],
    "--seed=3": ["seed=3"],
    "training.epoch=3": ["Did you mean epochs?"],
    "optimiser=adam": ["Did you mean optimizer?"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_with_what_was_meant(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *line.split()]) == 1
    said = capsys.readouterr()
    for words in MISTAKES[line]:
        assert words in said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    assert len(said.err) < 1000, "not all names that there are"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("evaluate", "net.py:build", "model=net.py:build"),
        ("reproduce", "results/x", "run=results/x"),
        ("import", "results/x", "run=results/x"),
        ("report", "results/x", "results=results/x"),
    ],
)
def test_a_word_alone_is_answered_with_its_option(command, word, meant, capsys):
    assert main([command, word]) == COMMANDS[command].failed
    assert f"Did you mean {meant}?" in capsys.readouterr().err


def test_the_version_is_said(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lipbench {lipbench.__version__}\n"


@pytest.mark.parametrize(("name", "meant"), [("deepfol", "deepfool"), ("pgd", "l2_pgd")])
def test_python_answers_an_unknown_attack_as_the_command_does(name, meant):
    with pytest.raises(ValueError, match=f"Unknown attack '{name}'. Did you mean {meant}"):
        lipbench.evaluate(torch.nn.Flatten(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), attacks=[name])


def test_an_unknown_command_is_answered(capsys):
    assert main(["evalute"]) == 1
    assert "Did you mean evaluate?" in capsys.readouterr().err


def test_every_alias_means_something_that_exists():
    known = {
        path.stem for group in ("attack", "certificate", "loss", "constraint") for path in (CONF / group).iterdir()
    }
    assert set(ALIASES.values()) <= known
    assert not set(ALIASES) & known, "a name that exists is no alias"


def test_of_many_names_the_closest_few_are_said():
    names = experiments()
    answer = unknown("experiment", "digits08/hkr_mlpp", names)
    assert sum(name in answer for name in names) < 10 < len(names)
    assert "digits08/hkr_mlp," in answer
    none = unknown("option of attack.lipbench", "steps", [])
    assert none == "Unknown option of attack.lipbench 'steps'. There are none."
