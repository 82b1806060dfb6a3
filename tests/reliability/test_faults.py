"""What a user sees when something breaks a run, and that the run goes on when it is mended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import EPOCHS, STEPS_PER_EPOCH, Run, long_run

from trainer.offline_trainer import train
from trainer.utils.errors import TrainingFault

Write = Callable[..., Path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def on(disk: Path) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        long_run(config)
        config["train"]["save_dir"] = str(disk / "run")

    return change


def test_a_disk_that_fills_up(tiny_experiment: Write, small_disk: Path) -> None:
    run = Run(tiny_experiment(on(small_disk)))
    run.start_and_save()
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
    said = run.fails()
    assert "disk is full" in said or "No space left on device" in said
    run.is_whole()
    filler.unlink()
    run.goes_on()


@pytest.mark.slow
def test_a_folder_that_becomes_read_only(tiny_experiment: Write) -> None:
    run = Run(tiny_experiment(long_run))
    run.start_and_save()
    # Permissions do not bind root, attributes do.
    if subprocess.run(["chattr", "+i", str(run.folder)], capture_output=True, check=False).returncode:
        assert run.process is not None
        run.process.kill()
        pytest.skip("making a folder immutable needs root and a file system with attributes")
    try:
        said = run.fails()
        assert re.search(
            r"checkpoint \w+ could not be written to .*/run: .* is not writable; \w+ is intact", said
        )
        run.start()
        code, refused = run.end()
        assert code == 2
        assert "train.save_dir: " in refused
        assert "Traceback" not in refused
        run.is_whole()
    finally:
        subprocess.run(["chattr", "-i", str(run.folder)], check=True)
    run.goes_on()


@pytest.mark.slow
def test_a_run_folder_that_is_taken_away(tiny_experiment: Write, tmp_path: Path) -> None:
    run = Run(tiny_experiment(long_run))
    run.start_and_save()
    run.folder.rename(tmp_path / "elsewhere")
    said = run.fails()
    assert str(run.folder) in said
    assert not run.folder.exists()
    (tmp_path / "elsewhere").rename(run.folder)
    run.is_whole()
    run.goes_on()


@pytest.mark.slow
def test_a_file_of_metrics_that_cannot_be_written(tiny_experiment: Write, tmp_path: Path) -> None:
    run = Run(tiny_experiment(long_run))
    run.start_and_save()
    (run.folder / "metrics.jsonl").rename(tmp_path / "metrics.jsonl")
    (run.folder / "metrics.jsonl").mkdir()
    said = run.fails()
    assert "metrics.jsonl cannot be written: Is a directory" in said
    run.is_whole()
    (run.folder / "metrics.jsonl").rmdir()
    (tmp_path / "metrics.jsonl").rename(run.folder / "metrics.jsonl")
    run.goes_on()


@pytest.mark.parametrize(
    "kind", ["flipped", *(pytest.param(k, marks=pytest.mark.slow) for k in ("short", "gone", "no manifest"))]
)
def test_a_damaged_checkpoint_is_not_taken_up(tiny_experiment: Write, kind: str) -> None:
    run = Run(tiny_experiment(lambda c: c["train"].update(epoch=3)))
    run.start()
    assert run.end()[0] == 0
    latest = run.folder / "epoch_3"
    file = latest / "velocity_decoder_opt.pt"
    content = file.read_bytes()
    if kind == "short":
        os.truncate(file, len(content) // 2)
    elif kind == "flipped":
        file.write_bytes(content[:900] + bytes([content[900] ^ 1]) + content[901:])
    elif kind == "gone":
        file.unlink()
    else:
        (latest / "manifest.json").unlink()
    run.start("train.epoch=4")
    said = run.fails()
    assert "epoch_3" in said
    choice = f"train.checkpoint.resume_from={run.folder / 'epoch_2'}"
    assert said.endswith(f"--set {choice}")
    run.goes_on("train.epoch=4", choice, updates=44)


@pytest.mark.slow
def test_a_loader_worker_that_is_killed(tiny_experiment: Write) -> None:
    run = Run(tiny_experiment(long_run))
    run.start_and_save("data.num_workers=1", "data.persistent_workers=true")
    workers = run.children()
    os.kill(workers[-1], signal.SIGKILL)
    said = run.fails()
    assert f"a loader worker (process {workers[-1]}) ended at step" in said
    run.is_whole()
    run.goes_on()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed(tiny_experiment: Write, rank: int) -> None:
    run = Run(tiny_experiment(long_run), ranks=2)
    run.start_and_save()
    os.kill(sorted(run.children())[rank], signal.SIGKILL)
    said = run.fails(code=None)
    assert f"ank {rank} (" in said
    run.is_whole()
    run.goes_on(updates=EPOCHS * (STEPS_PER_EPOCH // 2))


@pytest.mark.slow
def test_a_signal_while_a_checkpoint_is_written(tiny_experiment: Write) -> None:
    run = Run(tiny_experiment(long_run))
    run.start_and_save()
    run.when(lambda: any(run.folder.glob("*.incomplete/*")))
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    code, said = run.end()
    assert code == 128 + signal.SIGTERM
    assert said.splitlines()[-1] == "Saved and stopped by SIGTERM; the same command goes on from there."
    made = run.updates()
    assert run.is_whole().name in (f"step_{made}", f"epoch_{made // 11}")
    run.goes_on()


TRAINER = """
import resource, time
from pathlib import Path
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY

