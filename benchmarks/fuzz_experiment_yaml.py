"""Mutates the shipped experiment YAMLs and checks the results; only a plan or a sentence may come of it.

    python benchmarks/fuzz_experiment_yaml.py --cases 3000 --seed 0 --grid --train 150

Every case is loaded and checked, and its dataset is built: a small one, recorded for the occasion. With
`--grid` every key also gets extreme values; with `--train` so many of the mutated texts that were accepted
are trained for three steps, where an end without a traceback is asked for. A case may take 10 seconds, a
training 60. The same seed gives the same texts. Prints one JSON line; the exit code is 1 when there is a
finding, whose text and traceback are then left in a folder.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
import yaml
from yaml_mutations import REPOSITORY, WORDS, Trial, mutate, parser_of, shipped, tell

from trainer.config.errors import ConfigError, ConfigLoadError
from trainer.config.loader import load_located
from trainer.config.parameters import FRAMEWORK_ARGUMENTS, receivers
from trainer.config.reference import rows
from trainer.config.schemas import ExperimentConfig
from trainer.data.lerobot import LeRobotWriter
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.offline_trainer import attempt
from trainer.registry import DATASET_BUILDER_REGISTRY, OPTIMIZER_BUILDER_REGISTRY, TRAINER_REGISTRY

FOLDERS = ("examples/configs",)
TRAINING_SECONDS = 60
FORK = multiprocessing.get_context("fork")
LONG, HUGE = "x" * 300, "9" * 60
_LANGUAGE = """
plugins params seed device precision deterministic model data train datamodule type batch_size
global_batch_size num_workers normalization augmentation validation recording trainer loss
project_name save_dir save_every epoch max_steps load_dir optimizer gradient_clip_val compile ema
checkpoint evaluation metrics callbacks loggers best metric mode keep resume_from
component_config_paths component_build_args component_optims init freeze root repo_id action_horizon
obs_proprio_history obs_images_history HZ episodes features action_key frame_cache _merge_ _value_
replace append prepend keyed key defaults base ${params.task} ${model} ${} ${env:HOME}
${env:int:HOME} /dev/zero /dev/null /proc / . .. ~ ~nobody-at-all/x fifo folder base.yaml case.yaml
gone.yaml 1000000000 -1 1e9 1e-4 1e999 cuda:9 early_stopping validation/total success_rate
metaworld/none lerobot_dataset_factory mixture_dataset_factory adamw_warmup_cosine_decay wandb
"""


SHAPES = {
    "data": {"observation.state": 2, "observation.environment_state": 3, "action": 2},
    "metaworld": {"observation.state": 39, "action": 4},
}
"""Datasets as the shipped experiments have them, but for cameras."""


def write_dataset(root: Path) -> None:
    """Record four short episodes of random numbers and no camera."""
    sizes = SHAPES[root.name]
    features = {n: {"dtype": "float32", "shape": [size], "names": None} for n, size in sizes.items()}
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for _ in range(4):
            frames = {n: rng.normal(size=(40, *f["shape"])).astype(np.float32) for n, f in features.items()}
            writer.add_episode(frames, task="draw")


def localised(text: str, folder: Path) -> str:
    """A shipped experiment with data and run folder in `folder`, which trains on a few steps too."""
    config = yaml.safe_load(text)
    data, train = config.get("data", {}), config.get("train", {})
    if data.get("datamodule", {}).get("type") == "lerobot_dataset_factory":
        root = folder / ("metaworld" if "metaworld" in text else "data")
        data["datamodule"]["params"].update(root=str(root), local_files_only=True)
        for name in ("features", "frame_cache"):
            data["datamodule"]["params"].pop(name, None)
        data["batch_size"] = 16
        data.pop("augmentation", None)
    for optimizer in config.get("model", {}).get("component_optims", {}).values():
        optimizer["params"].pop("warmup_steps", None)
    train["save_dir"] = str(folder / "run")
    train.pop("evaluation", None)  # a simulator takes seconds to start
    return yaml.safe_dump(config, sort_keys=False)


def grid() -> Iterator[tuple[str, list[str | int]]]:
    """Every key of the schema and every parameter of the plugins of Push-T, as written and as a path."""
    for row in rows(ExperimentConfig):
        key = row.split("`")[1]
        words = key.replace(".<name>", ".velocity_decoder").replace("[]", ".0").split(".")
        yield key, [int(word) if word.isdigit() else word for word in words]
    plugins: dict[str, Any] = {
        "data.datamodule": DATASET_BUILDER_REGISTRY.get("lerobot_dataset_factory"),
        "train.trainer": TRAINER_REGISTRY.get("state_flow_matching_trainer"),
        "train.optimizer": OPTIMIZER_BUILDER_REGISTRY.get("adamw_warmup_cosine_decay"),
    }
    for section, plugin in plugins.items():
        for target in receivers(plugin):
            for name in set(inspect.signature(target).parameters) - FRAMEWORK_ARGUMENTS:
                yield f"{section}.params.{name}", [*section.split("."), "params", name]


def nested(depth: int) -> list[Any]:
    """A list in a list, and so on."""
    return [nested(depth - 1)] if depth else []


EXTREMES: tuple[Any, ...] = (
    *(0, -1, 1, 10**9, 10**18, 10**300, 0.5, 1e308, float("nan"), float("inf"), float("-inf")),
    *(True, False, None, "", " ", "x" * 100_000, "a\0b", "é\u2028", "/dev/zero", "~nobody-at-all/x", ".."),
    *("${train}", "${env:NO_SUCH}", "1e999", [], {}, [None], [0], [10**18], {"a": {"b": []}}, nested(60)),
)


def extreme_cases(text: str) -> Iterator[tuple[str, str]]:
    """Every key of a full experiment with every extreme value in its place."""
    full = yaml.safe_load(text)
    data, train = full["data"], full["train"]
    data["validation"] = {"fraction": 0.25}
    data["augmentation"] = {"observation_noise": 0.01, "color_jitter": None, "gaussian_blur": None}
    data["recording"] = {"env": "pusht"}
    train["checkpoint"] = {"best": {"metric": "validation/total"}}
    train["metrics"] = [{"type": "action_error"}]
    train["callbacks"] = [{"type": "early_stopping", "params": {"metric": "validation/total"}}]
    train["loggers"] = [{"type": "tensorboard"}]
    train["optimizer"] = full["model"]["component_optims"].pop("observation_encoder")
    full["model"]["component_build_args"] = {"velocity_decoder": {"init": True}}
    yield "grid_base", yaml.safe_dump(full, sort_keys=False)
    for key, path in grid():
        for number, value in enumerate(EXTREMES):
            case = copy.deepcopy(full)
            if path[:2] == ["train", "evaluation"]:
                case["train"]["evaluation"] = {"env": "pusht"}
            if path[-1] == "episodes" and "validation" in path:
                case["data"]["validation"].clear()
            inner: Any = case
            for step in path[:-1]:
                inner = inner[step] if isinstance(step, int) else inner.setdefault(step, {})
                if inner is None:
                    break
            if isinstance(inner, (dict, list)):
                inner[path[-1]] = value  # type: ignore[call-overload,index]
                name = f"grid_{key}_{number}".replace("[]", "_").replace("<name>", "_")
                yield name, yaml.safe_dump(case, sort_keys=False)


def train_some(trial: Trial, folder: Path, wanted: int, rng: random.Random) -> int:
    """Train some of the accepted texts for three steps each; return how many did, and note what failed.

    Others may be refused in a sentence, where an experiment is put together or where its numbers run away.
    """
    chosen = rng.sample(trial.accepted, min(wanted, len(trial.accepted)))
    trained = 0
    for number, text in enumerate(chosen):
        shutil.rmtree(folder / "run", ignore_errors=True)
        trial.case.write_text(text, encoding="utf-8", newline="")
        here, there = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_train, args=(trial.case, folder / "run", there))
        process.start()
        there.close()
        try:
            end = here.recv() if here.poll(TRAINING_SECONDS) else f"more than {TRAINING_SECONDS} s"
        except EOFError:
            end = "the process ended without a word"
        process.kill()
        process.join()
        trained += end == 0
        if isinstance(end, str):
            trial.note(f"train_{number}", text, end)
    return trained


def _train(case: Path, run: Path, answer: Connection) -> None:
    """Train and answer with the exit code, or with the traceback of what nobody has explained."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    overrides = [f"train.save_dir={run}", "train.max_steps=3", "data.num_workers=0"]
    try:
        answer.send(attempt(case, overrides).code)
    except BaseException:
        answer.send(traceback.format_exc())


