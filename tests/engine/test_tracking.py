"""Metrics on disk and in the loggers: each step once, also after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.tracking import ALONE, identity
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config.loader import load_located
from trainer.engine.check import check
from trainer.engine.loggers import TensorBoardLogger, WandbLogger
from trainer.engine.loggers.wandb import logged_steps
from trainer.engine.tracking import VALIDATIONS, Tracker, combine, forget_from
from trainer.runtime import Runtime
from trainer.templates import Reduced, RunIdentity
from trainer.templates.reduced import plain
from trainer.utils.errors import TrainingFault


class Recorder:
    """A logger that remembers, and that may have steps of an earlier process."""

    def __init__(self, known: int = -1) -> None:
        self.known = known
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        self.finished = False

    def start(self, run: RunIdentity) -> int:
        return self.known

    def log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        self.rows += rows

    def finish(self) -> None:
        self.finished = True


def test_every_step_is_kept_and_written_once_a_window(tmp_path: Path) -> None:
    recorder = Recorder()
    tracker = Tracker(tmp_path, ALONE, every=3)
    tracker.start([recorder], identity(tmp_path))
    for step in range(4):
        lines = tracker.record(step, {"total": torch.tensor(step / 2), "lr": 0.1}, {"epoch": step / 10})
        assert len(lines) == (3 if step == 2 else 0)
        assert (tmp_path / "metrics.jsonl").exists() == (step >= 2)
    assert tracker.last == {"step": 2, "epoch": 0.2, "lr": 0.1, "total": 1.0}
    tracker.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["total"] for line in lines] == [0.0, 0.5, 1.0, 1.5]
    assert recorder.rows[3] == (3, {"epoch": pytest.approx(0.3), "lr": 0.1, "total": 1.5})
    assert recorder.finished


def test_a_logger_gets_what_it_lacks_and_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "total": {s}.0}}\n' for s in range(6)))
    behind, ahead = Recorder(known=2), Recorder(known=7)
    tracker = Tracker(tmp_path, ALONE, every=1)
    tracker.start([behind, ahead], identity(tmp_path, first_step=6))
    for step in range(6, 10):
        tracker.record(step, {"total": float(step)}, {})
    tracker.close()
    assert [step for step, _ in behind.rows] == [3, 4, 5, 6, 7, 8, 9]
    assert [step for step, _ in ahead.rows] == [8, 9]


def test_a_logger_that_lost_the_end_gets_its_scores_again(tmp_path: Path) -> None:
    """A process that is killed after an epoch may not have handed over what was measured at its end."""
    first = Tracker(tmp_path, ALONE, every=1)
    first.start([], identity(tmp_path))
    for step in range(4):
        first.record(step, {"total": float(step)}, {"epoch": (step + 1) / 2})
        if step % 2:
            first.note(
                VALIDATIONS, {"step": step + 1, "epoch": step // 2 + 1}, {"validation/total": step / 4}
            )
    recorder = Recorder(known=0)
    again = Tracker(tmp_path, ALONE, every=1)
    again.start([recorder], identity(tmp_path, first_step=3))
    again.close()
    assert recorder.rows == [
        (1, {"epoch": 1.0, "total": 1.0, "validation/total": 0.25}),
        (2, {"epoch": 1.5, "total": 2.0}),
        (3, {"epoch": 2.0, "total": 3.0, "validation/total": 0.75}),
    ]


def test_without_a_word_in_the_configuration_weights_and_biases_is_there(
    tiny_experiment: Callable[..., Path],
) -> None:
    for change, expected in ((None, [WandbLogger]), (lambda c: c["train"].update(loggers=[]), [])):
        checked = check(load_located(tiny_experiment(change)))
        assert [type(logger) for logger in checked.loggers] == expected


def test_what_is_measured_beside_training_goes_with_the_last_update(tmp_path: Path) -> None:
    recorder = Recorder()
    tracker = Tracker(tmp_path, ALONE, every=1)
    tracker.start([recorder], identity(tmp_path))
    tracker.record(0, {"total": 1.0}, {})
    tracker.note(VALIDATIONS, {"step": 1, "epoch": 1}, {"validation/total": 2.0})
    assert not recorder.rows, "what was measured after a step goes out together with its metrics"
    tracker.record(1, {"total": 0.5}, {})
    assert recorder.rows == [(0, {"total": 1.0, "validation/total": 2.0})]
    noted = json.loads((tmp_path / VALIDATIONS).read_text())
    assert noted == {"step": 1, "epoch": 1, "validation/total": 2.0}


def test_a_run_that_is_taken_up_forgets_what_came_later_and_lines_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step": 3, "tot')
    forget_from(path, 2)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'
    forget_from(tmp_path / "gone.jsonl", 2)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[" * 100_000, b'{"step": "two"}', b"[3]"])
def test_lines_that_are_damaged_are_left_out(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + damage + b'\n{"step": 1}\n')
    forget_from(path, 9)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'
    path.unlink()
    path.mkdir()
    with pytest.raises(TrainingFault, match=r"metrics\.jsonl cannot be read: Is a directory"):
        forget_from(path, 9)


def test_a_run_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "gone", ALONE, every=1)
    with pytest.raises(TrainingFault, match=r"gone/metrics\.jsonl cannot be written: No such file"):
        tracker.record(0, {"total": 1.0}, {})


def test_without_a_key_weights_and_biases_logs_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    logger = WandbLogger()
    assert logger.start(identity(tmp_path)) == -1
    logger.log([(0, {"total": 1.0})])
    logger.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 20  # its own process may still be writing
    while not list(logged_steps(path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(logged_steps(path)) == [0]


def test_it_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger()
    logger.start(identity(tmp_path))
    logger.log([(0, {"total": 1.0})])
    logger.finish()
    assert not list(tmp_path.iterdir())


LOGGING = """
import json, os, signal, sys
from pathlib import Path
from helpers.tracking import ALONE, identity
from torch.utils._python_dispatch import TorchDispatchMode
from trainer.engine.loggers import WandbLogger
from trainer.engine.check import check
from trainer.engine.tracking import Tracker, forget_from

