"""Where a run happens."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.runs import ROOT, environment

from trainer.runtime import connect, select_device


def test_alone_there_is_one_rank_in_fp32_on_a_cpu() -> None:
    with connect("cpu") as runtime:
        assert (runtime.rank, runtime.world_size, runtime.precision) == (0, 1, "fp32")
        assert runtime.is_main
        assert runtime.gather(3) == [3]
        assert runtime.largest(4) == 4
        assert torch.equal(runtime.reduce(torch.ones(2), "mean"), torch.ones(2))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_matrix_products_in_a_step(precision: str, dtype: torch.dtype) -> None:
    with connect("cpu", precision) as runtime, runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda:99", "asks for GPU 99, but"),
        ("gpu", "'gpu' is no device"),
        ("cuda:x", "no device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_device(text)


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_emulated_bf16_is_not_taken(monkeypatch: pytest.MonkeyPatch, native: bool, precision: str) -> None:
    module = sys.modules["trainer.runtime.connect"]
    monkeypatch.setattr(module, "select_device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    supported = lambda including_emulation=True: native or including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    with connect() as runtime:
        assert runtime.precision == precision


@pytest.mark.parametrize("native", [True, False])
def test_a_precision_without_instructions_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], native: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    for precision in ("bf16", "fp32"):
        with connect("cpu", precision):
            pass
    warned = "Warning: this processor has no instructions for bf16" in capsys.readouterr().err
    assert warned is not native


IMPATIENT = """
import datetime, sys, time
import torch
from trainer.runtime import RankLost, connect
import trainer.runtime.connect
sys.modules["trainer.runtime.connect"].RANK_TIMEOUT = datetime.timedelta(seconds=3)
with connect("cpu") as runtime:
    time.sleep(6 * runtime.rank)
    runtime.barrier()
    print("all are here", flush=True)
    if runtime.is_main:
        runtime.reduce(torch.ones(1), "mean")  # the other one never asks for it
    time.sleep(3600)
"""


def test_long_work_of_a_rank_is_waited_for_and_a_collective_that_never_comes_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", IMPATIENT],
            cwd=ROOT,
            env={**environment(), **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [out for out, _ in said] == ["all are here\n"] * 2
    assert all(rank.returncode == 1 for rank in ranks)
    assert "Timed out waiting 3000ms" in said[0][1]


def test_a_process_group_of_somebody_else_is_used_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "7")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with connect("cpu") as runtime:
            assert (runtime.rank, runtime.world_size) == (0, 1)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
