"""Saying something that perhaps nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import ROOT

from trainer.utils.log import EVERY_RANK, log, log_to_stderr

TALKING = """
import contextlib, os, sys
from trainer.utils.log import let_nobody_listen, log, log_to_stderr, write_at_once
from trainer.utils.progress import progress_bar
let_nobody_listen()
log_to_stderr()
with open(sys.argv[1], "w") as file:
    with progress_bar(3, "counting", mininterval=0) as bar:
        for number in range(3):
            print("x" * 100_000)
            log.warning("y" * 100_000)
            write_at_once("z")
            with contextlib.suppress(OSError):
                os.write(2, b"a library")
            bar.update()
            bar.refresh()
    print("still here", file=file)
"""


@pytest.mark.parametrize("where", ["2>&-", ">&- 2>&-", ">/dev/full 2>&1", "2>&1 | head -c 10", "2>&1 | true"])
def test_a_program_comes_to_its_end_whoever_listens(tmp_path: Path, where: str) -> None:
    command = f'set -o pipefail; "{sys.executable}" -c "$TALKING" "{tmp_path}/file" {where}'
    env = {**os.environ, "TALKING": TALKING}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "still here\n", "nothing else got into it"


def test_rank_0_speaks_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    log.info("Taking up the run at 50%.")
    log.warning("it is late.")
    log.error("it is too late.")
    assert (
        capsys.readouterr().err
        == "Taking up the run at 50%.\nWarning: it is late.\n\nError: it is too late.\n"
    )
    log_to_stderr(rank=1)
    log.warning("rank 1 is late, too.")
    log.error("rank 1 is lost.", extra=EVERY_RANK)
    assert capsys.readouterr().err == "\nError: rank 1 is lost.\n"
    log_to_stderr()
