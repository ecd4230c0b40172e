"""A dense, single-process InfoDCL, written from the method's equations: what the package is compared with.

Nothing here is shared with the package but the names of its weights: plain functions of a `dict[str, Tensor]` that is
keyed as the channels' `state_dict()`, with the tables under `user` and `item`. Everything runs in the weights' type, so
float64 weights give the value that a float32 result should round to.

Legend: M users, N items, B examples, D width, F metadata width, T diffusion steps, R singular directions kept.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a run may choose; the defaults are the paper's."""

    channels: tuple[str, ...] = ()
    rank: int | None = None
    reencoder: str = "linear"
    residual: str = "paper"
    denoiser: str = "mlp1"
    schedule: str = "exp"
    unconditional: float = 1.0
    timesteps: int = 200
    ablation: tuple[str, ...] = ()
    temperature: float = 0.5
    contrastive_gradient: str = "both"
    user_temperature: float | None = None  # None: no such term
    balance_norm: str = "l2"
    training_layers: int = 0
    learning_rate: float = 0.001
    weights: dict[str, float] = field(default_factory=dict)  # of the terms in the total


@dataclass(frozen=True)
class Examples:
    """A global batch without padding, and its random numbers by channel."""

    users: Tensor  # [B]
    positives: Tensor  # [B]
    negatives: Tensor  # [B]
    metadata: dict[str, Tensor]  # [B, F]
    noise: dict[str, Tensor]  # [B, D]
    steps: dict[str, Tensor]  # [B]
    conditioned: dict[str, Tensor] = field(default_factory=dict)  # bool [B], whose metadata the denoiser sees
    samples: Tensor | None = None  # [S] items that stand for all N in the contrastive denominator


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.2", silu(linear(w, f"{name}.0", x)))


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    deviation = torch.sqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5)
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A [B, D], Σ [D] and V [D, ≤ D] of a whole batch; each right vector's largest component is positive.

    With fewer rows than columns the directions that are missing have value 0 and left vectors of 0.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    right = right.T
    sign = torch.sign(right.gather(0, right.abs().argmax(dim=0, keepdim=True)))
    missing = matrix.shape[1] - values.shape[0]
    pad = torch.nn.functional.pad
    return pad(left * sign, (0, missing)), pad(values, (0, missing)), right * sign


def spectral_rectification(w: Weights, name: str, mixed: Tensor, rank: int | None) -> Tensor:
    """S of Eq. 1-4."""
    left, values, right = svd(mixed)
    kept = min(rank or mixed.shape[1], mixed.shape[1])
    u = mlp(w, f"{name}.left", left[:, :kept])
    v = mlp(w, f"{name}.right", right[:, 0][None]).expand_as(u)
    s = mlp(w, f"{name}.values", values[:kept][None]).expand_as(u)
    return mixed + torch.tanh(w[f"{name}.alpha"]) * mlp(w, f"{name}.merge", torch.cat([u, v, s], dim=1))


def transformer_layer(w: Weights, name: str, x: Tensor) -> Tensor:
    """A post-norm encoder layer on one token: the softmax over a single key is 1, so attention is its value."""
    width = x.shape[1]
    value = x @ w[f"{name}.self_attn.in_proj_weight"][2 * width :].T + w[f"{name}.self_attn.in_proj_bias"][2 * width :]
    x = layer_norm(w, f"{name}.norm1", x + linear(w, f"{name}.self_attn.out_proj", value))
    return layer_norm(
        w, f"{name}.norm2", x + linear(w, f"{name}.linear2", linear(w, f"{name}.linear1", x).clamp(min=0))
    )


def contextual_reencoding(w: Weights, name: str, noise: Tensor, mixed: Tensor, kind: str) -> Tensor:
    """C of Eq. 5-7, or with the release's two transformer layers in place of Ψ and the norm."""
    if kind == "linear":
        encoded = layer_norm(w, f"{name}.encode.1", linear(w, f"{name}.encode.0", mixed))
    else:
        encoded = mixed
        for layer in range(2):
            encoded = transformer_layer(w, f"{name}.encode.layers.{layer}", encoded)
    return noise + torch.sigmoid(w[f"{name}.rho"]) * encoded


def psnet(w: Weights, name: str, noise: Tensor, metadata: Tensor, c: Choices) -> Tensor:
    """ε^(m) of Eq. 8, less what is ablated."""
    if "psnet" in c.ablation:
        return noise
    projected = linear(w, f"{name}.project", metadata)
    eta1 = w[f"{name}.eta1"]
    scale = torch.sigmoid(eta1 - 1) if c.residual == "paper" else 2 * torch.sigmoid(eta1) - 1
    out = scale * projected
    if "spectral_rectification" not in c.ablation:
        out = out + spectral_rectification(w, f"{name}.rectify", noise + projected, c.rank)
    if "contextual_reencoding" not in c.ablation:
        again = contextual_reencoding(w, f"{name}.reencode", noise, noise + projected, c.reencoder)
        out = out + w[f"{name}.eta0"] * again
    return out


