"""Who works beside the learner: the replay buffer, the policy state manager and the rollout workers."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.config.schemas import ExperimentConfig
from trainer.data.errors import DatasetError
from trainer.online.actors import MANAGER, REPLAY, lasting_actor
from trainer.online.remote import result_of
from trainer.online.replay import DATASET, JOURNAL, ReplayBuffer
from trainer.online.state_manager import PolicyStateManagerActor
from trainer.online.status import Status
from trainer.online.worker import RolloutWorkerActor, WorkerSettings
from trainer.utils.errors import UsageError
from trainer.utils.log import log

FOLDER = "online"
"""Of the run folder: what the actors keep."""

_LOOK_SECONDS = 2.0
_SAY_SECONDS = 15.0
_CLOSING_SECONDS = 300.0


class Team:
    """Starts everybody, looks after them while the ranks train, and says how it goes; a context manager.

    Ray starts an actor again that is lost, and a worker's `run` is called again then; what a worker raises
    ends the run.

    Args:
        config: with an `online` section.
        run: the run folder.

    Raises:
        UsageError: when entered: a run of the same namespace is there already, or an actor cannot begin.
    """

    def __init__(self, config: ExperimentConfig, run: Path) -> None:
        assert config.online is not None
        self._config, self._online, self._folder = config, config.online, run / FOLDER
        self._failure: Exception | None = None
        self._over = threading.Event()
        self._workers: list[Any] = []
        self._running: dict[Any, Any] = {}

    @property
    def failure(self) -> Exception | None:
        """Why the ranks had better stop, or None."""
        return self._failure

    def __enter__(self) -> Team:
        import ray

        self._ray = ray
        online, place = self._online, self._online.placement
        flow = {
            "start_windows": online.start_windows or self._config.data.batch_size,
            "update_ratio": online.update_ratio,
            "update_slack": online.update_slack,
        }
        self._replay = self._start(
            REPLAY,
            ReplayBuffer,
            place.replay_buffer,
            self._folder,
            online.replay.model_dump(),
            self._config.run_seed,
            expert_budget=online.expert_budget,
            **flow,
        )
        self._manager = self._start(
            MANAGER, PolicyStateManagerActor, place.policy_state_manager, self._folder
        )
        result_of(self._replay.counts.remote(), "the replay buffer")
        result_of(self._manager.version.remote(), "the policy state manager")
        for index in range(online.workers.count):
            settings = WorkerSettings.of(self._config, self._config.collecting_env or "", index)
            self._workers.append(self._start(settings.name, RolloutWorkerActor, place.workers, settings))
        self._running = {one.run.remote(): one for one in self._workers}
        self._status = Status(self._online)
        self._watcher = threading.Thread(target=self._watch, name="team", daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the workers end, and what was collected become a dataset."""
        self._over.set()
        self._watcher.join()
        with contextlib.suppress(self._ray.exceptions.RayError):
            for worker in self._workers:
                worker.stop.remote()
            self._ray.wait(list(self._running), num_returns=len(self._running) or 1, timeout=30)
            self._look()
            for worker in self._workers:
                self._ray.kill(worker)
        self._compact()
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._manager.close.remote(), timeout=_CLOSING_SECONDS)
        log.info(self._status.summary())
        for actor in (self._replay, self._manager):
            self._ray.kill(actor)

    def _start(self, name: str, cls: type, resources: dict[str, float], *arguments: Any, **named: Any) -> Any:
        """Start a named actor that Ray starts again whenever it is lost."""
        try:
            return lasting_actor(name, cls, resources).remote(*arguments, **named)
        except ValueError as error:
            if "already" not in str(error):
                raise
            raise UsageError(
                f"there is an actor '{name}' on this cluster already, of another online run; give this one a "
                "--namespace of its own"
            ) from None

    def _compact(self) -> None:
        """Let what was collected become a dataset; where that fails, it is said, and the journal has all."""
        try:
            counts = result_of(self._replay.counts.remote(), "the replay buffer", _CLOSING_SECONDS)
            if counts.episodes:
                log.info(f"Writing {counts.episodes} collected episodes to {self._folder / DATASET}.")
                written = self._replay.compact.remote()
                while not self._ray.wait([written], timeout=_CLOSING_SECONDS)[0]:
                    result_of(self._replay.counts.remote(), "the replay buffer", _CLOSING_SECONDS)
                result_of(written, "the replay buffer")
        except (DatasetError, UsageError, OSError, self._ray.exceptions.RayError) as problem:
            log.warning(
                f"What was collected is not written as a dataset ({problem}); all of it is in "
                f"{self._folder / JOURNAL}, and the next run in this folder writes it."
            )

    def _watch(self) -> None:
        """Look after the workers and say how it goes, until it is over."""
        said = time.monotonic()
        while not self._over.wait(_LOOK_SECONDS) and self._failure is None:
            try:
                self._look()
                if time.monotonic() - said >= _SAY_SECONDS:
                    said = time.monotonic()
                    log.info(self._status.line())
            except self._ray.exceptions.RayError as error:
                log.debug(f"the actors do not answer: {error}")  # Ray is starting one again

    def _look(self) -> None:
        """Take in what the workers report; call those again whose `run` was cut off."""
        ended, _ = self._ray.wait(list(self._running), num_returns=len(self._running) or 1, timeout=0)
        for call in ended:
            worker = self._running.pop(call)
            try:
                result_of(call, "a rollout worker")
            except self._ray.exceptions.RayActorError:
                if not self._over.is_set():
                    log.warning("A rollout worker was lost; it begins new episodes.")
                    self._running[worker.run.remote()] = worker
            except Exception as error:
                self._failure = error
        reports = [worker.report.remote() for worker in self._workers]
        there, _ = self._ray.wait(reports, num_returns=len(reports) or 1, timeout=_LOOK_SECONDS)
        for report in there:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._status.add(self._ray.get(report))
        counts, version = self._replay.counts.remote(), self._manager.version.remote()
        there, _ = self._ray.wait([counts, version], num_returns=2, timeout=_LOOK_SECONDS)
        if len(there) == 2:
            self._status.note(self._ray.get(counts), self._ray.get(version))
