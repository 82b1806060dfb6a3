"""What `trainer check` prints, and when it proves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trainer.cli import main
from trainer.commands import check as command

Write = Callable[..., Path]


def checked(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["check", str(path), *options])


def test_the_parts_the_batch_and_the_memory_are_told_without_a_proof(tiny_experiment: Write) -> None:
    result = checked(tiny_experiment(), "--no-prove")
    assert result.exit_code == 0, result.output
    assert "Not proved: switched off by --no-prove." in result.output
    lines = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in result.output.splitlines()}
    # 10 · 16 + 16 weights of the encoder
    encoder = ["models/observation_encoder.yaml", "adamw_warmup_cosine_decay", "176", "all", "704B"]
    assert lines["observation_encoder"].split() == encoder
    header = lines["component"].split("  ")
    assert [one.strip() for one in header if one] == [
        "config file",
        "optimizer",
        "parameters",
        "trained",
        "size",
    ]
    assert lines["average"] == "decay 0.9: over about 10 updates"
    assert lines["checkpoints"] == "every epoch of 2, at the end; all stay"
    assert re.fullmatch(r"2 checkpoints of about \d+ kB, \d+ kB in all; .*B are free", lines["disk"])
    assert lines["observation.state"].split()[:4] == ["(16,", "2,", "5)", "float32"]
    assert lines["memory of a rank"].startswith("about ")
    assert "activations" in lines["memory of a rank"]
    assert lines["time of an epoch"].startswith("at least ")


def test_a_small_model_is_proved_without_being_asked_for(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    result = checked(path, "--ranks", "2")
    assert result.exit_code == 0, result.output
    assert re.search(r"Proved by \d updates of 8 samples on the CPU in .* take a CPU seconds", result.output)
    assert "0 fail\n" in result.output
    assert "2 ranks, 0 workers each" in result.output
    assert "first (1) 0, peak (2) 0.001, middle (6) " in result.output
    assert not (path.parent / "run").exists()


def test_a_large_model_is_not_proved_without_being_asked_for(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PROVED_UNASKED", 100)
    result = checked(tiny_experiment())
    assert result.exit_code == 0, result.output
    assert "parameters take a CPU long; --prove does it all the same." in result.output
    assert "Proved by" in checked(tiny_experiment(), "--prove").output


def test_a_claim_that_fails_is_a_mistake_with_its_place(tiny_experiment: Write) -> None:
    def change(config: dict[str, Any]) -> None:
        config["train"]["ema"]["decay"] = 1e-9

    path = tiny_experiment(change)
    result = checked(path)
    assert result.exit_code == 2
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "decay: 1.0e-09" in text)
    assert f"experiment.yaml:{line}:" in result.output
    assert "train.ema.decay: a decay of 1e-09 makes the average the weights themselves" in result.output
    assert "1 fail\n" in result.output


def test_a_program_reads_it_as_json(tiny_experiment: Write) -> None:
    result = checked(tiny_experiment(), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["settings"]["global batch"] == "16 samples an update"
    assert {part["name"]: part["trained"] for part in found["components"]}["observation_encoder"] == 176
    assert found["proved"] is True
    assert {claim["verdict"] for claim in found["claims"]} == {"holds", "does not apply"}
    assert found["memory_bytes"]["weights"] == found["memory_bytes"]["gradients"]
