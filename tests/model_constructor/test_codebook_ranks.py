"""Every rank goes on with one codebook after rows were re-seeded."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from model_constructor import random_source
from model_constructor.blocks.codebook import VQCodebookManager

from trainer.utils.random import SampleRandom


def codebook():
    book = VQCodebookManager(num_q_vectors=6, vec_dim=2)
    with torch.no_grad():
        book.vq_codebook.weight.copy_(torch.tensor([[0.0, 0], [1, 1], [9, 9], [8, 9], [9, 8], [7, 7]]))
    return book


def vectors_of(rank):
    # Rank 1 alone uses row 2, which must therefore stay.
    return torch.rand(32, 2) if rank == 0 else torch.full((8, 2), 9.0)


def rank_main(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)
    book = codebook()
    out = book(vectors_of(rank), replacement=True)
    shared = codebook()
    batch = torch.load(f"{folder}/batch.pt")
    with random_source(SampleRandom(3, 5, rank, 2)):
        shared(batch[rank * 16 : (rank + 1) * 16], replacement=True)
    tables = [b.vq_codebook.weight.detach() for b in (book, shared)]
    torch.save((out["dead_indices"], *tables), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(torch.rand(32, 2, generator=torch.Generator().manual_seed(2)), folder / "batch.pt")
    mp.start_processes(rank_main, args=(str(folder),), nprocs=2, start_method="spawn")
    return folder


def test_two_ranks_replace_the_same_rows_by_the_same_vectors(folder):
    (dead_0, table_0, _), (dead_1, table_1, _) = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    assert dead_0.tolist() == dead_1.tolist() == [3, 4, 5]
    torch.testing.assert_close(table_0, table_1, rtol=0, atol=0)


def test_two_ranks_take_the_vectors_that_one_rank_with_all_of_the_batch_takes(folder):
    tables = [torch.load(folder / f"{rank}.pt")[2] for rank in range(2)]
    alone = codebook()
    with random_source(SampleRandom(3, 5)):
        dead = alone(torch.load(folder / "batch.pt"), replacement=True)["dead_indices"]
    assert dead.tolist() == [2, 3, 4, 5]
    for table in tables:
        torch.testing.assert_close(table, alone.vq_codebook.weight.detach())
    before = codebook().vq_codebook.weight.detach()
    assert not torch.isclose(alone.vq_codebook.weight[2:], before[2:]).any()
