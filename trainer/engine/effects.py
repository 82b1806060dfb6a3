"""Settings that would have no effect: mistakes, each at its place, or warnings."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from model_constructor import ConfigPath, did_you_mean
from pydantic import BaseModel

from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.registry import TRAINER_REGISTRY
from trainer.templates import Callback


def check_effects(issues: Issues, config: ExperimentConfig) -> None:
    """A setting that would have no effect is a mistake."""
    train = config.train
    if TRAINER_REGISTRY.has(train.trainer.type):
        cls: Any = TRAINER_REGISTRY.get(train.trainer.type)
        _check_trainer_takes(issues, config, cls)
        if config.data.validation is not None and getattr(cls, "policy_class", None) is None:
            _no_effect(
                issues, ("data", "validation"), f"trainer '{train.trainer.type}' names no policy_class"
            )
    if train.metrics and config.data.validation is None:
        _no_effect(issues, ("train", "metrics"), "they are measured on data.validation, which is not there")
    clip = train.gradient_clip_val
    if train.gradient_clip_scope == "global" and clip is None:
        _no_effect(issues, ("train", "gradient_clip_scope"), "gradient_clip_val is not set")
    for name in clip if isinstance(clip, dict) else ():
        if name not in config.optimizers:
            hint = did_you_mean(name, config.optimizers, "components with an optimizer:")
            _no_effect(
                issues,
                ("train", "gradient_clip_val", name),
                f"there is no component '{name}' with an optimizer",
                hint,
            )
    if train.non_finite == "lower" and config.precision != "fp16":
        _no_effect(issues, ("train", "non_finite"), "only precision: fp16 scales the loss")
    if config.precision == "fp16" and train.non_finite in ("stop", "skip"):
        message = "fp16 needs its loss scale, which is found by skipping updates and lowering it"
        issues.add(("train", "non_finite"), message, "use auto or lower")
    saving = train.checkpoint
    never = train.max_steps is None and train.epoch is not None and train.save_every > train.epoch
    if never and not saving.save_last and saving.save_every_n_steps is None and saving.best is None:
        message = f"with save_every {train.save_every} and {train.epoch} epochs nothing would ever be saved"
        issues.add(("train", "checkpoint", "save_last"), message)
    _check_compile(issues, config)


_EVALUATED = ("success_rate", "mean_score")


def check_watched(
    issues: Issues,
    config: ExperimentConfig,
    callbacks: Mapping[ConfigPath, Callback],
    metrics: Collection[str],
    losses: Collection[str] | None = None,
    others: Sequence[Callback] = (),
) -> None:
    """Refuse to wait for what nobody measures.

    Args:
        issues: takes the mistakes.
        config: the configuration.
        callbacks: config path → callback; each says what it watches and what it measures.
        metrics: names of what is measured on the validation episodes beside the losses.
        losses: names of the policy's losses, where they are known already.
        others: callbacks that no file names.
    """
    own = [callback.measures() for callback in (*callbacks.values(), *others)]
    known = [name for names in own for name in names or ()]
    anything = None in own
    validation, evaluation = config.data.validation is not None, config.train.evaluation is not None
    if evaluation:
        known += _EVALUATED
    if validation:
        known += [f"validation/{name}" for name in (*(losses or ()), *metrics)]
    for path, name in _watched(config, callbacks):
        is_loss = name.startswith("validation/")
        if name in known:
            continue
        if is_loss and not validation:
            _no_effect(issues, path, f"'{name}' is measured on data.validation, which is not there")
        elif name in _EVALUATED and not evaluation:
            _no_effect(issues, path, f"'{name}' is measured by train.evaluation, which is not there")
        elif not anything and not (is_loss and losses is None):
            hint = did_you_mean(name, known, "what is measured:", "nothing")
            issues.add(path, f"nothing measures '{name}'", hint)


def _watched(
    config: ExperimentConfig, callbacks: Mapping[ConfigPath, Callback]
) -> Iterator[tuple[ConfigPath, str]]:
    """Yield every name that is waited for, with the place that names it."""
    best = config.train.checkpoint.best
    if best is not None:
        yield ("train", "checkpoint", "best", "metric"), best.metric
    for path, callback in callbacks.items():
        params = config.train.callbacks[int(path[-1])].params
        for name in callback.watches():
            key = next((key for key, value in params.items() if value == name), None)
            yield (*path, "params", key) if key is not None else path, name


def _no_effect(issues: Issues, path: ConfigPath, why: str, hint: str | None = None) -> None:
    issues.add(path, f"{why}, so this would have no effect", hint)


def _check_trainer_takes(issues: Issues, config: ExperimentConfig, cls: Any) -> None:
    """A trainer of the user's own may not know what the step skeleton does."""
    train, kind = config.train, config.train.trainer.type
    accepted = inspect.signature(cls).parameters
    if "update" not in accepted and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        asked = {
            "ema": train.ema.enabled,
            "gradient_clip_val": train.gradient_clip_val is not None,
            "non_finite": train.non_finite != "auto",
        }
        for name in (n for n, on in asked.items() if on):
            _no_effect(issues, ("train", name), f"trainer '{kind}' takes no `update`")
    taken = inspect.signature(cls.train_step).parameters
    if train.accumulate_grad_batches > 1 and "context" not in taken:
        message = f"the train_step of trainer '{kind}' takes no `context`"
        _no_effect(issues, ("train", "accumulate_grad_batches"), message)