def filled(w: Weights, name: str, metadata: Tensor) -> Tensor:
    """Metadata with the learned row, where the channel has one, for rows that are NaN throughout."""
    learned = w.get(f"{name}.missing_row")
    return metadata if learned is None else torch.stack([learned if r.isnan().all() else r for r in metadata])


def signal_levels(schedule: str, timesteps: int) -> Tensor:
    """ᾱ_t, float64 [T], by loops over the published formulas."""
    betas = []
    for s in range(timesteps):
        if schedule == "exp":
            x = 1 + 2 * timesteps * s / max(timesteps - 1, 1)
            betas.append(1 - math.exp(-0.1 / timesteps - x * (10 - 0.1) / (2 * timesteps**2)))
        elif schedule == "linear":  # Ho et al., 2020, for any number of steps
            share = s / max(timesteps - 1, 1)
            betas.append(min(1000 / timesteps * (1e-4 + share * (0.02 - 1e-4)), 0.999))
        elif schedule == "cosine":  # Nichol and Dhariwal, 2021
            f = [math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (s, s + 1)]
            betas.append(min(1 - f[1] / f[0], 0.999))
        else:  # sqrt: Li et al., 2022, states ᾱ itself
            betas.append(max(1 - math.sqrt((s + 1) / timesteps + 1e-4), 1e-4))
    if schedule == "sqrt":
        return torch.tensor(betas, dtype=torch.float64)
    return torch.tensor([math.prod(1 - b for b in betas[: t + 1]) for t in range(timesteps)], dtype=torch.float64)


