"""Runs that are killed and taken up again: starting, aiming, killing, and comparing with one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state_experiment import PLUGINS, Size, write_experiment

ROOT = Path(__file__).resolve().parents[1]
TIMING = ("samples_per_s", "data_wait")
PATIENCE_SECONDS = 240.0

# A trainer that notes what it sees, and that ends its process where it is told to. Aims are audit events of
# the thread that writes checkpoints, so that a kill falls between two chosen operations of the file system.
PLUGIN = '''
import hashlib, json, os, re, signal, sys, threading

from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import environment_rank

NOTES = os.environ.get("KILLED_RUN_NOTES")
RANK = int(os.environ.get("RANK", "0"))
OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"}
REMOVALS = {"os.remove", "os.rmdir"}


@TRAINER_REGISTRY.register("noting_trainer")
class NotingTrainer(PolicyTrainer):
    """Notes the samples of each rank, and a checksum of them as they were augmented."""

    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        if NOTES:
            seen = hashlib.sha1(data["observation.state"].numpy().tobytes()).hexdigest()
            note = [context.step, context.micro_batch, data["index"].tolist(), seen]
            with open(f"{NOTES}/samples_{environment_rank()}.jsonl", "a") as file:
                file.write(json.dumps(note) + "\\n")
            with open(f"{NOTES}/process_{environment_rank()}", "w") as file:
                file.write(str(os.getpid()))
        return super().train_step(data, context)


class Aim:
    """Counts what the writing thread does, and kills this process just before the chosen operation."""

    def __init__(self, what, number):
        self.what, self.left = what, number
        self.armed = False

    def __call__(self, event, arguments):
        writing = threading.current_thread().name.startswith("checkpoint_")
        if event not in OPERATIONS or not writing or self.left <= 0:
            return
        text = " ".join(str(a) for a in arguments)
        if self.what == "operation" or (self.what == "removing" and self.armed and event in REMOVALS):
            self.count(event, text)
        elif self.what in ("renamed", "epoch_renamed") and self.armed:
            self.count(event, text)
            self.armed = False
        elif self.what == "replacing" and event == "os.rename" and self.armed:
            self.count(event, text)
        if event == "os.rename":
            source, target = str(arguments[0]), str(arguments[1])
            if self.what == "replacing":
                self.armed = target.endswith(".replaced")
            elif self.what in ("renamed", "epoch_renamed"):
                kind = "epoch" if self.what == "epoch_renamed" else "epoch|step"
                folder = re.fullmatch(rf".*/({kind})_[0-9]+", target)
                self.armed = source.endswith(".incomplete") and folder is not None
        if event == "shutil.rmtree":
            self.armed = self.what == "removing" and text.split()[0].endswith(".removed")

    def count(self, event, text):
        self.left -= 1
        if self.left <= 0:
            with open(f"{NOTES}/aimed.jsonl", "a") as file:
                file.write(json.dumps([self.what, event, text[-160:]]) + "\\n")
                file.flush()
            os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("KILLED_RUN_AIM") and RANK == 0:
    kind, number = os.environ["KILLED_RUN_AIM"].split(":")
    sys.addaudithook(Aim(kind, int(number)))
'''


@dataclass(frozen=True)
class Kill:
    """When a process is killed.

    Attributes:
        what: `progress`: at a random moment after so many lines of metrics; `start`: so many seconds after
            its start; or an operation of the thread that writes checkpoints: `operation` (any), `renamed` (a
            folder has got its name, `latest` does not know yet), `epoch_renamed` (that of an epoch),
            `replacing` (the old folder of that name has lost it, the new one not got it), `removing` (a
            checkpoint is being pruned).
        number: lines, seconds, or which of these operations.
        delay: seconds to wait once the lines are there.
        whom: `all`: everything that was started; `rank`: one training process; `launcher`: only what started
            the others.
    """

    what: str
    number: float
    delay: float = 0.0
    whom: str = "all"


@dataclass(frozen=True)
class Case:
    """A run that is killed one or more times.

    Attributes:
        number: names it.
        way: `one`, `two` (torchrun), `fsdp` (torchrun, sharded) or `ray`.
        kills: one after the other, each followed by the same command again.
        workers: loader workers of the first process, of those that go on.
        wandb: log with wandb, offline.
    """

    number: int
    way: str
    kills: tuple[Kill, ...]
    workers: tuple[int, ...] = (0,)
    wandb: bool = False


@dataclass
class Ground:
    """An experiment on disk that is run again and again, each time into a folder of its own.

    Attributes:
        folder: where everything goes.
        path: the experiment's YAML.
    """

    folder: Path
    path: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @classmethod
    def prepare(cls, folder: Path, epochs: int = 10, width: int = 96) -> Ground:
        """Write an experiment in which everything is on that could keep a run from being repeated."""
        (folder / "noting.py").write_text(PLUGIN, encoding="utf-8")
        changes = {
            "plugins": [*PLUGINS, "noting"],
            "data": {
                "augmentation": {"observation_noise": 0.1},
                "validation": {"episodes": [3, 7]},
                "global_batch_size": 32,
            },
            "train": {
                "trainer": {"type": "noting_trainer"},
                "epoch": epochs,
                "accumulate_grad_batches": 2,
                "log_every_n_steps": 5,
                "checkpoint": {
                    "save_every_n_steps": 4,
                    "keep": 2,
                    "best": {"metric": "validation/total"},
                },
            },
        }
        size = Size(width=width, blocks=2)
        path = write_experiment(folder, size, changes, dropout=0.1)
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"  batch_size: {size.batch}\n", ""), encoding="utf-8")
        return cls(folder, path)

    def start(self, way: str, run: Path, workers: int, wandb: bool, aim: str = "") -> subprocess.Popen[str]:
        """Start training into `run`; everything it starts can be found as its descendants."""
        notes = run.with_name(f"{run.name}.notes")
        notes.mkdir(parents=True, exist_ok=True)
        script = [str(ROOT / "trainer/offline_trainer.py"), "--train_config", str(self.path)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        commands = {
            "one": [sys.executable, *script],
            "two": [*torchrun, *script],
            "fsdp": [*torchrun, *script, "--set", "train.parallel=fsdp"],
            "ray": [
                *(sys.executable, "-m", "trainer.cli", "train", str(self.path)),
                *("--backend", "ray", "--num-workers", "2", "--cpus-per-worker", "1"),
            ],
        }
        overrides = [f"train.save_dir={run}", f"data.num_workers={workers}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "KILLED_RUN_"))}
        environment |= {
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline" if wandb else "disabled",
            "KILLED_RUN_NOTES": str(notes),
            "KILLED_RUN_AIM": aim,
        }
        with (notes / "said.txt").open("a", encoding="utf-8") as said:
            process = subprocess.Popen(
                [*commands[way], *(word for one in overrides for word in ("--set", one))],
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=said,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def whole(self, way: str, name: str, wandb: bool = False) -> Path:
        """Train without being disturbed."""
        run = self.folder / name
        process = self.start(way, run, 0, wandb)
        if process.wait(timeout=PATIENCE_SECONDS) != 0:
            raise RuntimeError(f"the undisturbed run failed: {_tail(run)}")
        return run

    def killed(self, case: Case) -> tuple[Path, list[dict[str, Any]]]:
        """Train, being killed as the case says, to the end; return the run and what was met at each kill."""
        run = self.folder / f"run_{case.number}"
        met = []
        for turn, kill in enumerate(case.kills):
            aimed = kill.what not in ("progress", "start")
            aim = f"{kill.what}:{int(kill.number)}" if aimed else ""
            process = self.start(case.way, run, _turn(case.workers, turn), case.wandb, aim)
            met.append(self._kill(process, run, kill))
        process = self.start(case.way, run, _turn(case.workers, len(case.kills)), case.wandb)
        code = process.wait(timeout=PATIENCE_SECONDS)
        if code != 0:
            raise RuntimeError(f"the run did not go on, exit code {code}: {_tail(run)}")
        return run, met

    def _kill(self, process: subprocess.Popen[str], run: Path, kill: Kill) -> dict[str, Any]:
        started, notes = time.monotonic(), run.with_name(f"{run.name}.notes")
        aims = len(_lines(notes / "aimed.jsonl"))
        while process.poll() is None and time.monotonic() - started < PATIENCE_SECONDS:
            if kill.what == "start":
                due = time.monotonic() - started >= kill.number
            elif kill.what == "progress":
                due = len(_lines(run / "metrics.jsonl")) >= kill.number
            else:
                due = len(_lines(notes / "aimed.jsonl")) > aims
            if due:
                break
            time.sleep(0.002)
        time.sleep(kill.delay)
        over = process.poll() == 0
        before = sorted(p.name for p in run.iterdir() if p.is_dir()) if run.is_dir() else []
        if kill.whom == "rank":
            kill_one(notes, rank=1)
            process.wait(timeout=PATIENCE_SECONDS)
        elif kill.whom == "launcher":
            process.kill()
        else:
            kill_tree(process.pid)
        process.wait(timeout=PATIENCE_SECONDS)
        aimed = _lines(notes / "aimed.jsonl")[aims:]
        return {
            "kill": vars(kill),
            "before": json.loads(aimed[0])[1:] if aimed else None,
            "updates_noted": len(_lines(run / "metrics.jsonl")),
            "unfinished_folders": [n for n in before if n.endswith((".incomplete", ".replaced", ".removed"))],
            "had_ended": over,
        }

    def stop_everything(self) -> None:
        """End what may be left of this ground's runs."""
        for process in self.started:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()