folder, first, last, kill = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "kill"
forget_from(folder / "metrics.jsonl", first)
tracker = Tracker(folder, ALONE, every=10)
tracker.start([WandbLogger(mode="offline")], identity(folder, first))
for step in range(first, last):
    tracker.record(step, {"total": step / 2, "text" * 20: 1.0}, {})
tracker.flush()
if kill:
    os.kill(os.getpid(), signal.SIGKILL)
tracker.close()
"""


def test_after_a_kill_weights_and_biases_has_each_step_once(tmp_path: Path) -> None:
    """A process that is killed hands over more than its checkpoint and may lose the end of it."""
    here = Path(__file__).parents[1]
    environment: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": f"{here}:{here.parent}:{here.parent / 'policy_constructor'}",
    }
    for name in [n for n in environment if n.startswith("WANDB_")]:
        del environment[name]

    def run(*arguments: Any) -> int:
        command = [sys.executable, "-c", LOGGING, str(tmp_path), *map(str, arguments)]
        return subprocess.run(command, env=environment, timeout=120, check=False).returncode

    assert run(0, 900, "kill") == -signal.SIGKILL
    assert run(700, 1200, "end") == 0
    paths = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(paths) == 2
    assert [step for path in paths for step in logged_steps(path)] == list(range(1200))


def test_tensorboard_reads_each_step_once_after_a_restart(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, last in ((0, 8), (5, 12)):
        logger = TensorBoardLogger()
        assert logger.start(identity(tmp_path, first)) == first - 1
        logger.log([(step, {"total": step + first / 100}) for step in range(first, last)])
        logger.finish()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(e.step, round(e.value, 4)) for e in events.Scalars("total")]
    assert found == [(s, float(s)) for s in range(5)] + [(s, s + 0.05) for s in range(5, 12)]


def test_tensorboard_gets_everything_again_when_its_folder_is_gone(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first in (0, 4):
        tracker = Tracker(tmp_path, ALONE, every=1)
        tracker.start([TensorBoardLogger()], identity(tmp_path, first))
        for step in range(first, first + 4):
            tracker.record(step, {"total": step / 2}, {})
        tracker.close()
        if first == 0:
            shutil.rmtree(tmp_path / "tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("total")] == [(s, s / 2) for s in range(8)]


def test_tensorboard_loses_nothing_when_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, clock in ((0, 2_000_000_000.0), (5, 1_900_000_000.0), (8, 1_000.0)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        logger = TensorBoardLogger()
        logger.start(identity(tmp_path, first))
        logger.log([(step, {"total": step + first / 100}) for step in range(first, first + 6)])
        logger.finish()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(e.step, round(e.value, 4)) for e in events.Scalars("total")]
    starts = [0] * 5 + [5] * 3 + [8] * 6
    assert found == [(s, round(s + start / 100, 4)) for s, start in enumerate(starts)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(3), r"a tensor of shape \(3,\)"),
        ("good", "a str"),
        (None, "nothing"),
        (torch.ones(1).to_sparse(), r"a tensor of shape \(1,\)"),
        (np.zeros((2, 2)), r"a ndarray of shape \(2, 2\)"),
        (torch.tensor(1j), r"a tensor of shape \(\)"),
        (10**400, "an integer that no float can hold"),
    ],
)
def test_what_is_no_number_is_named(tmp_path: Path, value: Any, said: str) -> None:
    tracker = Tracker(tmp_path, ALONE, every=1)
    for metrics in ({"surprise": value}, combine([{"surprise": 1.0}, {"surprise": value}])):
        with pytest.raises(TrainingFault, match=f"metric 'surprise' of step 3 is {said}; return numbers, or"):
            tracker.record(3, metrics, {})


def test_micro_batches_may_give_a_number_in_several_shapes() -> None:
    shapes = [torch.tensor(4.0), torch.tensor([9.0]), np.float32(2), torch.tensor([[1]])]
    assert float(plain(combine([{"a": one} for one in shapes])["a"])) == 4.0
    for odd in ([torch.ones(3), torch.ones(4)], [torch.tensor(1j), torch.tensor(1j)]):
        assert combine([{"a": one} for one in odd])["a"] is odd[-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_numbers_on_the_host_and_on_the_device_go_together(tmp_path: Path) -> None:
    gpu = torch.device("cuda", 0)
    tracker = Tracker(tmp_path, Runtime(gpu), every=1)
    (line,) = tracker.record(0, {"a": torch.tensor(2.0), "b": torch.tensor(3.0, device=gpu)}, {})
    assert (line["a"], line["b"]) == (2.0, 3.0)
    found = combine([{"a": 1.0}, {"a": torch.tensor(3.0, device=gpu)}])
    assert float(found["a"]) == 2.0


NUMBERS: dict[str, Any] = {
    "float": 2.0,
    "int": 2,
    "bool": True,
    "numpy": np.float32(2),
    "array": np.array([2]),
    "tensor": torch.tensor(2.0),
    "one element": torch.tensor([[2]]),
    "brain": torch.tensor(2.0, dtype=torch.bfloat16),
}


def test_every_kind_of_number_is_one(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, ALONE, every=1)
    (line,) = tracker.record(0, NUMBERS, {})
    assert line == {"step": 0, **dict.fromkeys(NUMBERS, 2.0), "bool": 1.0}
    assert all(type(value) is float for name, value in line.items() if name != "step")


@pytest.mark.parametrize("kind", [float, int, torch.tensor, lambda v: torch.tensor([v]), np.float64])
def test_micro_batches_become_one_number(kind: Callable[[int], Any]) -> None:
    parts: list[dict[str, Any]] = [
        {
            "a": kind(v),
            "s": Reduced(kind(v), "sum"),
            "m": Reduced(kind(v), "max"),
            "l": Reduced(kind(v), "last"),
        }
        for v in (4, 9, 2)
    ]
    found = combine([{"first": 1.0, **parts[0]}, parts[1], {**parts[2], "lr": 0.1}])
    assert {name: float(plain(value)) for name, value in found.items()} == {
        **{"first": 1.0, "a": 5.0, "s": 15.0, "m": 9.0, "l": 2.0, "lr": 0.1}
    }
    assert {name: value.how for name, value in found.items() if isinstance(value, Reduced)} == {
        **{"s": "sum", "m": "max", "l": "last"}
    }


def test_thousands_of_metrics_arrive_each_under_its_own_name(tmp_path: Path) -> None:
    recorder = Recorder()
    tracker = Tracker(tmp_path, ALONE, every=2)
    tracker.start([recorder], identity(tmp_path))
    weight = torch.ones((), requires_grad=True)
    kinds: list[Callable[[float], Any]] = [
        float,
        lambda x: weight * x,
        lambda x: torch.tensor([x], dtype=torch.float64),
        lambda x: Reduced(torch.tensor(int(x)), "sum"),
        np.float32,
    ]
    for step in range(2):
        tracker.record(step, {f"m{i}": kinds[i % 5](i + step) for i in range(10_000)}, {})
    tracker.close()
    wanted = [{"step": step, **{f"m{i}": float(i + step) for i in range(10_000)}} for step in range(2)]
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == wanted
    assert [{"step": step, **values} for step, values in recorder.rows] == wanted


class Operations(TorchDispatchMode):
    """Counts what torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return operation(*args, **(kwargs or {}))


