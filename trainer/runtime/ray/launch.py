"""Runs a job as the ranks of a Ray cluster, shows what they say, and passes signals on to them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.runtime.connect import RANK_TIMEOUT
from trainer.runtime.ray.cluster import PATIENCE_MINUTES, cluster, import_ray, use_gpus
from trainer.runtime.ray.failures import explained, failure_callback
from trainer.runtime.ray.job import Interrupted, RayJob
from trainer.runtime.ray.mailbox import Mailbox, show
from trainer.runtime.ray.worker import run_as_rank
from trainer.runtime.signals import STOP_SIGNALS, ignored_on_purpose
from trainer.utils.log import ForgivingStream, log, log_to_stderr, write_at_once


def run_on_ray(job: RayJob) -> Any:
    """Run a job and return what rank 0 returned.

    The first signal that asks to stop is passed on to the ranks, the second ends this process. Only a cluster
    that was started here is shut down.

    Raises:
        Exception: the failure of what runs beside the ranks; they have saved and stopped.
        RayError: Ray is not installed, the cluster is not there or has not enough to offer.
        RankLost: ranks were lost more often than `max_failures`; it names the last one.
        Interrupted: a signal came before the ranks began.
    """
    log_to_stderr()
    ray = import_ray(own_cluster=job.address is None)
    streams = {"stdout": ForgivingStream(sys.stdout), "stderr": ForgivingStream(sys.stderr)}
    # Ray itself talks on stdout of workers that died; what is worth knowing of that, we say.
    signals: list[int] = []
    # Ray takes SIGTERM for itself as it starts, so it is asked for again afterwards.
    with contextlib.ExitStack() as stack:
        stack.enter_context(_noted_signals(signals))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        where = "Starting Ray on this machine" if job.address is None else f"Joining Ray at {job.address}"
        log.info(f"{where}, which takes some seconds.")
        stack.enter_context(cluster(ray, job))
        stack.enter_context(_noted_signals(signals))
        if signals:
            raise Interrupted(signals[0])
        use_gpu = use_gpus(ray, job)
        beside = None if job.beside is None else stack.enter_context(job.beside())
        workers = f"{job.num_workers} worker{'s' * (job.num_workers > 1)}"
        place = f"the Ray cluster at {job.address}" if job.address else "a Ray cluster of their own"
        log.info(f"Starting {workers} on {place}.")
        mailbox = ray.remote(num_cpus=0, max_concurrency=1000)(Mailbox).remote()
        reader = threading.Thread(target=show, args=(ray, mailbox, streams), daemon=True)
        reader.start()
        ending: list[Any] = []
        with tempfile.TemporaryDirectory(prefix="trainer-ray-") as folder:
            trainer = _torch_trainer(ray, job, mailbox, use_gpu, folder)
            runner = threading.Thread(target=_fit, args=(trainer, ending), daemon=True)
            runner.start()
            told = 0
            while runner.is_alive():
                runner.join(0.1)
                if len(signals) > 1:
                    # Leaving Ray while it works can take the process with it, so what it started here is
                    # killed; on a cluster elsewhere a job goes when who asked for it does.
                    for process in _descendants() if job.address is None else ():
                        with contextlib.suppress(OSError):
                            os.kill(process, signal.SIGKILL)
                    shutil.rmtree(folder, ignore_errors=True)
                    write_at_once("\nStopped at once; what was saved before is whole.\n")
                    os._exit(128 + signals[1])
                if len(signals) > told:
                    told = len(signals)
                    mailbox.ask_to_stop.remote(signals[0])
                elif not told and beside is not None and beside.failure is not None:
                    told = 1
                    mailbox.ask_to_stop.remote(signal.SIGTERM)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(mailbox.close.remote(), timeout=10)
            reader.join(5)
        if beside is not None and beside.failure is not None:
            raise beside.failure
        (result,) = ending
        if isinstance(result, Exception):
            raise explained(ray, result, mailbox, job) from result
        return result


def _descendants() -> list[int]:
    """Return the processes that this one has started, and those that they have; none without /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def _fit(trainer: Any, ending: list[Any]) -> None:
    """Run the job; not in the main thread, where Ray would take the signals for itself."""
    try:
        ending.append(trainer.fit().return_value)
    except Exception as error:
        ending.append(error)


def _torch_trainer(ray: Any, job: RayJob, mailbox: Any, use_gpu: bool, folder: str) -> Any:
    cores = job.cpus_per_worker
    if cores is None:
        cores = max(1, (os.cpu_count() or 1) // job.num_workers) if job.address is None else 1
    live = ForgivingStream(sys.stderr).isatty()
    columns, lines = os.get_terminal_size(sys.stderr.fileno()) if live else (0, 0)
    settings = {
        "job": job,
        "mailbox": mailbox,
        "cwd": os.getcwd(),
        "live": live,
        "terminal": {"COLUMNS": str(columns), "LINES": str(lines)} if live else {},
    }
    return ray.train.torch.TorchTrainer(
        run_as_rank,
        train_loop_config=settings,
        torch_config=ray.train.torch.TorchConfig(timeout_s=int(RANK_TIMEOUT.total_seconds())),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cores, **({"GPU": 1} if use_gpu else {}), **job.resources},
        ),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(
                max_failures=job.max_failures, controller_failure_limit=PATIENCE_MINUTES - 1
            ),
            callbacks=[failure_callback(mailbox, job.max_failures)],
        ),
    )


@contextlib.contextmanager
def _noted_signals(came: list[int]) -> Iterator[None]:
    """Add the signals that come to a list; the first is answered with a sentence."""

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            write_at_once("\nStopping after this step; a second signal stops at once.\n")

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: whoever runs us there handles signals
        for number in STOP_SIGNALS:
            if not ignored_on_purpose(number):
                before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for stop_signal, handler in before.items():
            signal.signal(stop_signal, handler)
