"""Every planted fault is found, with its sentence, at the place in a YAML that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers.planted import encoder_yaml, planted_config, write_config
from helpers.proving import claims_of, mistakes_of

Config = dict[str, Any]
OPTIMIZER = "model.component_optims.head"


@dataclass(frozen=True)
class Planted:
    """A fault: how it is planted, the place where it is found, and what is said of it.

    Attributes:
        at: the dotted path of the YAML.
        says: a part of the sentence.
        also: dotted path → value, put into the configuration.
        encoder: its model YAML.
        file: the file of the place.
    """

    at: str
    says: str
    also: Mapping[str, Any] = field(default_factory=dict)
    encoder: Callable[[], Config] = encoder_yaml
    file: str = "experiment.yaml"


def dataset(fault: str, says: str, at: str = "data.datamodule", **also: Any) -> Planted:
    return Planted(at, says, {"data.datamodule.params.fault": fault, **_dotted(also)})


def policy(fault: str, says: str, at: str = "train.trainer", **also: Any) -> Planted:
    return Planted(at, says, {"train.trainer.params.fault": fault, **_dotted(also)})


def optimizer(fault: str, says: str, at: str = OPTIMIZER) -> Planted:
    return Planted(at, says, {f"{OPTIMIZER}.params.fault": fault})


def callback(fault: str, says: str) -> Planted:
    entry = {"type": "planted_callback", "params": {"fault": fault}}
    return Planted("train.callbacks[0]", says, {"train.callbacks": [entry]})


def augmentation(settings: Config, says: str, at: str) -> Planted:
    off = {"color_jitter": None, "gaussian_blur": None}
    also = {"data.datamodule.params.camera": True, "data.augmentation": {**off, **settings}}
    return Planted(f"data.augmentation.{at}", says, also)


def _dotted(also: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in also.items()}


FROZEN = {"model.component_build_args": {"encoder": {"freeze": True}}, "model.component_optims.encoder": None}
CAMERA = {"data__datamodule__params__camera": True}
NO_EFFECT = "changes no pixel of 'observation.image' by half a grey level, so it has no effect"
NO_GRADIENT = "of component 'encoder' gets no gradient: the loss does not use it"

PLANTED: dict[str, Planted] = {
    # data
    "a dataset that repeats samples": dataset("repeated samples", "of its 120 samples more than once"),
    "an order beyond the dataset": dataset("foreign samples", "names sample 120, and it has 120"),
    "a dataset that does not shuffle": dataset("no shuffle", "is the same in every epoch"),
    "an order that is drawn anew": dataset(
        "impure order", "another order each time it is asked for the same epoch"
    ),
    "a dataset that ignores its index": dataset(
        "index ignored", "samples 0 and 1 are the same, and 90 of 120"
    ),
    "workers that read other samples": dataset(
        "divides by worker",
        "worker processes give other numbers of 'action'",
        "data.num_workers",
        data__num_workers=2,
    ),
    "statistics of another dataset": dataset(
        "statistics of another dataset", "dimension 0 of 'action' has mean"
    ),
    "statistics in other units": dataset(
        "statistics in other units", "dimension 0 of 'observation.state' has mean"
    ),
    "a range that is too narrow": dataset(
        "too narrow a range", "of 'action' has the range", data__normalization="min_max"
    ),
    "a dataset that normalizes too": dataset(
        "normalizes itself", "'observation.state' comes out of the dataset normalized"
    ),
    "NaN in a sample": dataset("NaN", "'observation.state' has 36 numbers that are NaN or infinite"),
    "pictures that no camera is": dataset(
        "unnamed camera", "'observation.rgb' looks like pictures (3, 16, 16)"
    ),
    "pictures from 0 to 255": dataset("pictures to 255", "are float32 from 0 to 254", **CAMERA),
    "black pictures": dataset(
        "black pictures", "all pixels of the pictures 'observation.image' are 0", **CAMERA
    ),
    "validation samples that are augmented": dataset(
        "augments by itself",
        "another 'observation.image' each time that a validation sample is read",
        data__validation={"fraction": 0.3},
        **CAMERA,
    ),
    "noise that a robot has not": dataset(
        "noise on the state", "a robot sees 'observation.state' other than"
    ),
    "windows the wrong way round": dataset(
        "windows the wrong way round",
        "the window of 'observation.state' has at offset -1 of sample 70 another",
    ),
    "a history in another order": dataset(
        "frames out of order", "the window of 'observation.state' has at offset -1 of sample 70 another"
    ),
    # augmentation
    "brightness without effect": augmentation(
        {"color_jitter": {"brightness": 0.001, "contrast": 0, "saturation": 0, "hue": 0}},
        NO_EFFECT,
        "color_jitter.brightness",
    ),
    "hue of zero": augmentation({"color_jitter": {"hue": 0.0}}, NO_EFFECT, "color_jitter.hue"),
    "blur without effect": augmentation(
        {"gaussian_blur": {"sigma": [0.01, 0.02]}}, NO_EFFECT, "gaussian_blur"
    ),
    "noise of zero": Planted(
        "data.augmentation",
        "nothing in here has an effect",
        {"data.augmentation": {"observation_noise": 0.0}},
    ),
    # weights
    "a parameter that nothing uses": Planted(
        "model.component_config_paths.encoder",
        f"graph_modules.spare.net.0.weight and 1 more {NO_GRADIENT}",
        encoder=lambda: encoder_yaml(spare=True),
        file="encoder.yaml",
    ),
    "a head that the loss leaves out": Planted(
        "model.component_config_paths.head",
        "of component 'head' gets no gradient",
        {"train.trainer.params.fault": "head without use"},
        file="head.yaml",
    ),
    "an encoder that is cut off": Planted(
        "model.component_config_paths.encoder",
        NO_GRADIENT,
        {"train.trainer.params.fault": "encoder cut off"},
        file="encoder.yaml",
    ),
    "a loss times zero": Planted(
        "model.component_config_paths.head",
        "of component 'head' gets gradients of 0 only",
        {"train.trainer.params.fault": "times zero"},
        file="head.yaml",
    ),
    "a term that is cut off": Planted(
        "model.component_config_paths.encoder",
        "of component 'encoder' gets gradients of 0 only",
        {"train.trainer.params.fault": "auxiliary term cut off"},
        file="encoder.yaml",
    ),
    "an optimizer that leaves out biases": optimizer("leaves out biases", "of component 'head' leaves out"),
    "an optimizer of copies": optimizer("copies of parameters", "has 4 parameters of others"),
    "an optimizer that does nothing": optimizer("step without effect", "and does not move"),
    "a trainer that forgets the update": Planted(
        "model.component_optims.encoder",
        "and does not move",
        {"train.trainer.type": "planted_sleepy_trainer"},
    ),
    "a frozen component that moves through a buffer": Planted(
        "model.component_config_paths.encoder",
        "graph_modules.norm.running_mean of the frozen component 'encoder' moves",
        {"train.trainer.params.fault": "trains a frozen component", **FROZEN},
        lambda: encoder_yaml(batch_norm=True),
        "encoder.yaml",
    ),
    "a frozen component that is written to": Planted(
        "model.component_config_paths.encoder",
        "of the frozen component 'encoder' moves by 0.0",
        {"train.trainer.params.fault": "writes to a frozen component", **FROZEN},
        file="encoder.yaml",
    ),
    "an average that is none": Planted(
        "train.ema.decay",
        "a decay of 1e-09 makes the average the weights themselves",
        {"train.ema.decay": 1e-9},
    ),
    "a callback that changes weights": callback("changes weights", "changes graph_modules"),
    "a callback that changes weights after an epoch": callback(
        "changes weights at the end of an epoch", "of component 'encoder' in its after_epoch"
    ),
    "a callback that draws": callback("draws", "draws from torch's global generator in its after_step"),
    # learning rate
    "a rate of zero": optimizer("no rate", "is 0 in all 60 updates", f"{OPTIMIZER}.params"),
    "a rate of zero after the warm-up": optimizer(
        "rate of zero after the warm-up", "is 0 from update 13 of 60 on", f"{OPTIMIZER}.params"
    ),
    "a warm-up as long as the run": optimizer(
        "warm-up as long as the run", "still rises at the last of 60 updates", f"{OPTIMIZER}.params"
    ),
    "a rate that becomes NaN": optimizer(
        "rate that becomes NaN", "is nan at update 31", f"{OPTIMIZER}.params"
    ),
    "a negative rate": optimizer("negative rate", "is -0.01 at update 31", f"{OPTIMIZER}.params"),
    "a rate that begins late": optimizer(
        "idle first half", "is 0 until update 32 of 60", f"{OPTIMIZER}.params"
    ),
    # loss
    "a loss that counts padding": policy("counts padding", "with the actions that are padding"),
    "a loss that counts padding only": policy(
        "counts only padding", "does not depend on the actions within an episode"
    ),
    "an observation without effect": policy(
        "ignores the observation", "reads 'observation.state', but its loss does not depend on it"
    ),
    "a term of the loss that is cut off": policy(
        "term cut off",
        "'size' is in the total of PlantedPolicy with weight 0.3, but the gradient knows nothing of it",
    ),
    # prediction and deployment
    "a policy that normalizes twice": policy(
        "normalizes twice", "gives 'observation.state' to component 'encoder' normalized twice"
    ),
    "a policy that brings actions back": policy(
        "brings actions back", "predict_action and the loss speak of different numbers"
    ),
    "a policy that draws elsewhere": policy("draws elsewhere", "apart for the same observation and seed"),
    "a policy that remembers": policy("remembers calls", "apart for the same observation and seed"),
    "a policy that looks at the answer": policy("looks at the answer", "the deployed policy fails: KeyError"),
    # resuming
    "a policy with a count of its own": policy(
        "counts its calls",
        "differs after the next update of a run that is taken up",
        "model.component_config_paths.encoder",
    ),
    "an optimizer with a state of its own": optimizer(
        "state beside its state",
        "differs after the next update of a run that is taken up",
        "model.component_config_paths.head",
    ),
}


def _put(config: Config, path: str, value: Any) -> None:
    *keys, last = path.split(".")
    for key in keys:
        config = config.setdefault(key, {})
    if value is None and path.startswith("model."):
        del config[last]
    else:
        config[last] = value


def _written(folder: Path, planted: Planted) -> Path:
    config = planted_config(folder, planted.encoder())
    for path, value in planted.also.items():
        _put(config, path, value)
    return write_config(folder, config)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_at_its_place(tmp_path: Path, name: str) -> None:
    planted = PLANTED[name]
    found = mistakes_of(_written(tmp_path, planted))
    said = "\n".join(map(str, found))
    own = [one for one in found if planted.says in one.error_message and one.error_path == planted.at]
    assert own, said
    assert own[0].location is not None
    assert Path(own[0].location.file).name == planted.file
    assert not (tmp_path / "run").exists()


CLEAN: dict[str, Config] = {
    "the experiment itself": {},
    "augmented pictures": {
        "data.datamodule.params.camera": True,
        "data.augmentation": {"random_shift": {"pixels": 2}},
    },
    "validation and early stopping": {
        "data.validation": {"fraction": 0.3},
        "train.callbacks": [{"type": "early_stopping"}],
        "train.checkpoint.best": {"metric": "validation/total"},
    },
    "accumulated gradients": {"train.accumulate_grad_batches": 2, "train.gradient_clip_val": 1.0},
    "one update an epoch": {"data.batch_size": 100},
    "a frozen encoder": FROZEN,
    "workers and another normalization": {"data.num_workers": 2, "data.normalization": "min_max"},
}


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path, name: str) -> None:
    claims = claims_of(_written(tmp_path, Planted("", "", CLEAN[name])))
    assert [claim for claim in claims.values() if claim.verdict == "fails"] == []
    assert sum(claim.verdict == "holds" for claim in claims.values()) >= 20
    assert not any("cannot be measured" in claim.measured for claim in claims.values())
    assert not (tmp_path / "run").exists()


def test_the_weights_of_a_loss_are_told(tmp_path: Path) -> None:
    claim = claims_of(_written(tmp_path, policy("terms", "")))["every term of the total is trained"]
    assert claim.verdict == "holds"
    assert claim.measured.startswith("weights in the total: error 1 (1 by its gradient), size 0.3 (0.")


def test_an_epoch_of_three_ranks_is_shared_out(tmp_path: Path) -> None:
    claims = claims_of(_written(tmp_path, Planted("", "")), ranks=3)
    claim = claims["an epoch visits every sample once, over all ranks and workers"]
    assert claim.measured.startswith("120 of 120 samples, 0 of them more than once; 3 ranks")
