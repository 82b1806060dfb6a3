"""The lock of a run folder belongs to the process that trains, not to whoever it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from trainer.checkpoint import lock
from trainer.checkpoint.lock import only_writer
from trainer.utils.errors import TrainingFault

HOLDING = """
    import os, sys, time
    from pathlib import Path
    from trainer.checkpoint.lock import only_writer
    with only_writer(Path(sys.argv[1])):
        worker = os.fork()  # as a loader worker that hangs
        if worker == 0:
            time.sleep(600)
        print(worker, flush=True)
        time.sleep(600)
"""


def test_a_worker_that_outlives_the_trainer_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.5)
    command = [sys.executable, "-c", textwrap.dedent(HOLDING), str(tmp_path)]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    worker = int(trainer.stdout.readline())
    try:
        with pytest.raises(TrainingFault, match=f"process {trainer.pid} is training into"):  # noqa: SIM117
            with only_writer(tmp_path):
                pass
        assert (tmp_path / lock.LOCK).exists(), "who is refused takes nothing away"
        trainer.kill()
        trainer.wait()
        with only_writer(tmp_path):
            assert Path(f"/proc/{worker}").exists()
    finally:
        trainer.kill()
        trainer.wait()
        os.kill(worker, signal.SIGKILL)


def test_a_forked_process_that_ends_leaves_the_lock_with_the_trainer(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        worker = os.fork()
        if worker == 0:
            os._exit(0)
        os.waitpid(worker, 0)
        command = [sys.executable, "-c", "import fcntl, sys; fcntl.flock(open(sys.argv[1]), 6)"]
        other = subprocess.run([*command, str(tmp_path / lock.LOCK)], capture_output=True, check=False)
        assert b"BlockingIOError" in other.stderr


def test_who_waits_for_a_run_that_leaves_nothing_has_a_folder_and_a_lock_of_his_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tried, locked = threading.Event(), []

    def wait() -> None:
        tried.set()
        with only_writer(run):
            locked.append(os.stat(run / lock.LOCK).st_ino)
            command = [sys.executable, "-c", "import fcntl, sys; fcntl.flock(open(sys.argv[1]), 6)"]
            other = subprocess.run([*command, str(run / lock.LOCK)], capture_output=True, check=False)
            locked.append(b"BlockingIOError" in other.stderr)

    waiting = threading.Thread(target=wait)
    with only_writer(run):
        waiting.start()
        tried.wait()
        time.sleep(0.3)
    waiting.join()
    assert locked[1:] == [True]
