"""Mutates the shipped experiment YAMLs and checks the results; only a plan or a sentence may come of it.

    python benchmarks/fuzz_experiment_yaml.py --cases 1000 --seed 0

Every case is loaded and checked, and its dataset is built: a small one, recorded for the occasion. Nothing is
trained. A case may take 10 seconds. The same seed gives the same texts. Prints one JSON line; the exit code
is 1 when there is a finding, whose text and traceback are then left in a folder.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydantic
import yaml
from yaml_mutations import REPOSITORY, WORDS, mutate, shipped

FOLDERS = ("examples/configs",)
LIMIT_SECONDS = 10
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


class TooSlow(Exception):
    """A case has taken longer than it may."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def write_dataset(root: Path) -> None:
    """Record four short episodes of random numbers and no camera."""
    from trainer.data.lerobot import LeRobotWriter

    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": None},
        "observation.environment_state": {"dtype": "float32", "shape": [16], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
    }
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for _ in range(4):
            frames = {n: rng.normal(size=(40, *f["shape"])).astype(np.float32) for n, f in features.items()}
            writer.add_episode(frames, task="draw")


def localised(text: str, folder: Path) -> str:
    """A shipped experiment with data and run folder in `folder`, so that much of it comes to its end."""
    config = yaml.safe_load(text)
    data, train = config.get("data", {}), config.get("train", {})
    if data.get("datamodule", {}).get("type") == "lerobot_dataset_factory":
        data["datamodule"]["params"].update(root=str(folder / "data"), local_files_only=True)
        data["datamodule"]["params"].pop("features", None)
        data["batch_size"] = 16
    train["save_dir"] = str(folder / "run")
    train.pop("evaluation", None)  # a simulator takes seconds to start
    return yaml.safe_dump(config, sort_keys=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz_findings"), help="folder for texts that fail"
    )
    arguments = parser.parse_args()

    from trainer.config.errors import ConfigError, ConfigLoadError
    from trainer.config.loader import load_located
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check

    os.environ["HF_HUB_OFFLINE"] = "1"
    findings = arguments.findings.resolve()
    WORDS.extend([*_LANGUAGE.split(), LONG, f"/{LONG}/{LONG}", "a/" * 3000, HUGE, "[" * 200, "a\0b"])
    rng = random.Random(arguments.seed)
    counts: collections.Counter[str] = collections.Counter()
    started, slowest = time.perf_counter(), 0.0
    os.chdir(REPOSITORY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data")
        os.mkfifo(folder / "fifo")
        (folder / "folder").mkdir()
        (folder / ".git").mkdir()  # relative outputs stay in here
        for room in ("experiment_models", "experiment_training"):
            (folder / room).symlink_to(REPOSITORY / room)
        texts = [localised(text, folder) for text in shipped(*FOLDERS)]
        (folder / "base.yaml").write_text(texts[-1], encoding="utf-8")
        case = folder / "case.yaml"
        for text in texts:  # what is imported once is not a case's time, and must not be cut off halfway
            case.write_text(text, encoding="utf-8")
            with contextlib.suppress(ConfigError):
                build_data(check(load_located(case, ["train.compile.enabled=true"])))
        for number in range(arguments.cases):
            text = mutate(rng, texts)
            case.write_text(text, encoding="utf-8", newline="")
            begun = time.perf_counter()
            try:
                with time_limit():
                    build_data(check(load_located(case)))
                counts["experiments"] += 1
            except (ConfigError, ConfigLoadError) as error:
                counts["config_errors"] += 1
                issues = getattr(error, "issues", ())
                counts["mistakes"] += len(issues) or 1
                counts["mistakes_without_a_place"] += sum(one.location is None for one in issues)
            except Exception:
                counts["findings"] += 1
                findings.mkdir(exist_ok=True)
                found = findings / f"seed{arguments.seed}_case{number}"
                found.with_suffix(".yaml").write_text(text, encoding="utf-8", newline="")
                found.with_suffix(".txt").write_text(traceback.format_exc(), encoding="utf-8")
            slowest = max(slowest, time.perf_counter() - begun)
    names = ("experiments", "config_errors", "mistakes", "mistakes_without_a_place", "findings")
    result = {
        "cases": arguments.cases,
        "seed": arguments.seed,
        **{name: counts[name] for name in names},
        "shipped_files": len(texts),
        "seconds": round(time.perf_counter() - started, 1),
        "slowest_case_s": round(slowest, 2),
        "python": platform.python_version(),
        "pyyaml": yaml.__version__,
        "pydantic": pydantic.VERSION,
    }
    print(json.dumps(result))
    return 1 if counts["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
