"""`trainer check`: what an experiment would train, what is wrong with it, and the proof of the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.options import overrides_option
from trainer.utils.tables import table, terminal_width
from trainer.utils.text import count_short, duration

if TYPE_CHECKING:
    from trainer.engine.build_data import Data
    from trainer.engine.check import CheckedConfig
    from trainer.engine.checkpoint_room import CheckpointRoom
    from trainer.engine.outline import Entry, Outline, Part
    from trainer.engine.proofs.prove import Proof

PROVED_UNASKED = 30_000_000
"""Parameters up to which a CPU makes the updates of a proof within seconds."""

Rows = list[tuple[str, str]]


@click.command("check")
@click.argument("config", type=click.Path())
@overrides_option
@click.option(
    "--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks that would train."
)
@click.option(
    "--prove/--no-prove",
    default=None,
    help="Make two updates in a temporary folder and measure what the run promises; "
    "if not given, where that takes a CPU seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def check(config: str, overrides: tuple[str, ...], ranks: int, prove: bool | None, as_json: bool) -> None:
    """Print what the experiment of the YAML file CONFIG would train, and prove it; nothing of it is written.

    Exit code 2 when something is wrong or a claim fails, with every mistake and its place.

    \b
    Example:
      trainer check my_experiment.yaml --ranks 8
    """
    # `trainer --help` need not wait for these.
    from trainer.config.loader import load_located
    from trainer.data.degenerate import dataset_oddities
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check as check_config
    from trainer.engine.outline import outline
    from trainer.engine.proofs.prove import prove as prove_run

    with user_errors():
        checked = check_config(load_located(config, overrides), ranks)
        data = build_data(checked, ranks)
        parts = outline(checked, data)
        room = _room(checked, data, parts)
        settings = [*_batches(checked, data, ranks), *_settings(checked, data), ("disk", room.sentence())]
        if not as_json:
            _print(settings, parts)
        chosen, why = _chosen(prove, parts)
        proof = prove_run(checked, data, ranks) if chosen else None
        times = _time(checked, data, parts, proof)
        remarks = [oddity.message for oddity in dataset_oddities(data.dataset, data.norm_stats)]
    said = {
        "warnings": [
            *checked.warnings,
            *data.warnings,
            *filter(None, [room.warning()]),
            *(proof.warnings if proof else ()),
        ],
        "remarks": remarks,
    }
    if as_json:
        click.echo(
            json.dumps(
                {**_plain([*_components(parts), *settings, *times], parts, proof, why), **said}, indent=2
            )
        )
    else:
        _print_rest(times, proof, why)
        for warning in said["warnings"]:
            click.echo(f"Warning: {warning}")
        for remark in said["remarks"]:
            click.echo(f"Remark: {remark}.")
    error = proof.error(checked) if proof else None
    if error is not None:
        raise UserError(str(error)) from error


def _chosen(asked: bool | None, parts: Outline) -> tuple[bool, str]:
    """Return whether to prove, and why."""
    if asked is not None:
        return asked, "asked for" if asked else "switched off by --no-prove"
    parameters = sum(part.parameters or 0 for part in parts.parts)
    unknown = [part.name for part in parts.parts if part.parameters is None]
    if unknown:
        return False, f"the size of {', '.join(unknown)} is not known, so it might take long; --prove does it"
    if parameters > PROVED_UNASKED:
        return False, f"{count_short(parameters)} parameters take a CPU long; --prove does it all the same"
    return True, f"{count_short(parameters)} parameters take a CPU seconds; --no-prove leaves it out"


def _room(checked: CheckedConfig, data: Data, parts: Outline) -> CheckpointRoom:
    from trainer.engine.checkpoint_room import checkpoint_room

    sizes = {part.name: (part.parameters, part.trained) for part in parts.parts}
    return checkpoint_room(checked.config, checked.run, data.steps_per_epoch, sizes)


def _components(parts: Outline) -> Iterator[tuple[str, str]]:
    """Yield what a program reads of the components."""
    for part in parts.parts:
        yield f"component {part.name}", f"{part.model}, {part.how}"
    for part in parts.parts:
        if part.parameters is None:
            yield f"size of {part.name}", f"not known without memory: {part.why_not}"
            continue
        size = f"{count_short(part.parameters)} parameters, {_trained(part)} trained, {_bytes(part)}"
        yield f"size of {part.name}", size


def _component_table(parts: Outline) -> Iterator[str]:
    """Yield the lines of the components for people."""
    rows = [("component", "config file", "optimizer", "parameters", "trained", "size")]
    for part in parts.parts:
        known = part.parameters is not None
        counts = (
            (count_short(part.parameters), _trained(part), _bytes(part)) if known else ("not known", "", "")
        )
        rows.append((part.name, part.model, part.how, *counts))
    yield from table(rows, left=3, width=terminal_width())
    for part in parts.parts:
        if part.parameters is None:
            yield f"The size of {part.name} is not known without memory: {part.why_not}"


def _trained(part: Part) -> str:
    if not part.trained:
        return "none"
    return "all" if part.trained == part.parameters else count_short(part.trained)


def _bytes(part: Part) -> str:
    return f"{count_short(4 * (part.parameters or 0))}B"


def _batches(checked: CheckedConfig, data: Data, ranks: int) -> Iterator[tuple[str, str]]:
    config = checked.config
    size, micro_batches = config.data.batch_size, config.train.accumulate_grad_batches
    total = config.total_steps(data.steps_per_epoch)
    held_out = "" if data.held_out is None else f", {len(data.held_out):,} more to validate on"
    yield "trainer", config.train.trainer.type
    yield "data", f"{config.data.datamodule.type}, {len(data.dataset):,} samples{held_out}"
    yield "batch of a rank", f"{size:,} samples"
    yield "micro-batches", f"{micro_batches:,} an update"
    yield "ranks", f"{ranks:,}"
    yield "global batch", f"{size * micro_batches * ranks:,} samples an update"
    yield "updates", f"{data.steps_per_epoch:,} an epoch, {total:,} in all"
    yield "run folder", str(checked.run)


def _settings(checked: CheckedConfig, data: Data) -> Iterator[tuple[str, str]]:
    """Yield what settings come to that do not say it themselves."""
    from trainer.runtime import select_device

    config = checked.config
    train, saving = config.train, config.train.checkpoint
    total = config.total_steps(data.steps_per_epoch)
    epochs = -(-total // data.steps_per_epoch)
    device = select_device(config.device)
    precision: str = config.precision
    if precision == "auto":
        precision = "bf16 where the GPU has it" if device.type == "cuda" else "fp32"
    yield "device", f"{device}, {precision}"
    yield (
        "seed",
        f"{config.seed}" + (f", {config.run_seed} after the models" if train.seed is not None else ""),
    )
    modes = [f"{name} by {mode}" for name, mode in data.normalizer.modes.items()]
    yield "normalization", ", ".join(modes) or "none"
    if train.ema.enabled:
        yield "average", f"decay {train.ema.decay:g}: over about {1 / (1 - train.ema.decay):,.0f} updates"
    clip = train.gradient_clip_val
    yield "gradients", "not clipped" if clip is None else f"clipped to {clip} ({train.gradient_clip_scope})"
    every = f"every {_epochs(train.save_every)}"
    times = [f"{every} of {epochs:,}"] if train.save_every <= epochs else []
    times += [f"every {saving.save_every_n_steps:,} updates"] if saving.save_every_n_steps else []
    times += ["at the end"] if saving.save_last else []
    times += [f"the best {saving.best.metric}"] if saving.best else []
    yield (
        "checkpoints",
        ", ".join(times) + (f"; the last {saving.keep} stay" if saving.keep else "; all stay"),
    )
    if config.data.validation is not None:
        yield "validation", f"every {_epochs(config.data.validation.every_n_epochs)}"
    if train.evaluation is not None:
        how = train.evaluation
        yield "evaluation", f"{how.episodes} episodes of {how.env} every {_epochs(how.every_n_epochs)}"
    yield "loggers", ", ".join(logger.type for logger in train.loggers) or "metrics.jsonl alone"


def _epochs(count: int) -> str:
    return "epoch" if count == 1 else f"{count:,} epochs"


def _time(checked: CheckedConfig, data: Data, parts: Outline, proof: Proof | None) -> Rows:
    """Return memory of an update and time of an epoch, as far as they can be told."""
    from trainer.engine.outline import flops_per_second

    memory = parts.memory
    listed = ", ".join(f"{name} {count_short(size)}B" for name, size in memory.items())
    unknown = (
        f"; activations are not known, as the loss needs real numbers: {parts.why_not}"
        if parts.step is None and parts.why_not
        else ""
    )
    rows = [("memory of a rank", f"about {count_short(sum(memory.values()))}B: {listed}{unknown}")]
    micro_batches = checked.config.train.accumulate_grad_batches
    if proof is not None:
        seconds = proof.seconds_per_update * data.steps_per_epoch
        how = f"{proof.seconds_per_update:.2g} s an update, measured with up to {proof.pace_samples} samples"
        rows.append(("time of an epoch", f"about {duration(seconds)} on this CPU in fp32: {how}"))
    elif parts.step is not None:
        rate = flops_per_second()
        seconds = parts.step.flops * micro_batches * data.steps_per_epoch / rate
        how = f"{count_short(parts.step.flops * micro_batches)}FLOP an update at {count_short(rate)}FLOP/s"
        rows.append(("time of an epoch", f"at least {duration(seconds)} on this CPU: {how}"))
    else:
        rows.append(("time of an epoch", "not known; --prove measures it"))
    return rows


def _print(settings: Rows, parts: Outline) -> None:
    for line in _component_table(parts):
        click.echo(line)
    click.echo("")
    for line in table(settings, width=terminal_width()):
        click.echo(line)
    click.echo("")
    header = ("batch of a rank", "shape", "dtype", "in units", "as the policy gets it")
    for line in table([header, *(_entry(entry) for entry in parts.batch)], width=terminal_width()):
        click.echo(line)


def _entry(entry: Entry) -> tuple[str, ...]:
    shape = "(" + ", ".join(map(str, entry.shape)) + ("," if len(entry.shape) == 1 else "") + ")"
    return entry.key, shape, entry.dtype, _range(entry.raw), _range(entry.ready)


def _range(values: tuple[float, float] | None) -> str:
    return "" if values is None else f"{values[0]:.4g} to {values[1]:.4g}"


def _print_rest(times: Rows, proof: Proof | None, why: str) -> None:
    click.echo("")
    for line in table(times, width=terminal_width()):
        click.echo(line)
    click.echo("")
    if proof is None:
        click.echo(f"Not proved: {why}.")
    else:
        made = f"{proof.updates} updates of {proof.samples} samples on the CPU in {proof.seconds:.1f} s"
        click.echo(f"Proved by {made} ({why}):")
        rows = [(claim.verdict, claim.text, claim.measured) for claim in proof.claims]
        for line in table(rows, width=terminal_width()):
            click.echo(line)
        named = {"holds": "hold", "does not apply": "do not apply", "fails": "fail"}
        counts = [f"{sum(c.verdict == v for c in proof.claims)} {text}" for v, text in named.items()]
        click.echo(f"Claims: {', '.join(counts)}")


def _plain(settings: Rows, parts: Outline, proof: Proof | None, why: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "settings": dict(settings),
        "components": [asdict(part) for part in parts.parts],
        "batch": [asdict(entry) for entry in parts.batch],
        "memory_bytes": parts.memory,
        "flops_per_micro_batch": None if parts.step is None else parts.step.flops,
        "proved": proof is not None,
        "why": why,
        "claims": [claim.plain() for claim in proof.claims] if proof else [],
    }
