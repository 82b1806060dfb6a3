"""Which rank was lost and why, in words of ours, from what Ray tells."""

from __future__ import annotations

import contextlib
from typing import Any

from trainer.runtime.rank_loss import Loss, RankLost
from trainer.runtime.ray.job import RayError, RayJob


def failure_callback(mailbox: Any, limit: int) -> Any:
    """Return a callback that says in Ray's controller that ranks are started again, `limit` times at most."""
    from ray.train import UserCallback

    class Failures(UserCallback):
        """Counts the failures and passes them on."""

        count = 0

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            self.count += 1
            failed = {rank: reason_of(error) for rank, error in worker_exceptions.items()}
            then = f"starting again, {self.count} of {limit}"
            mailbox.note_failures.remote(failed, then, self.count <= limit)

    return Failures()


def reason_of(error: Exception) -> Loss | str:
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


def explained(ray: Any, error: Exception, mailbox: Any, job: RayJob) -> Exception:
    """Return the error of a job in words of ours."""
    loss = None
    with contextlib.suppress(ray.exceptions.RayError):
        loss = ray.get(mailbox.last_loss.remote(), timeout=10)
    failures = getattr(error, "worker_failures", None)
    if failures and loss is not None:
        return RankLost(loss)
    text = " ".join(str(getattr(error, "controller_failure", error)).split())[:500]
    if "timed out" in text and "workers" in text:
        return RayError(f"the cluster did not give this run its {job.num_workers} workers")
    return RayError(f"Ray could not run the workers: {text}")