def test_more_metrics_are_no_more_operations(tmp_path: Path) -> None:
    counts = []
    for number in (30, 3000):
        tracker = Tracker(tmp_path / str(number), ALONE, every=2)
        (tmp_path / str(number)).mkdir()
        metrics = {f"m{i}": torch.tensor(float(i)) for i in range(number)}
        with Operations() as operations:
            for step in range(4):
                tracker.record(step, metrics, {})
        tracker.close()
        counts.append(operations.count)
    assert counts[0] == counts[1] > 0


def test_a_reduction_that_is_none_is_said() -> None:
    with pytest.raises(ValueError, match="reduced by mean, sum, max, last, not by 'min'"):
        Reduced(1.0, "min")  # type: ignore[arg-type]


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    runtime = Runtime(torch.device("cpu"), rank=rank, world_size=2)
    tracker = Tracker(Path(folder), runtime, every=2)
    value = 3.0 if rank == 0 else 8.0
    for step in range(2):
        numbers = {f"number {how}": Reduced(value + step, how) for how in ("mean", "sum", "max", "last")}
        tensors = {
            f"tensor {how}": Reduced(torch.tensor(value + step), how)
            for how in ("mean", "sum", "max", "last")
        }
        tracker.record(step, {"loss": value, "right": rank == 0, **numbers, **tensors}, {})
    try:
        odd = torch.tensor(1.0) if rank else 1.0
        tracker.record(2, {"odd": odd}, {})
        tracker.flush()
    except TrainingFault as error:
        (Path(folder) / f"said_{rank}").write_text(str(error))
    dist.destroy_process_group()


def test_ranks_become_one_number(tmp_path: Path) -> None:
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for step, line in enumerate(lines):
        assert (line["loss"], line["right"]) == (5.5, 0.5)
        for kind in ("number", "tensor"):
            found = [line[f"{kind} {how}"] for how in ("mean", "sum", "max", "last")]
            assert found == [5.5 + step, 11.0 + 2 * step, 8.0 + step, 8.0 + step]
    for rank in (0, 1):
        said = (tmp_path / f"said_{rank}").read_text()
        assert "metric 'odd' of step 2 came from rank 0 and not from all ranks" in said


def test_tensorboard_forgets_a_run_that_was_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for last in (3, 6):
        logger = TensorBoardLogger()
        logger.start(identity(tmp_path))
        logger.log([(step, {"total": float(step)}) for step in range(last)])
        logger.finish()
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("total")] == [(s, float(s)) for s in range(last)]
