"""Runs a function as the ranks of a Ray cluster, shows what they say, and passes signals on to them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import click

from trainer.runtime import rank_monitor as lookout
from trainer.runtime.connect import RANK_TIMEOUT
from trainer.runtime.rank_monitor import Loss, Place, RankLost

# So often a cluster may fail to give us the workers that we ask for; Ray waits a minute each time.
_PATIENCE_MINUTES = 10
_PASSED_ON = (
    "WANDB_",
    "OMP_",
    "MKL_",
    "NCCL_",
    "GLOO_",
    "PYTORCH_",
    "CUBLAS_",
    "HF_",
    "MUJOCO_",
    "TOKENIZERS_",
)


class RayError(ValueError):
    """Ray is not there, or does not give what was asked of it; the text says what to do."""


class Interrupted(Exception):
    """A signal that came before the ranks began.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} before anything was trained")
        self.number = number


@dataclass(frozen=True)
class RayJob:
    """What runs on the cluster.

    Attributes:
        work: a function of an importable module; every rank calls it with `argument`. It returns plain
            values, of which those of rank 0 are the result.
        argument: plain values.
        ask_to_stop: called in a rank's process with the number of a signal that came where the job began.
        num_workers: number of ranks.
        address: `auto`, `host:port` or `ray://host:port` of a cluster; None starts one on this machine.
        max_failures: how often the ranks are started again after one was lost.
        cpus_per_worker: CPU cores, and threads, of a rank; None shares this machine's among its ranks, and
            asks for one elsewhere.
        use_gpu: a GPU for each rank; None where the cluster has that many.
        environment: names of further environment variables that the ranks need.
    """

    work: Callable[[Any], Any]
    argument: Any
    ask_to_stop: Callable[[int], None]
    num_workers: int = 1
    address: str | None = None
    max_failures: int = 3
    cpus_per_worker: int | None = None
    use_gpu: bool | None = None
    environment: list[str] = field(default_factory=list)


def run_on_ray(job: RayJob) -> Any:
    """Run a job and return what rank 0 returned.

    The first SIGTERM or SIGINT is passed on to the ranks, the second ends this process. Only a cluster that
    was started here is shut down.

    Raises:
        RayError: Ray is not installed, the cluster is not there or has not enough to offer.
        RankLost: ranks were lost more often than `max_failures`; it names the last one.
        Interrupted: a signal came before the ranks began.
    """
    ray = _import_ray()
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    # Ray itself talks on stdout of workers that died; what is worth knowing of that, we say.
    signals: list[int] = []
    # Ray takes SIGTERM for itself as it starts, so it is asked for again afterwards.
    with contextlib.ExitStack() as stack:
        stack.enter_context(_noted(signals))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_cluster(ray, job))
        stack.enter_context(_noted(signals))
        if signals:
            raise Interrupted(signals[0])
        use_gpu = _enough(ray, job)
        workers = f"{job.num_workers} worker{'s' * (job.num_workers > 1)}"
        place = f"the Ray cluster at {job.address}" if job.address else "a Ray cluster of their own"
        click.echo(f"Starting {workers} on {place}.", err=True)
        board = ray.remote(num_cpus=0, max_concurrency=1000)(Board).remote()
        reader = threading.Thread(target=_show, args=(ray, board, streams), daemon=True)
        reader.start()
        ending: list[Any] = []
        with tempfile.TemporaryDirectory(prefix="trainer-ray-") as folder:
            trainer = _torch_trainer(ray, job, board, use_gpu, folder)
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
                    os.write(2, b"\nStopped at once; what was saved before is whole.\n")
                    os._exit(128 + signals[1])
                if len(signals) > told:
                    told = len(signals)
                    board.stop.remote(signals[0])
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(board.close.remote(), timeout=10)
            reader.join(5)
        (result,) = ending
        if isinstance(result, Exception):
            raise _explained(ray, result, board, job) from result
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


