"""InfoDCL as a researcher would first write it in PyTorch, in one process: what the package's speed is compared with.

    python benchmarks/plain.py DATASET [--batch-size 2000] [--epochs 3]

A DataLoader over pairs, negatives drawn in a Python loop against a set a user, embedding tables as `nn.Embedding`, the
singular value decomposition of each batch by `torch.linalg.svd`, all B × N logits through autograd, and one dense Adam.
It trains correctly (a test holds its terms against the dense reference) and shares nothing with the package but the
names of its weights. Prints seconds an epoch. Metadata rows are random: time does not depend on them.

Legend: M users, N items, B examples, D width, F metadata width, T diffusion steps.
"""

import argparse
import math
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, mse_loss, normalize
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Weights:
    """Of Eq. 14's terms; the defaults are those of configs/office-paper.yaml."""

    bpr: float = 0.6
    reconstruction: float = 0.4
    contrastive: float = 0.003
    balance: float = 5e-5
    regularization: float = 0.01
    temperature: float = 0.5


class Pairs(Dataset):
    """Training pairs, each with a negative outside its user's training set, drawn anew whenever it is asked for."""

    def __init__(self, users: list[int], items: list[int], item_count: int) -> None:
        self.users, self.items, self.item_count = users, items, item_count
        self.seen: dict[int, set[int]] = {}
        for user, item in zip(users, items, strict=True):
            self.seen.setdefault(user, set()).add(item)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        user = self.users[index]
        return user, self.items[index], self.negative(user)

    def negative(self, user: int) -> int:
        while True:
            item = random.randrange(self.item_count)
            if item not in self.seen[user]:
                return item


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))


class Rectify(nn.Module):
    """Eq. 1-4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.left, self.right, self.values, self.merge = (mlp(n, dim) for n in (dim, dim, dim, 3 * dim))
        self.alpha = nn.Parameter(torch.zeros(dim))

    def forward(self, mixed: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(mixed, full_matrices=False)
        # A pair of singular vectors is unique up to its sign; without a rule the network would see either.
        sign = torch.sign(right.gather(1, right.abs().argmax(dim=1, keepdim=True)))[:, 0]
        u = self.left(left * sign)
        v = self.right(right[0] * sign[0]).expand_as(u)
        s = self.values(values).expand_as(u)
        return mixed + torch.tanh(self.alpha) * self.merge(torch.cat([u, v, s], dim=1))


class Reencode(nn.Module):
    """Eq. 5-7."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.rho = nn.Parameter(torch.zeros(1))

    def forward(self, noise: Tensor, mixed: Tensor) -> Tensor:
        return noise + torch.sigmoid(self.rho) * self.encode(mixed)


class PSNet(nn.Module):
    """Eq. 8."""

    def __init__(self, dim: int, metadata_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(metadata_dim, dim)
        self.rectify, self.reencode = Rectify(dim), Reencode(dim)
        self.eta0, self.eta1 = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, noise: Tensor, metadata: Tensor) -> Tensor:
        projected = self.project(metadata)
        mixed = noise + projected
        context = self.eta0 * self.reencode(noise, mixed)
        return self.rectify(mixed) + context + torch.sigmoid(self.eta1 - 1) * projected