def main() -> int:
    parser = parser_of(__doc__, 1000)
    parser.add_argument("--grid", action="store_true", help="also extreme values for every key")
    parser.add_argument("--train", type=int, default=0, metavar="N", help="train N of what is accepted")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    findings = arguments.findings.resolve()
    WORDS.extend([*_LANGUAGE.split(), LONG, f"/{LONG}/{LONG}", "a/" * 3000, HUGE, "[" * 200, "a\0b"])
    rng = random.Random(arguments.seed)
    started = time.perf_counter()
    os.chdir(REPOSITORY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dataset in SHAPES:
            write_dataset(folder / dataset)
        os.mkfifo(folder / "fifo")
        (folder / "folder").mkdir()
        (folder / ".git").mkdir()  # relative outputs stay in here
        for room in ("experiment_models", "experiment_training"):
            (folder / room).symlink_to(REPOSITORY / room)
        (folder / "minimal").symlink_to(REPOSITORY / "examples/configs/minimal")
        # What takes over another file would have to find it from here.
        whole = [text for text in shipped(*FOLDERS) if "\ntrain:" in text and "defaults:" not in text]
        texts = [localised(text, folder) for text in whole]
        (folder / "base.yaml").write_text(texts[-1], encoding="utf-8")
        trial = Trial(built, (ConfigError, ConfigLoadError), folder / "case.yaml", findings)
        for text in texts:  # what is imported once is not a case's time, and must not be cut off halfway
            trial.case.write_text(text, encoding="utf-8")
            with contextlib.suppress(ConfigError):
                build_data(check(load_located(trial.case, ["train.compile.enabled=true"])))
        trial.over(
            (f"seed{arguments.seed}_case{number}", mutate(rng, texts)) for number in range(arguments.cases)
        )
        if arguments.grid:
            pusht = (REPOSITORY / "examples/configs/pusht_state.yaml").read_text(encoding="utf-8")
            mutated, trial.accepted = trial.accepted, []
            trial.over(extreme_cases(localised(pusht, folder)))
            assert trial.accepted, "the experiment whose keys are tried is refused as it is"
            trial.accepted = mutated
        trained = train_some(trial, folder, arguments.train, rng)
    facts = {"cases": trial.tried, "seed": arguments.seed, "shipped_files": len(texts)}
    return tell(trial, started, **facts, trained=trained, pydantic=pydantic.VERSION)


def built(case: Path) -> None:
    """Load and check an experiment, and build its dataset."""
    build_data(check(load_located(case)))


if __name__ == "__main__":
    sys.exit(main())
