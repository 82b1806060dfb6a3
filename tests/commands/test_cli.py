"""The console command itself: its help, its names, what it imports."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from trainer.cli import COMMANDS, main


def commands() -> list[tuple[str, click.Command]]:
    """Return every command that can be typed, with its name."""
    found = []
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        below = getattr(command, "commands", {})
        found += [(f"{name} {inner}", one) for inner, one in below.items()] or [(name, command)]
    return found


def test_help_imports_neither_torch_nor_any_command() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom trainer.cli import main\n"
        "result = CliRunner().invoke(main, ['--help'])\nassert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'trainer.commands.train'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_command_and_what_exit_codes_mean() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(f"  {name} " in output for name in COMMANDS)
    assert "Exit codes: 0 done" in output


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda one: one if isinstance(one, str) else "")
def test_the_help_of_a_command_fits_a_screen_and_has_an_example(name: str, command: click.Command) -> None:
    output = CliRunner().invoke(main, [*name.split(), "--help"]).output
    assert f"  trainer {name}" in output
    assert len(output.splitlines()) <= 55


def test_a_misspelt_command_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(main, ["trian"])
    assert result.exit_code == 2
    assert "there is no command 'trian'; did you mean 'train'?" in result.output


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("train x.yaml --epochs 3", "there is no option --epochs; did you mean --set train.epoch=VALUE?"),
        ("train x.yaml --batch-size 3", "did you mean --set data.batch_size=VALUE?"),
        ("train x.yaml --device cpu", "did you mean --set device=VALUE?"),
        ("train x.yaml --quux 3", "values of the YAML are overridden by --set PATH=VALUE"),
        (
            "train x.yaml --resume",
            "`trainer train X.yaml` goes on with the run in its train.save_dir",
        ),
        ("train x.yaml --set train.epoch = 3", "write --set PATH=VALUE without spaces"),
        ("resume runs/x", "there is no command 'resume'; `trainer train X.yaml` goes on"),
        ("evaluate runs/x", "--env is missing; simulators are metaworld/TASK, pusht"),
        ("data info x", "there is no command 'info'; did you mean 'inspect'?"),
        ("model shw x", "there is no command 'shw'; did you mean 'show'?"),
        ("data inspect --show", "Option '--show' requires an argument"),
        ("data convert x --too y", "No such option '--too'"),
    ],
)
def test_what_users_know_from_elsewhere_is_answered_with_what_to_write(typed: str, answer: str) -> None:
    result = CliRunner().invoke(main, typed.split())
    assert result.exit_code == 2
    assert answer in result.output


def test_no_summary_in_the_help_of_a_group_is_cut_off() -> None:
    for group in ("data", "model"):
        listed = CliRunner().invoke(main, [group, "--help"]).output.partition("Commands:")[2]
        assert listed
        assert "..." not in listed


def test_a_shell_completes_names_without_importing_the_commands() -> None:
    code = (
        "import os, sys\nos.environ.update(_TRAINER_COMPLETE='bash_complete')\n"
        "os.environ.update(COMP_WORDS='trainer re', COMP_CWORD='1')\n"
        "from trainer.cli import main\n"
        "try:\n    main(prog_name='trainer')\nexcept SystemExit:\n    pass\n"
        "assert 'trainer.commands.record' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["plain,record", "plain,report"]