class Diffusion(nn.Module):
    """Eq. 9 and 10 with the release's exponential schedule."""

    signal: Tensor

    def __init__(self, dim: int, timesteps: int) -> None:
        super().__init__()
        self.dim = dim
        x = torch.linspace(1, 2 * timesteps + 1, timesteps)
        betas = 1 - torch.exp(-0.1 / timesteps - x * (10 - 0.1) / (2 * timesteps**2))
        self.register_buffer("signal", torch.cumprod(1 - betas, dim=0), persistent=False)
        self.no_condition = nn.Parameter(torch.zeros(dim))
        self.time_embedding = mlp(dim, dim)
        self.denoiser = nn.Linear(3 * dim, dim)

    def forward(self, embeddings: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        level = self.signal[steps][:, None]
        noised = level.sqrt() * embeddings + (1 - level).sqrt() * noise
        half = self.dim // 2
        angles = steps[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        time_code = self.time_embedding(torch.cat([torch.cos(angles), torch.sin(angles)], dim=1))
        return self.denoiser(torch.cat([noised, self.no_condition.expand_as(noised), time_code], dim=1))


class Channel(nn.Module):
    """One kind of metadata."""

    def __init__(self, dim: int, metadata_dim: int, timesteps: int) -> None:
        super().__init__()
        self.psnet, self.diffusion = PSNet(dim, metadata_dim), Diffusion(dim, timesteps)

    def forward(self, embeddings: Tensor, metadata: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        return self.diffusion(embeddings, self.psnet(noise, metadata), steps)


class InfoDCL(nn.Module):
    """Tables and channels; `metadata` holds [N, F] rows by channel."""

    def __init__(
        self, users: int, items: int, metadata: dict[str, Tensor], dim: int = 64, timesteps: int = 200
    ) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, dim), nn.Embedding(items, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        self.metadata, self.timesteps = metadata, timesteps
        self.channels = nn.ModuleDict({n: Channel(dim, rows.shape[1], timesteps) for n, rows in metadata.items()})

    def terms(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        *,
        noise: dict[str, Tensor],
        steps: dict[str, Tensor],
        temperature: float,
    ) -> dict[str, Tensor]:
        """The unweighted terms of a batch [B] and its random numbers by channel, summed over channels."""
        u, i, j = self.user(users), self.item(positives), self.item(negatives)
        terms = {
            "bpr": -logsigmoid((u * i).sum(dim=1) - (u * j).sum(dim=1)).mean(),
            "regularization": 0.5 * (u.square().sum() + i.square().sum()) / len(users),
        } | {name: torch.zeros(()) for name in ("reconstruction", "contrastive", "balance")}
        for name, channel in self.channels.items():
            generated = channel(i, self.metadata[name][positives], noise[name], steps[name])
            logits = normalize(generated, dim=1) @ normalize(self.item.weight, dim=1).T / temperature
            terms["reconstruction"] = terms["reconstruction"] + mse_loss(generated, i)
            terms["contrastive"] = terms["contrastive"] + cross_entropy(logits, positives)
            terms["balance"] = terms["balance"] + generated.norm() / len(users)
        return terms


def total(terms: dict[str, Tensor], weights: Weights) -> Tensor:
    return sum((getattr(weights, name) * term for name, term in terms.items()), torch.zeros(()))


def train_epoch(model: InfoDCL, loader: DataLoader, optimizer: torch.optim.Optimizer, weights: Weights) -> float:
    """One pass over the pairs; the mean loss."""
    losses = []
    for users, positives, negatives in loader:
        noise = {name: torch.randn(len(users), model.user.embedding_dim) for name in model.channels}
        steps = {name: torch.randint(model.timesteps, (len(users),)) for name in model.channels}
        terms = model.terms(users, positives, negatives, noise=noise, steps=steps, temperature=weights.temperature)
        loss = total(terms, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return statistics.mean(losses)


def load(dataset: Path, channels: int, dim: int, batch_size: int) -> tuple[InfoDCL, DataLoader]:
    """The model and the loader of a prepared dataset; metadata of random rows."""
    pairs = pq.read_table(dataset / "train")
    users, items = (pq.read_metadata(dataset / f"{side}.parquet").num_rows for side in ("users", "items"))
    metadata = {f"channel {number}": torch.randn(items, dim) for number in range(channels)}
    data = Pairs(pairs["user"].to_pylist(), pairs["item"].to_pylist(), items)
    return InfoDCL(users, items, metadata, dim, timesteps=200), DataLoader(data, batch_size=batch_size, shuffle=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch-size", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    model, loader = load(given.dataset, channels=2, dim=64, batch_size=given.batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for epoch in range(1, given.epochs + 1):
        started = time.perf_counter()
        loss = train_epoch(model, loader, optimizer, Weights())
        print(f"epoch {epoch}  loss {loss:.4f}  {time.perf_counter() - started:.2f} s", flush=True)


if __name__ == "__main__":
    main()
