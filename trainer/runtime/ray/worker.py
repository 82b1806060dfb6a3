"""What a worker of the cluster does to be one rank of the job."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import traceback
from typing import Any

from trainer.runtime.rank_loss import Loss, Place, RankLost
from trainer.runtime.ray.job import RayJob
from trainer.runtime.ray.mailbox import Relay
from trainer.utils.log import log


def run_as_rank(settings: dict[str, Any]) -> Any:
    """Do the work of one rank, in a process of the cluster."""
    import ray

    job: RayJob = settings["job"]
    mailbox = settings["mailbox"]
    rank = int(os.environ["RANK"])
    place = Place.here(rank)
    os.environ.update(settings["terminal"])
    ray.get(mailbox.note_place.remote(place))

    def shown_here(record: logging.LogRecord) -> bool:
        """Hand the loss of a rank on to whoever started the ranks, who tells the user of it."""
        loss = getattr(record, "loss", None)
        if loss is not None:
            mailbox.note_loss.remote(loss)
        return loss is None

    log.addFilter(shown_here)

    def listen() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            job.ask_to_stop(ray.get(mailbox.stop_signal.remote()))

    threading.Thread(target=listen, daemon=True).start()
    out, err = (Relay(mailbox, name, settings["live"]) for name in ("stdout", "stderr"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            os.chdir(settings["cwd"])
            return job.work(job.argument)
        except RankLost:
            raise
        except Exception as error:
            traceback.print_exc()
            raise RankLost(Loss.of(place, error)) from None
        finally:
            out.flush()
            err.flush(wait=True)