def _check_compile(issues: Issues, config: ExperimentConfig) -> None:
    settings = config.train.compile
    if not settings.enabled:
        return
    import torch._dynamo

    known = torch._dynamo.list_backends(exclude_tags=())
    if settings.backend not in known:
        hint = did_you_mean(settings.backend, known)
        issues.add(("train", "compile", "backend"), f"torch has no backend '{settings.backend}'", hint)
    if settings.backend == "inductor":
        from torch._inductor import list_mode_options

        modes = list(list_mode_options())
        if settings.mode not in modes:
            path = ("train", "compile", "mode")
            issues.add(path, f"'{settings.mode}' is no mode", f"there are {', '.join(modes)}")
    elif settings.mode != "default":
        _no_effect(issues, ("train", "compile", "mode"), "only inductor has modes")
    compilers = [os.environ.get("CXX", "g++"), "clang++"]
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if settings.backend == "inductor" and on_cpu and not any(shutil.which(c) for c in compilers):
        issues.add(
            ("train", "compile"),
            "torch.compile needs a C++ compiler on a CPU, and there is none",
            "install g++ (Debian: apt-get install g++), or switch compile off",
        )


def idle_components(config: ExperimentConfig) -> list[str]:
    """Return a sentence per component that is neither trained nor frozen on purpose."""
    frozen = {name for name, flags in config.model.component_build_args.items() if flags.freeze}
    return [
        f"Component '{name}' is neither frozen nor has an optimizer: its weights stay as they are built."
        for name in config.model.component_config_paths
        if name not in config.optimizers and name not in frozen
    ]


def idle_settings(config: ExperimentConfig) -> list[str]:
    """Return a sentence per setting that does nothing here, but may where the same file is used elsewhere."""
    data, train = config.data, config.train
    initialised = [name for name, flags in config.model.component_build_args.items() if flags.init]
    common = train.optimizer is not None and ("train", "optimizer") not in {
        path for path, _ in config.optimizers.values()
    }
    knows_a_policy = TRAINER_REGISTRY.has(train.trainer.type) and (
        getattr(TRAINER_REGISTRY.get(train.trainer.type), "policy_class", None) is not None
    )
    idle = {
        "data.persistent_workers has no effect, because data.num_workers is 0.": (
            data.persistent_workers and data.num_workers == 0
        ),
        "data.prefetch_factor has no effect, because data.num_workers is 0.": (
            data.prefetch_factor is not None and data.num_workers == 0
        ),
        f"init of {', '.join(initialised)} has no effect, because train.load_dir gives the weights.": (
            bool(initialised) and train.load_dir is not None
        ),
        "train.optimizer has no effect, because every component has its own or is frozen.": common,
        f"train.evaluation has no effect, because trainer '{train.trainer.type}' names no policy_class.": (
            train.evaluation is not None and not knows_a_policy
        ),
    }
    return [sentence for sentence, is_idle in idle.items() if is_idle]


def idle_data_settings(config: ExperimentConfig, dataset: Any, says: Mapping[str, str]) -> list[str]:
    """Return a sentence per setting that does nothing for a dataset.

    Args:
        config: the configuration.
        dataset: what was built.
        says: setting → reason, from the dataset's factory.
    """
    reasons = dict(says)
    if not dataset.keeps_frames:
        reasons.setdefault("data.frame_memory", "there are no camera frames to decode")
    return [
        f"{setting} has no effect, because {reason}."
        for setting, reason in reasons.items()
        if _is_set(config, setting)
    ]


def _is_set(section: Any, setting: str) -> bool:
    """Say whether a file gives a setting of the schema, such as `data.frame_memory`."""
    for key in setting.split("."):
        if not isinstance(section, BaseModel) or key not in section.model_fields_set:
            return False
        section = getattr(section, key)
    return True
