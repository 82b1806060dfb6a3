"""The cluster on which a job runs: joined or started, and what it has to offer."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.runtime.ray.job import RayError, RayJob
from trainer.utils.log import log

# So often a cluster may fail to give us the workers that we ask for; Ray waits a minute each time.
PATIENCE_MINUTES = 10
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


def import_ray(own_cluster: bool = False) -> Any:
    """Return the module, made quiet.

    Args:
        own_cluster: a cluster is started on this machine, which nobody else is to reach: everything of it
            listens on the loopback address alone.

    Raises:
        RayError: Ray is not installed.
    """
    quiet = {
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same as without Ray
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    if own_cluster:
        quiet["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what Ray calls it; it is read on every system
        # Ray's own 15 lets everything else on the machine go first: a run then seems to hang for minutes.
        quiet["RAY_worker_niceness"] = "0"
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.train
        import ray.train.torch
    except ImportError as error:
        raise RayError(f"Ray is not installed ({error}); pip install 'trainer-il[ray]'") from None
    return ray


@contextlib.contextmanager
def cluster(ray: Any, job: RayJob) -> Iterator[None]:
    """Join the cluster that the job names, or start one; leave or end it."""
    if ray.is_initialized():
        yield
        return
    if job.address and ":" in job.address:
        check_reachable(job.address)
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
                namespace=job.namespace,
                runtime_env={"env_vars": environment},
            )
        except Exception as error:  # a node that does not come up in time is a bare one
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


def check_reachable(address: str) -> None:
    """Raise at once where nobody is there; Ray itself takes a minute to find out.

    Args:
        address: `host:port` or `ray://host:port`.

    Raises:
        RayError: nobody is.
    """
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


def use_gpus(ray: Any, job: RayJob) -> bool:
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
        log.warning(f"{text}. Waiting {PATIENCE_MINUTES} minutes for it to grow.")
    return use_gpu
