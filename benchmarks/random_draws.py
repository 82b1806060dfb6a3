"""What the random numbers of one action chunk cost a rank, among 1, 8 and 64 ranks.

    OMP_NUM_THREADS=1 python benchmarks/random_draws.py [--device cuda]

Beside `SampleRandom`, which makes the rank's own rows, stands `torch.randn` of the global batch, of which a
rank takes its rows: the way of making numbers that belong to samples with one generator. Both begin with the
step, as a training step does; medians of turns of 16 steps, by step. A run makes small draws of some steps at
once, as the rows "as a run draws" do.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.utils.random import RowRandom, SampleRandom, StepsAhead

SHAPES = {
    "small batch of chunks": (64, 16, 4),
    "action chunk": (256, 16, 4),
    "four latent vectors": (256, 4, 1024),
}
TURN = StepsAhead.STEPS


def global_batch(step: int, ranks: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw for all ranks on the CPU and take the last one's rows to the device."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randn((shape[0] * ranks, *shape[1:]), generator=generator)[-shape[0] :]
    return (rows.pin_memory() if device.type == "cuda" else rows).to(device, non_blocking=True)


def draws(ranks: int, shape: tuple[int, ...], device: torch.device) -> dict[str, Callable[[int], Tensor]]:
    """Return the ways to draw for the last one of the ranks: step → numbers."""
    place = (ranks - 1, ranks, device)
    robots, ahead = RowRandom(range(shape[0]), device), StepsAhead()
    return {
        "own rows, normal": lambda step: SampleRandom(0, step, *place).normal(shape),
        "own rows, uniform": lambda step: SampleRandom(0, step, *place).uniform(shape),
        "as a run draws, normal": lambda step: SampleRandom(0, step, *place, ahead=ahead).normal(shape),
        "as a run draws, uniform": lambda step: SampleRandom(0, step, *place, ahead=ahead).uniform(shape),
        "a seed per row, normal": lambda step: robots.normal(shape),
        "randn of the global batch": lambda step: global_batch(step, ranks, shape, device),
    }


def median(draw: Callable[[int], Tensor], rounds: int, device: torch.device) -> float:
    """Return the milliseconds that a draw takes, after a first turn that does not count.

    On a CPU they are the processor's, so that other processes matter less.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    taken = []
    for turn in range(rounds + 1):
        begin = clock()
        for step in range(turn * TURN, (turn + 1) * TURN):
            draw(step)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append((clock() - begin) * 1e3 / TURN)
    return statistics.median(taken[1:])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}; milliseconds a draw")
    for name, shape in SHAPES.items():
        print(f"{name}, {shape} a rank")
        for ranks in (1, 8, 64):
            ways = draws(ranks, shape, device)
            # The latent vectors of 64 ranks take half a second: fewer rounds tell as much.
            rounds = arguments.rounds if ranks * shape[-1] < 2**16 else 3
            print(f"  {ranks:2} ranks:", *(f"{w} {median(d, rounds, device):.2f};" for w, d in ways.items()))


if __name__ == "__main__":
    main()