@TRAINER_REGISTRY.register("faulty_trainer")
class FaultyTrainer(PolicyTrainer):
    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        step = context.step
        {body}
        return super().train_step(data, context)
"""


def with_fault(tiny_experiment: Write, folder: Path, body: str, **train: Any) -> Run:
    """Return a run whose trainer does something before each step, until there is a file `mended`."""
    lines = [f"if not Path({str(folder / 'mended')!r}).exists():", *(f"    {x}" for x in body.splitlines())]
    (folder / "faulty.py").write_text(TRAINER.format(body="\n        ".join(lines)))

    def change(config: dict[str, Any]) -> None:
        long_run(config)
        config["plugins"].append("faulty")
        config["train"]["trainer"]["type"] = "faulty_trainer"
        config["train"].update(train)

    return Run(tiny_experiment(change))


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_harms_nothing(tiny_experiment: Write, tmp_path: Path) -> None:
    started = tmp_path / "started"
    body = f"if step == 30:\n    Path({str(started)!r}).touch()\n    time.sleep(60)"
    run = with_fault(tiny_experiment, tmp_path, body)
    run.start()
    run.when(started.exists)
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    run.process.send_signal(signal.SIGINT)
    code, said = run.end()
    assert code == 128 + signal.SIGINT
    assert said.splitlines()[-1] == "Stopped at once; what was saved before is whole."
    run.is_whole()
    (tmp_path / "mended").touch()
    run.goes_on()


OUT_OF_MEMORY = """
if step == 30:
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**26, -1))
    data["observation.state"] = data["observation.state"].repeat(10**6, 1, 1)
""".strip()


def test_memory_that_runs_out(tiny_experiment: Write, tmp_path: Path) -> None:
    run = with_fault(tiny_experiment, tmp_path, OUT_OF_MEMORY)
    run.start()
    said = run.fails()
    assert said.startswith("out of memory at step 30 when 640.0 MB more were asked for. The batch: ")
    assert "observation.state (16, 2, 5) float32" in said
    run.is_whole()
    (tmp_path / "mended").touch()
    run.goes_on()


BROKEN_BATCH = "if step == 30:\n    data['action'][3, 0, 0] = float('nan')"


def test_a_loss_that_is_no_number(tiny_experiment: Write, tmp_path: Path) -> None:
    run = with_fault(tiny_experiment, tmp_path, BROKEN_BATCH)
    run.start()
    said = run.fails()
    assert said.startswith("the loss is nan at step 30")
    assert run.is_whole().name in ("step_28", "step_24")
    (tmp_path / "mended").touch()
    run.goes_on()


@pytest.mark.slow
def test_updates_that_are_no_numbers_are_left_out(tiny_experiment: Write, tmp_path: Path) -> None:
    run = with_fault(tiny_experiment, tmp_path, BROKEN_BATCH, non_finite="skip")
    run.start()
    assert run.end()[0] == 0
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["skipped"]] == [30]
    assert lines[-1]["total"] < lines[0]["total"]


def with_nan(source: Path, root: Path) -> Path:
    """Write the dataset again with one number that is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(source, root)
    (path,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    states = np.stack(table["observation.state"].to_numpy())
    states[40, 2] = np.nan
    column = pa.array(list(states), type=table.schema.field("observation.state").type)
    index = table.schema.get_field_index("observation.state")
    pq.write_table(table.set_column(index, table.schema.field(index), column), path)
    return root


def test_numbers_that_are_none_in_the_data(
    tiny_experiment: Write, tiny_dataset: Path, tmp_path: Path
) -> None:
    root = with_nan(tiny_dataset, tmp_path / "nan")
    run = Run(tiny_experiment())
    run.start(f"data.datamodule.params.root={root}")
    code, said = run.end()
    assert code == 2
    assert "'observation.state' has NaN in frame 10 of episode 1" in said
    assert "Traceback" not in said
    assert not run.folder.exists()


def test_a_second_process_for_one_run_is_refused(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"while step == 20 and not Path({str(tmp_path / 'mended')!r}).exists():\n    time.sleep(0.01)"
    run = with_fault(tiny_experiment, tmp_path, body)
    run.start()
    run.when(lambda: run.updates() >= 18)
    assert run.process is not None
    monkeypatch.setattr("trainer.checkpoint.lock.PATIENCE_SECONDS", 0.2)
    said = re.escape(f"process {run.process.pid} is training into {run.folder}")
    with pytest.raises(TrainingFault, match=said):
        train(run.path)
    (tmp_path / "mended").touch()
    assert run.end()[0] == 0
    run.is_whole()


@pytest.mark.slow
def test_a_run_waits_for_a_process_that_is_about_to_end(tiny_experiment: Write, tmp_path: Path) -> None:
    body = f"while step == 20 and not Path({str(tmp_path / 'mended')!r}).exists():\n    time.sleep(0.01)"
    first = with_fault(tiny_experiment, tmp_path, body)
    first.start()
    first.when(lambda: first.updates() >= 18)
    second = Run(first.path)
    second.start()
    assert first.process is not None
    assert second.process is not None
    assert second.process.stderr is not None
    line = next(line for line in second.process.stderr if "Process" in line)
    assert line.startswith(f"Process {first.process.pid} still writes to {first.folder}; waiting")
    first.process.kill()
    (tmp_path / "mended").touch()
    assert second.end()[0] == 0
    second.is_whole()
