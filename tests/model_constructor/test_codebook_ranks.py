"""Every rank goes on with one codebook after rows were re-seeded."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from model_constructor.blocks.codebook import VQCodebookManager


def rank_main(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    book = VQCodebookManager(num_q_vectors=6, vec_dim=2)
    with torch.no_grad():
        book.vq_codebook.weight.copy_(torch.tensor([[0.0, 0], [1, 1], [9, 9], [8, 9], [9, 8], [7, 7]]))
    torch.manual_seed(rank)
    # Rank 1 alone uses row 2, which must therefore stay.
    z = torch.rand(32, 2) if rank == 0 else torch.full((8, 2), 9.0)
    out = book(z, replacement=True)
    torch.save((out["dead_indices"], book.vq_codebook.weight.detach()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_replace_the_same_rows_by_the_same_vectors(tmp_path):
    mp.start_processes(rank_main, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    (dead_0, table_0), (dead_1, table_1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert dead_0.tolist() == dead_1.tolist() == [3, 4, 5]
    torch.testing.assert_close(table_0, table_1, rtol=0, atol=0)