def _import_ray() -> Any:
    quiet = {
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same as without Ray
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.train
        import ray.train.torch
    except ImportError as error:
        raise RayError(f"Ray is not installed ({error}); pip install 'trainer[ray]'") from None
    return ray


@contextlib.contextmanager
def _cluster(ray: Any, job: RayJob) -> Iterator[None]:
    """Join the cluster that the job names, or start one; leave or end it."""
    if ray.is_initialized():
        yield
        return
    if job.address and ":" in job.address:
        _check_reachable(job.address)
    cores = os.cpu_count() or 1
    own = {
        "address": "local",  # also where the environment names a cluster
        "num_cpus": max(cores, job.num_workers * (job.cpus_per_worker or 1)),
        "include_dashboard": False,
    }
    environment = {**_environment(job), "PYTHONPATH": os.pathsep.join(_search_path())}
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(
                **({"address": job.address} if job.address else own),
                **options,
                runtime_env={"env_vars": environment},
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            place = f"the Ray cluster at '{job.address}'" if job.address else "a Ray cluster on this machine"
            reason = " ".join(str(error).split())[:300]
            hint = ""
            if job.address and "RAY_AUTH_MODE" not in os.environ:
                # Ray sends the token of ~/.ray to a named address only where it is told to.
                hint = "; if it asks for a token, set RAY_AUTH_MODE=token"
            raise RayError(f"{place} cannot be used: {reason or type(error).__name__}{hint}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself takes a minute to find out that nobody is there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise RayError(f"there is no Ray cluster at '{address}': {error}") from None


def _environment(job: RayJob) -> dict[str, str]:
    """Return the variables that workers on any machine must have as we have them."""
    return {n: v for n, v in os.environ.items() if n.startswith(_PASSED_ON) or n in job.environment}


def _search_path() -> list[str]:
    """Return where our modules and the user's are, without what comes with the interpreter."""
    import model_constructor

    import trainer

    installed = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix)}
    packages = [str(Path(str(m.__file__)).resolve().parents[1]) for m in (trainer, model_constructor)]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    found = [os.path.abspath(p) for p in (*sys.path, *given) if p and os.path.isdir(p)]
    found = [p for p in found if not any(parent in installed for parent in Path(p).resolve().parents)]
    return list(dict.fromkeys([*packages, *found, os.getcwd()]))


def _enough(ray: Any, job: RayJob) -> bool:
    """Decide on GPUs; warn where the cluster has less than is asked for, refuse where it cannot grow."""
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    use_gpu = gpus >= job.num_workers if job.use_gpu is None else job.use_gpu
    cpus = job.num_workers * (job.cpus_per_worker or 1)
    short = [f"{cpus} CPUs"] * (has.get("CPU", 0) < cpus)
    short += [f"{job.num_workers} GPUs"] * (use_gpu and gpus < job.num_workers)
    if short:
        text = f"{job.num_workers} workers need {' and '.join(short)}; the cluster has "
        text += f"{int(has.get('CPU', 0))} CPUs and {gpus} GPUs"
        if job.address is None:
            raise RayError(text)
        click.echo(f"Warning: {text}. Waiting {_PATIENCE_MINUTES} minutes for it to grow.", err=True)
    return use_gpu


def _torch_trainer(ray: Any, job: RayJob, board: Any, use_gpu: bool, folder: str) -> Any:
    cores = job.cpus_per_worker
    if cores is None:
        cores = max(1, (os.cpu_count() or 1) // job.num_workers) if job.address is None else 1
    live = sys.stderr.isatty()
    columns, lines = os.get_terminal_size(sys.stderr.fileno()) if live else (0, 0)
    settings = {
        "job": job,
        "board": board,
        "cwd": os.getcwd(),
        "live": live,
        "terminal": {"COLUMNS": str(columns), "LINES": str(lines)} if live else {},
    }
    return ray.train.torch.TorchTrainer(
        _as_rank,
        train_loop_config=settings,
        torch_config=ray.train.torch.TorchConfig(timeout_s=int(RANK_TIMEOUT.total_seconds())),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cores, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(
                max_failures=job.max_failures, controller_failure_limit=_PATIENCE_MINUTES - 1
            ),
            callbacks=[_failures(board, job.max_failures)],
        ),
    )


def _failures(board: Any, limit: int) -> Any:
    from ray.train import UserCallback

    class Failures(UserCallback):
        """Says in Ray's controller that ranks are started again."""

        count = 0

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            self.count += 1
            failed = {rank: _reason(error) for rank, error in worker_exceptions.items()}
            board.failed.remote(failed, f"starting again, {self.count} of {limit}", self.count <= limit)

    return Failures()


def _as_rank(settings: dict[str, Any]) -> Any:
    """Do the work of one rank, in a process of the cluster."""
    import ray

    job: RayJob = settings["job"]
    board = settings["board"]
    rank = int(os.environ["RANK"])
    place = Place(rank, socket.gethostname(), os.getpid())
    os.environ.update(settings["terminal"])
    ray.get(board.join.remote(place))
    lookout.report_loss = lambda loss: board.lost.remote(loss)

    def listen() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            job.ask_to_stop(ray.get(board.wish.remote()))

    threading.Thread(target=listen, daemon=True).start()
    out, err = (Relay(board, name, settings["live"]) for name in ("stdout", "stderr"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            os.chdir(settings["cwd"])
            return job.work(job.argument)
        except RankLost:
            raise
        except Exception as error:
            traceback.print_exc()
            loss = Loss(place, f"{type(error).__name__}: {error}", worded=True)
            raise RankLost(loss) from None
        finally:
            out.flush()
            err.flush(wait=True)


class Relay(io.TextIOBase):
    """A stream whose text appears where the job was started.

    Args:
        board: takes the text there.
        name: `stdout` or `stderr`.
        live: it appears on a terminal.
    """

    encoding = "utf-8"  # progress bars then draw blocks

    def __init__(self, board: Any, name: str, live: bool) -> None:
        self._board, self._name, self._live = board, name, live
        self._text = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Say whether a terminal shows the text."""
        return self._live

    def write(self, text: str) -> int:
        """Keep text until a line ends or somebody flushes."""
        with self._lock:
            self._text += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self, wait: bool = False) -> None:
        """Send what was kept.

        Args:
            wait: until it has arrived.
        """
        import ray

        with self._lock:
            text, self._text = self._text, ""
        if text or wait:
            sent = self._board.say.remote(self._name, text)
            if wait:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(sent, timeout=5)


class Board:
    """An actor on which the ranks, and who started them, leave messages for each other."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []
        self._news, self._wish, self._closed = asyncio.Event(), asyncio.Event(), False
        self._number = 0
        self._places: dict[int, Place] = {}
        self._loss: Loss | None = None
        self._heard: Loss | None = None

    async def join(self, place: Place) -> None:
        """Note where a rank runs."""
        self._places[place.rank] = place
        self._heard = None

    async def lost(self, loss: Loss) -> None:
        """Note which rank the others miss."""
        self._heard = self._heard or loss

    async def stop(self, number: int) -> None:
        """Wish the ranks to stop, on account of a signal."""
        self._number = number
        self._wish.set()

    async def wish(self) -> int:
        """Return the number of the signal on which to stop, when it comes."""
        await self._wish.wait()
        return self._number

    async def say(self, stream: str, text: str) -> None:
        """Leave text for whoever started the ranks."""
        self._texts.append((stream, text))
        self._news.set()

    async def read(self) -> list[tuple[str, str]] | None:
        """Return the text since the last call, when there is any; None when no more will come."""
        while not self._texts and not self._closed:
            self._news.clear()
            await self._news.wait()
        texts, self._texts = self._texts, []
        return texts or None

    async def close(self) -> None:
        """Tell the reader that no more will come."""
        self._closed = True
        self._news.set()

    async def failed(self, reasons: dict[int, Loss | str], then: str, again: bool) -> None:
        """Note which ranks are lost and why; say it, if they are started again."""
        losses = [self._heard] if self._heard else [r for r in reasons.values() if isinstance(r, Loss)]
        if not losses:
            rank, why = next((rank, str(why)) for rank, why in reasons.items())
            losses = [Loss(self._places.get(rank, Place(rank, "unknown", 0)), why)]
        self._loss = losses[0]
        if again:
            await self.say("stderr", f"\n{self._loss}. All ranks are {then}.\n")

    async def loss(self) -> Loss | None:
        """Return the last rank that was lost."""
        return self._loss


def _reason(error: Exception) -> Loss | str:
    """Return what the loss of a rank came from, as it says itself or as Ray has seen it."""
    if isinstance(error, RankLost):
        return error.loss
    text = " ".join(str(error).split())
    if "node running low on memory" in text or "OutOfMemory" in text:
        return "Ray ended its process, because the memory of its machine was nearly used up"
    if "node has died" in text or "node was terminated" in text:
        return "its machine is gone"
    if "died" in text or "dead" in text:
        return "its process ended without a word, as when it is killed"
    return text[:500]


def _explained(ray: Any, error: Exception, board: Any, job: RayJob) -> Exception:
    """Return the error of a job in words of ours."""
    loss = None
    with contextlib.suppress(ray.exceptions.RayError):
        loss = ray.get(board.loss.remote(), timeout=10)
    failures = getattr(error, "worker_failures", None)
    if failures and loss is not None:
        return RankLost(loss)
    text = " ".join(str(getattr(error, "controller_failure", error)).split())[:500]
    if "timed out" in text and "workers" in text:
        return RayError(f"the cluster did not give this run its {job.num_workers} workers")
    return RayError(f"Ray could not run the workers: {text}")


def _show(ray: Any, board: Any, streams: dict[str, Any]) -> None:
    """Write what the ranks say to our own streams."""
    with contextlib.suppress(ray.exceptions.RayError):
        while (texts := ray.get(board.read.remote())) is not None:
            for name, text in texts:
                streams[name].write(text)
                streams[name].flush()


@contextlib.contextmanager
def _noted(came: list[int]) -> Iterator[None]:
    """Add the signals that come to a list; the first is answered with a sentence."""

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            os.write(2, b"\nStopping after this step; a second signal stops at once.\n")

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        before = {}  # not in the main thread: whoever runs us there handles signals
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
