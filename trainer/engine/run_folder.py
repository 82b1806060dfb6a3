"""The small files of a run folder: what was asked for, what it ran on, what it saw first."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_constructor import dump_yaml, resolve_config
from torch import Tensor

from trainer.utils.errors import TrainingFault
from trainer.utils.files import whole_file, write_json
from trainer.utils.versions import library_versions

RUN_FACTS = "run.json"
FIRST_BATCH = "first_batch.npz"
FIRST_BATCH_SAMPLES = 8
# The environment variable that names a job on Ray, where each start of the ranks is a new process.
RAY_LAUNCH = "TRAINER_RAY_LAUNCH"


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML in the order of the value's keys, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(dump_yaml(value), encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what this machine is made of."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return revision and cleanliness of the checkout around `folder`, or None outside of one."""
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def now() -> str:
    """Return the present time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def read_run_facts(run: Path) -> dict[str, Any]:
    """Return run.json, or nothing where there is none.

    Raises:
        TrainingFault: it is damaged.
    """
    path = run / RUN_FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise TrainingFault(f"{path} is damaged; move it away to go on without what it says of the run")
    return facts


def write_run_facts(run: Path, facts: Mapping[str, Any]) -> None:
    """Write or extend run.json; what is there already and not given again stays."""
    write_json(run / RUN_FACTS, {**read_run_facts(run), **facts})


def command_line() -> list[str]:
    """Return the command that started this process, as a user would type it from the current folder."""
    program = Path(sys.argv[0])
    if program.suffix != ".py":
        return [program.name, *sys.argv[1:]]
    return ["python", os.path.relpath(program), *sys.argv[1:]]


def launch() -> str | None:
    """Return what the starts of the ranks by one torchrun or on one Ray job share; None outside of these."""
    return os.environ.get(RAY_LAUNCH) or os.environ.get("TORCHELASTIC_RUN_ID")


def restarted_launch() -> str | None:
    """Return the launch where it may have started its ranks before; the same on all ranks.

    Torchrun counts its starts. Not every one of them has a name of its own, so the first is never a restart.
    """
    again = RAY_LAUNCH in os.environ or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return launch() if again else None


def environment_facts() -> dict[str, Any]:
    """Return command, versions, machine and revision of this process."""
    return {
        "command": command_line(),
        "launch": launch(),
        "started": now(),
        "finished": None,
        "versions": library_versions(),
        "machine": machine(),
        "git": git_state(Path(__file__).parent),
    }


def _to_numpy(value: Tensor) -> np.ndarray:
    """Return an array of the tensor's own type; numpy has no bfloat16."""
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def write_first_batch(run: Path, batch: Mapping[str, Any]) -> None:
    """Keep the first samples of the first batch, as the network sees them."""
    arrays = {
        key: _to_numpy(value[:FIRST_BATCH_SAMPLES])
        for key, value in batch.items()
        if isinstance(value, Tensor) and value.ndim > 0
    }
    with whole_file(run / FIRST_BATCH) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def flat_model(path: Path) -> dict[str, Any]:
    """Return a model YAML that needs no other file."""
    flat: dict[str, Any] = resolve_config(path).data
    return flat
