"""The table of latent vectors of a vector-quantised policy."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model_constructor.random import shared_uniform


class VQCodebookManager(nn.Module):
    """Nearest-row quantisation with a table that gradients reach through the rows looked up.

    Meant for noise substitution (Vali & Bäckström 2022, "NSVQ: Noise Substitution in Vector Quantization
    for Machine Learning"), hence no straight-through estimator here. Rows that nobody uses can be re-seeded
    from the encoder's outputs (random restarts, Dhariwal et al. 2020, "Jukebox: A Generative Model for
    Music").

    Args:
        num_q_vectors: rows K.
        vec_dim: size D of a row.

    Shapes:
        `continuous_vec (…, D)`, `train`, `replacement` → `{"q": (…, D), "codebook_min_dist": (),
        "codebook_max_dist": (), "dead_indices": (n,) or None, "num_vecs_replaced": n}`.

    Raises:
        ValueError: for sizes below 1.
    """

    def __init__(self, *, num_q_vectors: int, vec_dim: int) -> None:
        super().__init__()
        if num_q_vectors < 1 or vec_dim < 1:
            raise ValueError(f"a codebook needs rows and columns, got {num_q_vectors} by {vec_dim}")
        self.num_q_vectors = num_q_vectors
        self.vec_dim = vec_dim
        self.vq_codebook = nn.Embedding(num_q_vectors, vec_dim)
        nn.init.uniform_(self.vq_codebook.weight, -1.0 / num_q_vectors, 1.0 / num_q_vectors)

    def forward(
        self, continuous_vec: Tensor, train: bool = True, replacement: bool = False
    ) -> dict[str, Tensor | int | None]:
        """Quantise vectors.

        Args:
            continuous_vec: `(…, D)`, at least two dimensions.
            train: measure the distances between the rows; they are 0 otherwise.
            replacement: re-seed the rows that no vector of this batch, on any rank, is nearest to. The new
                rows are vectors of all ranks' batches, the same on every rank; with a source of random
                numbers (`model_constructor.random`) those that one rank with all of the batch would take.
                All ranks must call it together.

        Returns:
            `q`: the nearest rows, shape and type of the input; `codebook_min_dist`, `codebook_max_dist`:
                smallest and largest distance between two rows, detached scalars; `dead_indices`: the rows
                replaced `(n,)`, None without `replacement`; `num_vecs_replaced`: their number.

        Raises:
            ValueError: for a vector of another size.
        """
        if continuous_vec.ndim < 2 or continuous_vec.shape[-1] != self.vec_dim:
            raise ValueError(
                f"continuous_vec must be (…, {self.vec_dim}) with at least two dimensions, "
                f"got {tuple(continuous_vec.shape)}"
            )
        vectors = continuous_vec.detach().reshape(-1, self.vec_dim).float()
        indices = self._distances(vectors, self.vq_codebook.weight.detach().float()).argmin(dim=1)
        dead = self._replace_unused(vectors, indices) if replacement else None
        q = self.vq_codebook(indices).to(continuous_vec.dtype).reshape(continuous_vec.shape)
        if train:
            smallest, largest = self._pairwise_range()
        else:
            smallest = largest = vectors.new_zeros(())
        return {
            "q": q,
            "codebook_min_dist": smallest,
            "codebook_max_dist": largest,
            "dead_indices": dead,
            "num_vecs_replaced": 0 if dead is None else dead.numel(),
        }

    def get_min_pairwise_dist(self) -> float:
        """Return the smallest distance between two rows, 0 for a single row; waits for the device."""
        return float(self._pairwise_range()[0])

    @staticmethod
    def _distances(left: Tensor, right: Tensor) -> Tensor:
        # Without matrix products: their cancellation loses the digits that tell near rows apart.
        return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")

    @torch.no_grad()
    def _pairwise_range(self) -> tuple[Tensor, Tensor]:
        table = self.vq_codebook.weight.detach().float()
        if self.num_q_vectors == 1:
            return table.new_zeros(()), table.new_zeros(())
        distances = self._distances(table, table)
        itself = torch.eye(self.num_q_vectors, dtype=torch.bool, device=table.device)
        return distances.masked_fill(itself, float("inf")).min(), distances.max()

    @torch.no_grad()
    def _replace_unused(self, vectors: Tensor, indices: Tensor) -> Tensor:
        """Give every row that is nearest to no vector of any rank one of all ranks' vectors; return which."""
        table = self.vq_codebook.weight
        used = torch.zeros(self.num_q_vectors, device=vectors.device, dtype=torch.float64)
        used.index_add_(0, indices, torch.ones_like(indices, dtype=torch.float64))
        draw = shared_uniform((self.num_q_vectors, 1 + self.vec_dim), vectors.device)
        ranks, rank = _place()
        counts = torch.zeros(ranks, device=vectors.device, dtype=torch.float64)
        counts[rank] = len(vectors)
        sums, squares = vectors.double().sum(0), vectors.double().square().sum(0)
        if ranks > 1:
            everything = torch.cat([used, counts, sums, squares])
            dist.all_reduce(everything)
            used, counts, sums, squares = everything.split([len(used), ranks, len(sums), len(squares)])
            dist.broadcast(draw, src=0)  # without a source of random numbers every rank draws its own
        # The vectors of all ranks are numbered one after the other; whoever has the chosen one gives it.
        total = counts.sum()
        chosen = (draw[:, 0] * total).long().minimum(total.long() - 1) - counts[:rank].sum().long()
        own = (chosen >= 0) & (chosen < len(vectors))
        seeds = torch.where(own[:, None], vectors[chosen.clamp(0, len(vectors) - 1)], 0.0)
        if ranks > 1:
            dist.all_reduce(seeds)
        # A little noise, a hundredth of the vectors' spread, keeps two rows that got the same vector apart.
        spread = (squares / total - (sums / total).square()).clamp(min=0).sqrt()
        noise = (draw[:, 1:] - 0.5) * 12**0.5
        dead = (used == 0).nonzero().flatten()
        table[dead] = (seeds + 0.01 * spread * noise)[dead].to(table.dtype)
        return dead


def _place() -> tuple[int, int]:
    """Return the number of ranks and which of them this is."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0
