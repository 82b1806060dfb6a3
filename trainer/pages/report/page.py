"""The page: everything the run folder says, put into the templates beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.pages.parts.render import render_page
from trainer.pages.report.curves import by_env, estimate_curves, training_clock, training_curves
from trainer.pages.report.first_batch import read_first_batch
from trainer.pages.report.media import VIDEO_BUDGET_BYTES, collect_rollouts
from trainer.pages.report.run_folder import Component, Evaluation, ReportError, Run, read_run
from trainer.pages.report.yaml_text import coloured_yaml
from trainer.utils import text
from trainer.utils.files import whole_file

PAGE = Path(__file__).parent / "page"
# A report of a run that took part in thousands of evaluations lists the newest of them.
_MAX_EVALUATION_ROWS = 200


def build_report(run: Path, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a run and return its path.

    Args:
        run: the run folder (`save_dir`); every file in it may be missing, damaged or still growing.
        out: the page to write, `<run>/report.html` by default.

    Raises:
        ReportError: `run` is no run folder, or the page cannot be written.
    """
    page = render_page(PAGE, "report.html", _content(read_run(run)), {"yaml": coloured_yaml})
    return write_page(page, out if out is not None else run / "report.html")


def write_page(page: str, target: Path) -> Path:
    """Write a page, whole or not at all, and return its path.

    Raises:
        ReportError: it cannot be written.
    """
    try:
        with whole_file(target) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"The report {target} cannot be written: {error.strerror}.") from error
    return target


def _content(run: Run) -> dict[str, Any]:
    last_step = run.metrics.last_step if run.metrics else None
    verdicts = run.verdicts
    clock = training_clock(run.metrics, run.info.samples_per_step if run.info else None)
    curves = training_curves(run.metrics, run.validations, clock) if run.metrics else ()
    features = run.dataset.features if run.dataset else ()
    return {
        "run": run,
        "title": (run.info and run.info.name) or run.folder.resolve().name,
        "status": status(run),
        "verdicts": verdicts,
        "machine": _machine(run),
        "memory": memory_taken(run),
        "totals": parameter_totals(run.info.components if run.info else ()),
        "curves": curves,
        "windows": sorted({c.window for group in curves for c in group.charts if c.window > 1}),
        "metrics_notes": _metrics_notes(run),
        "evaluation_charts": estimate_curves(by_env(run.evaluations), last_step, clock=clock),
        "evaluation_rows": run.evaluations[-_MAX_EVALUATION_ROWS:],
        "rollouts": [
            (verdict, collect_rollouts(verdict.episodes, VIDEO_BUDGET_BYTES // len(verdicts)))
            for verdict in verdicts
        ],
        "first_batch": read_first_batch(run.folder / "first_batch.npz", features),
        "commands": _commands(run, verdicts),
    }


def status(run: Run) -> str:
    """Return one sentence on how far the training came."""
    info, done = run.info, run.metrics.steps_done if run.metrics else None
    if info is None:
        return "run.json is missing, so it is not known when and how this run was started."
    total = info.steps_per_epoch * info.epochs if info.steps_per_epoch and info.epochs else None
    if info.finished is not None:
        count = total if total is not None else done
        steps = f" after {text.number(count)} steps" if count is not None else ""
        return f"Finished {info.finished:%Y-%m-%d %H:%M}{steps}."
    if done is None:
        return "Not finished: in progress or interrupted, no step recorded so far."
    of_total = f" of {text.number(total)}" if total else ""
    return f"Not finished: in progress or interrupted, {text.number(done)}{of_total} steps recorded."


def memory_taken(run: Run) -> str | None:
    """Write the most memory that the first process of a run took; None where it is not known."""
    peak = run.info.peak_memory if run.info else {}
    words = {"host": "", "gpu": " of the GPU"}
    told = [f"{text.number(peak[key] / 1e9, 3)} GB{what}" for key, what in words.items() if key in peak]
    return ", ".join(told) or None


_MACHINE_NAMES = {"cpu": "CPU", "cores": "Cores", "memory_gb": "Memory", "gpu": "GPU", "threads": "Threads"}
_MACHINE_UNITS = {"memory_gb": " GB"}


def _machine(run: Run) -> list[tuple[str, str]]:
    facts = run.info.machine.items() if run.info else ()
    return [(_MACHINE_NAMES.get(key, key), value + _MACHINE_UNITS.get(key, "")) for key, value in facts]


def parameter_totals(components: Sequence[Component]) -> dict[str, int]:
    """Return how many parameters the components have, and how many of them are trained."""
    return {
        "parameters": sum(component.parameters or 0 for component in components),
        "trainable": sum(component.trainable or 0 for component in components),
    }


def _metrics_notes(run: Run) -> list[str]:
    metrics = run.metrics
    if metrics is None:
        return []
    notes = []
    if metrics.truncated:
        notes.append(
            "The last line of metrics.jsonl is incomplete and left out, as a run leaves it that was killed."
        )
    if metrics.unreadable:
        notes.append(f"{metrics.unreadable:,} line(s) of metrics.jsonl are no records and are left out.")
    if metrics.replaced:
        notes.append(
            f"The run was resumed from an earlier step; {metrics.replaced:,} superseded record(s) left out."
        )
    return notes


def _commands(run: Run, verdicts: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """Return what to type, each with what it does."""
    commands = []
    info = run.info
    if info is not None and info.revision:
        commands.append(("Go to the code of this run", text.shell(["git", "checkout", info.revision])))
    if info is not None and info.command:
        commands.append(("Train", text.shell(_launch(info.command, info.world_size or 1))))
    for verdict in verdicts:
        if verdict.checkpoint is None or verdict.count is None:
            continue
        # An evaluation during the training names its checkpoint within the run folder.
        inside = (run.folder / Path(verdict.checkpoint).name).is_dir() or "/" not in verdict.checkpoint
        checkpoint = str(run.folder / Path(verdict.checkpoint).name) if inside else verdict.checkpoint
        words = ["trainer", "evaluate", checkpoint, "--env", verdict.env]
        words += ["--episodes", str(verdict.count)]
        words += ["--seed", str(verdict.seed)] if verdict.seed is not None else []
        steps, m = verdict.n_action_steps, verdict.temporal_ensembling
        if m is not None:
            words += ["--temporal-ensembling", f"{m:g}"]
        else:
            words += ["--n-action-steps", str(steps)] if steps is not None else []
        words += ["--dataset", verdict.dataset] if verdict.dataset is not None else []
        commands.append((f"Evaluate on {verdict.env}", text.shell(words)))
    return commands


def _launch(command: Sequence[str], world_size: int) -> list[str]:
    """Put the launcher before a bare script: a process knows its own arguments, not what started it."""
    words = list(command)
    if len(words) > 1 and Path(words[0]).name.startswith("python") and words[1].endswith(".py"):
        words = words[1:]
    is_script = words[0].endswith(".py")
    if world_size > 1 and words[0] != "torchrun":
        # A console command is no Python file: torchrun has to be told.
        return [
            "torchrun",
            f"--nproc_per_node={world_size}",
            *(() if is_script else ("--no-python",)),
            *words,
        ]
    return ["python", *words] if is_script else words
