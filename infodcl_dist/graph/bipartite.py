"""The bipartite user-item graph of training pairs, in compressed rows from both sides."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infodcl_dist.data.dataset import Dataset
from infodcl_dist.data.rows import CompressedRows


@dataclass(frozen=True)
class Rows:
    """Compressed sparse rows without values: row r's neighbours are indices[offsets[r] : offsets[r + 1]], ascending."""

    offsets: Tensor  # int64 or int32 [R + 1]
    indices: Tensor  # of the same type, [E]

    @property
    def degrees(self) -> Tensor:
        """Neighbours a row, [R]."""
        return self.offsets[1:] - self.offsets[:-1]

    def to(self, device: torch.device) -> "Rows":
        """The same on a device."""
        return Rows(self.offsets.to(device), self.indices.to(device))


@dataclass(frozen=True)
class Bipartite:
    """Users' items and items' users: M users, N items, E edges."""

    items_of_user: Rows
    users_of_item: Rows

    @property
    def users(self) -> int:
        """M."""
        return self.items_of_user.offsets.shape[0] - 1

    @property
    def items(self) -> int:
        """N."""
        return self.users_of_item.offsets.shape[0] - 1

    def to(self, device: torch.device) -> "Bipartite":
        """The same on a device."""
        return Bipartite(self.items_of_user.to(device), self.users_of_item.to(device))


def training_graph(dataset: Dataset, device: torch.device) -> Bipartite:
    """The graph of the training pairs; on a CPU over the dataset's files, which all processes of a host share."""
    return Bipartite(tensor_rows(dataset.items_of_users("train")), tensor_rows(dataset.users_of_items())).to(device)


def neighbours(rows: Rows, of: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours of the rows `of` int64 [U]: places in `of` and ids of the neighbours, int64, an entry each."""
    starts, ends = rows.offsets[of].long(), rows.offsets[of + 1].long()
    counts = ends - starts
    position = torch.repeat_interleave(torch.arange(of.shape[0], device=of.device), counts)
    before = torch.cumsum(counts, dim=0) - counts
    within = torch.arange(position.shape[0], device=of.device) - before[position]
    return position, rows.indices[starts[position] + within].long()


def tensor_rows(rows: CompressedRows) -> Rows:
    """The same as tensors over the same memory, mapped or not."""
    return Rows(torch.from_numpy(rows.offsets), torch.from_numpy(rows.indices))