def kill_one(notes: Path, rank: int) -> None:
    """Kill one training process."""
    os.kill(int((notes / f"process_{rank}").read_text()), signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return a process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def kill_tree(pid: int) -> None:
    """Kill a process and everything that it has started, as a power cut would."""
    family = descendants(pid)
    while True:
        for one in family:
            try:
                os.kill(one, signal.SIGSTOP)  # who is stopped starts no other
            except ProcessLookupError:
                continue
        again = descendants(pid)
        if set(again) <= set(family):
            break
        family = again
    for one in family:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _turn(values: tuple[int, ...], turn: int) -> int:
    return values[turn % len(values)]


def _lines(path: Path) -> list[str]:
    """Return the lines of a file, none if it is not there; it may be replaced at any moment."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _tail(run: Path) -> str:
    said = run.with_name(f"{run.name}.notes") / "said.txt"
    return said.read_text(encoding="utf-8", errors="replace")[-2000:]


def draw(random_: random.Random, number: int, way: str, what: str, lines: int, wandb: bool = False) -> Case:
    """Draw a case of a kind.

    Args:
        random_: the source.
        number: of the case.
        way: as in `Case`.
        what: kind of the kill or kills: `progress`, `start`, `twice`, `operation`, `renamed`, `replacing`,
            `removing`, `rank` or `launcher`.
        lines: of metrics in a whole run.
        wandb: log with wandb, offline.
    """

    def progress(whom: str = "all") -> Kill:
        return Kill("progress", random_.randrange(lines - 12), random_.random() * 0.2, whom)

    workers = (random_.choice((0, 0, 1)), random_.choice((0, 0, 1)))
    saved = random_.randrange(2, 12)
    kills = {
        "progress": lambda: (progress(),),
        "start": lambda: (Kill("start", 1 + 4 * random_.random()), progress()),
        "twice": lambda: (progress(), progress(), Kill("operation", random_.randrange(1, 120))),
        "operation": lambda: (Kill("operation", random_.randrange(40, 500)),),
        "renamed": lambda: (Kill("renamed", saved),),
        # A folder is replaced where the run before was killed when the folder had its name and no more.
        "replacing": lambda: (Kill("epoch_renamed", saved // 2 + 1), Kill("replacing", 1)),
        "removing": lambda: (Kill("removing", random_.randrange(1, 50)),),
        "rank": lambda: (progress("rank"),),
        "launcher": lambda: (progress("launcher"),),
    }
    return Case(number, way, kills[what](), workers if way != "ray" else (0,), wandb)


def differences(whole: Path, killed: Path, wandb: bool) -> list[str]:
    """Return in what a run that was killed differs from the one that was not; nothing, if all is well."""
    found: list[str] = []
    folders = [_checkpoints(run) for run in (whole, killed)]
    if folders[0] != folders[1]:
        found.append(f"checkpoints {folders[1]} instead of {folders[0]}")
    for name in sorted(set(folders[0]) & set(folders[1])):
        found += _in_checkpoint(whole / name, killed / name)
    for pointer in ("latest", "best"):
        if (whole / pointer).read_text() != (killed / pointer).read_text():
            found.append(f"'{pointer}' differs")
    left = [p.name for p in killed.iterdir() if p.name.endswith((".incomplete", ".replaced", ".removed"))]
    if left:
        found.append(f"left behind: {left}")
    for file in ("metrics.jsonl", "validations.jsonl"):
        found += _in_lines(file, _timeless(whole / file), _timeless(killed / file))
    found += _in_samples(whole, killed)
    if (whole / "dataset_stats.pkl").read_bytes() != (killed / "dataset_stats.pkl").read_bytes():
        found.append("dataset_stats.pkl differs")
    return found + (_in_wandb(killed) if wandb else [])


def _checkpoints(run: Path) -> list[str]:
    return sorted(p.name for p in run.iterdir() if p.is_dir() and p.name.startswith(("epoch_", "step_")))


def _in_checkpoint(whole: Path, killed: Path) -> list[str]:
    import torch

    from trainer.checkpoint.folder import read_manifest
    from trainer.checkpoint.names import MEASURED

    a, b = (read_manifest(folder) for folder in (whole, killed))
    found = [f"{killed.name}: files differ"] if set(a["files"]) != set(b["files"]) else []
    found += [f"{killed.name}: manifest {k}" for k in a if k != "files" and a[k] != b.get(k)]
    beside = [MEASURED] if (whole / MEASURED).exists() or (killed / MEASURED).exists() else []
    if not all((folder / name).exists() for folder in (whole, killed) for name in beside):
        return [*found, f"{killed.name}: what was measured stands beside one of them only"]
    for name in sorted(n for n in (*a["files"], *beside) if n.endswith(".pt")):
        states = [torch.load(f / name, weights_only=True) for f in (whole, killed)]
        found += [f"{killed.name}/{name}: {where}" for where in unequal(*states)]
    return found


def unequal(a: Any, b: Any, path: str = "") -> Iterable[str]:
    """Yield the places in which two states differ, in type, order or any bit."""
    import torch

    if type(a) is not type(b):
        yield path
    elif isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or a.numpy().tobytes() != b.numpy().tobytes():
            yield path
    elif isinstance(a, Mapping):
        if list(a) != list(b):
            yield f"{path}: keys"
        for key in a:
            if key in b:
                yield from unequal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            yield f"{path}: length"
        for number, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from unequal(x, y, f"{path}[{number}]")
    elif a != b:
        yield path


def _timeless(path: Path) -> list[Any]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def _in_lines(file: str, whole: list[Any], killed: list[Any]) -> list[str]:
    if len(whole) != len(killed):
        return [f"{file}: {len(killed)} lines instead of {len(whole)}"]
    wrong = [n for n, (a, b) in enumerate(zip(whole, killed, strict=True)) if a != b]
    return [f"{file}: {len(wrong)} lines differ, from line {wrong[0] + 1} on"] if wrong else []


def _in_samples(whole: Path, killed: Path) -> list[str]:
    """Compare what every step saw, also the steps that were made again."""
    found = []
    for path in sorted(whole.with_name(f"{whole.name}.notes").glob("samples_*.jsonl")):
        expected = {(n[0], n[1]): n[2:] for n in map(json.loads, path.read_text().splitlines())}
        seen = []
        for line in (killed.with_name(f"{killed.name}.notes") / path.name).read_text().splitlines():
            try:
                seen.append(json.loads(line))
            except ValueError:
                continue  # a line in the middle of which the process was killed
        if {(n[0], n[1]) for n in seen} != set(expected):
            found.append(f"{path.stem}: steps are missing")
        if any(expected.get((n[0], n[1])) != n[2:] for n in seen):
            found.append(f"{path.stem}: other samples, or otherwise augmented")
    return found


def _in_wandb(run: Path) -> list[str]:
    """Compare what wandb has with the files of the run: every step once, with everything measured at it."""
    from trainer.engine.loggers.wandb import logged_rows

    paths = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    rows = [row for path in paths for row in logged_rows(path)]
    lines = _timeless(run / "metrics.jsonl")
    if [step for step, _ in rows] != [line["step"] for line in lines]:
        return [f"wandb: {len(rows)} rows for {len(lines)} steps, or in another order"]
    expected = {line["step"]: {k: v for k, v in line.items() if k != "step"} for line in lines}
    for line in _timeless(run / "validations.jsonl"):
        expected[line["step"] - 1] |= {k: v for k, v in line.items() if k not in ("step", "epoch")}
    wrong = [s for s, v in rows if any(v.get(k) != x for k, x in expected[s].items())]
    return [f"wandb: {len(wrong)} rows lack something, from step {wrong[0]} on"] if wrong else []