def sinusoidal(steps: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t / 10000^(k / half); an odd width ends in a zero."""
    half = width // 2
    rows = []
    for t in steps.tolist():
        angles = [t / 10_000 ** (k / max(half, 1)) for k in range(half)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles] + [0.0] * (width - 2 * half))
    return torch.tensor(rows, dtype=torch.float64)


def condition(w: Weights, name: str, metadata: Tensor, conditioned: list[bool]) -> Tensor:
    """h [B, D] of classifier-free guidance, row by row."""
    rows = zip(linear(w, f"{name}.condition", metadata), conditioned, strict=True)
    return torch.stack([row if is_shown else w[f"{name}.no_condition"] for row, is_shown in rows])


def generate(
    w: Weights, name: str, embeddings: Tensor, noise: Tensor, steps: Tensor, *, c: Choices, h: Tensor | None = None
) -> Tensor:
    """ê of Eq. 9 and 10: the forward process to step t, and the denoiser's prediction of e under a condition h."""
    level = signal_levels(c.schedule, c.timesteps)[steps][:, None].to(embeddings.dtype)
    noised = torch.sqrt(level) * embeddings + torch.sqrt(1 - level) * noise
    time = mlp(w, f"{name}.time_embedding", sinusoidal(steps, embeddings.shape[1]).to(embeddings.dtype))
    h = w[f"{name}.no_condition"].expand_as(noised) if h is None else h
    inputs = torch.cat([noised, h, time], dim=1)
    return linear(w, f"{name}.denoiser", inputs) if c.denoiser == "mlp1" else mlp(w, f"{name}.denoiser", inputs)


def bpr(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    margin = (users * positives).sum(dim=1) - (users * negatives).sum(dim=1)
    return -torch.log(torch.sigmoid(margin)).mean()


def reconstruction(embeddings: Tensor, generated: Tensor) -> Tensor:
    return (embeddings - generated).square().mean()


def contrastive(generated: Tensor, positives: Tensor, table: Tensor, temperature: float) -> Tensor:
    """Eq. 11 as a mean over the batch: B × N logits, the softmax over all N items, the own item the label."""
    cosine = (generated @ table.T) / (generated.norm(dim=1)[:, None] * table.norm(dim=1)[None, :])
    return torch.nn.functional.cross_entropy(cosine / temperature, positives)


def sampled_contrastive(
    generated: Tensor, positives: Tensor, items: Tensor, samples: Tensor, temperature: float
) -> Tensor:
    """Eq. 11 with the sum over all items estimated from uniform samples: their mean times N."""
    views, rows = (x / torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (generated, items))
    sums = torch.exp(views @ rows[samples].T / temperature).mean(dim=1) * items.shape[0]
    return (torch.log(sums) - (views * rows[positives]).sum(dim=1) / temperature).mean()


def balance(generated: Tensor, norm: str) -> Tensor:
    square = generated.square().sum()
    return (torch.sqrt(square) if norm == "l2" else square) / generated.shape[0]


def regularization(users: Tensor, items: Tensor) -> Tensor:
    return 0.5 * (users.square().sum() + items.square().sum()) / users.shape[0]


def adjacency(users: Tensor, items: Tensor, user_count: int, item_count: int) -> Tensor:
    """Dense Â = D^-½ A D^-½ over M + N nodes; a node without edges has a row of zeros."""
    a = torch.zeros(user_count + item_count, user_count + item_count, dtype=torch.float64)
    a[users, user_count + items] = 1
    a = a + a.T
    scale = torch.tensor([1 / math.sqrt(degree) if degree > 0 else 0.0 for degree in a.sum(dim=1).tolist()])
    return scale.double()[:, None] * a * scale.double()[None, :]


def propagate(a: Tensor, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """LightGCN: the mean of Â^k [users; items] for k in 0 … layers."""
    layer = total = torch.cat([users, items])
    for _ in range(layers):
        layer = a.to(layer.dtype) @ layer
        total = total + layer
    mean = total / (layers + 1)
    return mean[: users.shape[0]], mean[users.shape[0] :]


def loss_terms(w: Weights, batch: Examples, c: Choices, a: Tensor | None = None) -> Weights:
    """The unweighted terms, each summed over channels."""
    users, items = (w["user"], w["item"]) if a is None else propagate(a, w["user"], w["item"], c.training_layers)
    own = w["item"][batch.positives]
    terms = {
        "bpr": bpr(users[batch.users], items[batch.positives], items[batch.negatives]),
        "regularization": regularization(w["user"][batch.users], own),
    }
    sums = {name: own.new_zeros(()) for name in ("reconstruction", "contrastive", "balance")}
    for name in c.channels:
        metadata = filled(w, name, batch.metadata[name].to(own.dtype))
        noise = psnet(w, f"{name}.psnet", batch.noise[name].to(own.dtype), metadata, c)
        h = None
        if c.unconditional < 1:
            h = condition(w, f"{name}.diffusion", metadata, batch.conditioned[name].tolist())
        generated = generate(w, f"{name}.diffusion", own, noise, batch.steps[name], c=c, h=h)
        sums["reconstruction"] = sums["reconstruction"] + reconstruction(own, generated)
        views = generated.detach() if c.contrastive_gradient == "table" else generated
        table = w["item"].detach() if c.contrastive_gradient == "views" else w["item"]
        if batch.samples is None:
            compared = contrastive(views, batch.positives, table, c.temperature)
        else:
            compared = sampled_contrastive(views, batch.positives, table, batch.samples, c.temperature)
        sums["contrastive"] = sums["contrastive"] + compared
        sums["balance"] = sums["balance"] + balance(generated, c.balance_norm)
    if c.user_temperature is not None:
        anchors = w["user"][batch.users], batch.positives, w["item"]
        sums["user_contrastive"] = (
            contrastive(*anchors, c.user_temperature)
            if batch.samples is None
            else sampled_contrastive(*anchors, batch.samples, c.user_temperature)
        )
    return terms | sums if c.channels else terms


class Adam:
    """Kingma and Ba, 2015, algorithm 1, on every row of every weight."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate, self.steps = learning_rate, 0
        self.first: Weights = {}
        self.second: Weights = {}

    def updated(self, w: Weights, gradients: Weights) -> Weights:
        self.steps += 1
        new = {}
        for name, value in w.items():
            g = gradients[name]
            self.first[name] = 0.9 * self.first.get(name, torch.zeros_like(g)) + 0.1 * g
            self.second[name] = 0.999 * self.second.get(name, torch.zeros_like(g)) + 0.001 * g**2
            mean, square = self.first[name] / (1 - 0.9**self.steps), self.second[name] / (1 - 0.999**self.steps)
            new[name] = value - self.learning_rate * mean / (torch.sqrt(square) + 1e-8)
        return new


def training_step(
    w: Weights, adam: Adam, batch: Examples, c: Choices, a: Tensor | None = None
) -> tuple[Weights, dict[str, float], Weights]:
    """Weights after one step of Eq. 14, the terms with their total as `loss`, and the gradients."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in w.items()}
    terms = loss_terms(leaves, batch, c, a)
    total = sum((c.weights[name] * term for name, term in terms.items()), torch.zeros(()))
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = {name: torch.zeros_like(w[name]) if g is None else g for name, g in zip(leaves, found, strict=True)}
    values = {name: term.item() for name, term in terms.items()} | {"loss": total.item()}
    return adam.updated({name: leaf.detach() for name, leaf in leaves.items()}, gradients), values, gradients


def ranked(scores: list[float], masked: set[int], k: int) -> list[int]:
    """The k best items that are not masked; of equal scores the lower id first."""
    return sorted((item for item in range(len(scores)) if item not in masked), key=lambda i: (-scores[i], i))[:k]


def metrics(
    scores: Tensor, truth: list[set[int]], masked: list[set[int]], cutoffs: tuple[int, ...]
) -> dict[str, float]:
    """Recall@K and NDCG@K, means over the users who have a held-out item. scores [M, N]."""
    sums: dict[str, float] = {f"{name}@{k}": 0.0 for name in ("recall", "ndcg") for k in cutoffs}
    tested = [user for user, wanted in enumerate(truth) if wanted]
    for user in tested:
        for k in cutoffs:
            best = ranked(scores[user].tolist(), masked[user], k)
            gains = [1 / math.log2(place + 2) for place, item in enumerate(best) if item in truth[user]]
            ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(truth[user]))))
            sums[f"recall@{k}"] += len(gains) / len(truth[user])
            sums[f"ndcg@{k}"] += sum(gains) / ideal
    return {name: value / len(tested) for name, value in sums.items()}
