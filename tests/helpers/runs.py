"""Training processes: how they are started, and what may happen to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from killed_runs import kill_tree

from trainer.checkpoint.folder import find_checkpoint, read_manifest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 150.0
EPOCHS, STEPS_PER_EPOCH = 20, 11


def training_command(path: Path, ranks: int, *overrides: str, ray: bool = False) -> list[str]:
    """Return the command that trains an experiment; several ranks are started by torchrun, or by Ray."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    script = [str(ROOT / "trainer/offline_trainer.py"), "--train_config", str(path)]
    on_ray = ["-m", "trainer.cli", "train", str(path), "--backend", "ray", "--num-workers", str(ranks)]
    command = [sys.executable, *(on_ray if ray else [*(launcher if ranks > 1 else []), *script])]
    return command + [word for one in overrides for word in ("--set", one)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


def launch(path: Path, folder: Path, ranks: int, *overrides: str, ray: bool = False) -> str:
    """Train in so many ranks and return what was said."""
    command = training_command(path, ranks, f"train.save_dir={folder}", *overrides, ray=ray)
    env = {**environment(), "NOTE": str(ranks)}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            _, said = process.communicate(timeout=300)
        except BaseException:
            kill_tree(process.pid)  # of a cluster, the command alone would leave the rest behind
            raise
    assert process.returncode == 0, said
    return said


def wait_for_steps(run: Path, process: subprocess.Popen[str], steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        path = run / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= steps:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not come to step {steps}: {process.communicate()[1]}")


def long_run(config: dict[str, Any]) -> None:
    """Make the tiny experiment train for a while and save all the time."""
    config["train"].update(epoch=EPOCHS, save_every=2, log_every_n_steps=2)
    config["train"]["checkpoint"] = {"save_every_n_steps": 4, "keep": 2}


class Run:
    """One command, given again and again.

    Args:
        path: the experiment YAML.
        ranks: number of ranks; several are started by torchrun.
        folder: the run folder; that of the YAML if not given.

    Attributes:
        folder: the run folder.
        process: the last one started.
    """

    def __init__(self, path: Path, ranks: int = 1, folder: Path | None = None) -> None:
        self.path, self.ranks = path, ranks
        self.folder = folder or Path(yaml.safe_load(path.read_text())["train"]["save_dir"])
        self.process: subprocess.Popen[str] | None = None

    def start(self, *overrides: str) -> None:
        command = training_command(self.path, self.ranks, f"train.save_dir={self.folder}", *overrides)
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def when(self, ready: Callable[[], bool]) -> None:
        """Wait for a moment of the training."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"that moment did not come: {self.process.communicate()[1]}")
            time.sleep(0.001)

    def start_and_save(self, *overrides: str) -> str:
        """Start, and return the name of the checkpoint that is there when some updates are made."""
        self.start(*overrides)
        self.when(lambda: self.updates() >= 15 and (self.folder / "latest").exists())
        return find_checkpoint(self.folder).name

    def updates(self) -> int:
        """Return how many updates are written down."""
        try:
            return (self.folder / "metrics.jsonl").read_text().count("\n")
        except (FileNotFoundError, IsADirectoryError):
            return 0

    def end(self) -> tuple[int, str]:
        """Return exit code and what was said, without the progress bar."""
        assert self.process is not None
        said = self.process.communicate(timeout=PATIENCE_SECONDS)[1]
        kept = [line for line in said.splitlines() if line.strip() and "step/s" not in line]
        print(f"exit code {self.process.returncode}:", *kept, sep="\n  ")
        return self.process.returncode, "\n".join(kept)

    def fails(self, *, code: int | None = 2) -> str:
        """Wait for the end and return the one sentence that the user gets."""
        found, said = self.end()
        assert found == code if code is not None else found != 0
        sentences = [line for line in said.splitlines() if line.startswith("Error: ")]
        assert len(sentences) == 1, said
        own = said.partition("torch/distributed/")[0] if self.ranks > 1 else said
        assert "Traceback" not in own, said
        return sentences[0].removeprefix("Error: ")

    def goes_on(self, *overrides: str, updates: int = EPOCHS * STEPS_PER_EPOCH) -> None:
        """Give the command again; it must come to the end, with every update written down once."""
        self.start(*overrides)
        code, said = self.end()
        assert code == 0, said
        assert "Taking up" in said
        self.is_whole()
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(updates))

    def is_whole(self) -> Path:
        """Return the checkpoint to go on from, which is whole, as are all others."""
        for folder in self.checkpoints():
            read_manifest(folder)
        latest = find_checkpoint(self.folder)
        read_manifest(latest)
        return latest

    def checkpoints(self) -> Iterator[Path]:
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name.startswith(("epoch_", "step_")) and "." not in folder.name:
                yield folder

    def children(self) -> list[int]:
        """Return the processes that the last one has started."""
        assert self.process is not None
        task = Path(f"/proc/{self.process.pid}/task")
        return [int(pid) for one in task.iterdir() for pid in (one / "children").read_text().split()]
