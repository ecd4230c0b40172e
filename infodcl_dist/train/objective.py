"""The objective of Eq. 14 on one batch: its terms and their sum.

B rows of this rank's batch, D width.
"""

from typing import Any

import torch
from torch import Tensor

from infodcl_dist.base.random import integers, key_for, normal, uniform
from infodcl_dist.base.spans import span
from infodcl_dist.data.batches import Batch
from infodcl_dist.graph.bipartite import Bipartite
from infodcl_dist.graph.propagation import propagate
from infodcl_dist.model import losses
from infodcl_dist.model.channels import ChannelInputs
from infodcl_dist.model.losses import LossConfig
from infodcl_dist.parallel.catalogue_softmax import Catalogue, catalogue_of, catalogue_of_samples, contrastive
from infodcl_dist.parallel.collectives import (
    average_gradient,
    columns_to_rows,
    gather_rows,
    mean_over_ranks,
    place,
)
from infodcl_dist.parallel.tables import Lookup, Tables

TERMS = ("bpr", "reconstruction", "contrastive", "balance", "regularization", "user_contrastive")


class Objective:
    """The loss of a batch.

    Args:
        tables: the sharded embedding tables.
        engine: DeepSpeed's engine around the channels, or None for a model without channels.
        graph: the training graph when the model propagates during training (LightGCN), else None.
        layers: propagation layers during training.
        timesteps: T of the diffusion process.
        unconditional: share of examples whose metadata the denoiser does not see, see `DiffusionConfig`.
        loss: weights and choices.
        seed: of noise, diffusion steps, conditions and sampled items.
        world_size: number of ranks.
    """

    def __init__(
        self,
        *,
        tables: Tables,
        engine: Any | None,
        graph: Bipartite | None,
        layers: int,
        timesteps: int,
        unconditional: float,
        loss: LossConfig,
        seed: int,
        world_size: int,
    ) -> None:
        self.tables, self.engine, self.graph, self.layers = tables, engine, graph, layers
        self.timesteps, self.unconditional = timesteps, unconditional
        self.loss, self.seed, self.world_size = loss, seed, world_size

    def losses(self, batch: Batch, rows: Lookup) -> dict[str, Tensor]:
        """`loss`, to be differentiated, and its unweighted terms, whose means over ranks are global."""
        terms = self.terms(batch, rows)
        return {"loss": self.total(terms, batch.epoch)} | terms

    def total(self, terms: dict[str, Tensor], epoch: int) -> Tensor:
        """L of Eq. 14 from its unweighted terms (each summed over the channels), with an epoch's weights."""
        weights = {
            "bpr": self.loss.bpr,
            "reconstruction": self.loss.reconstruction_weight,
            "contrastive": self.loss.contrastive_weight(epoch),
            "balance": self.loss.balance,
            "regularization": self.loss.regularization,
            "user_contrastive": self.loss.user_contrastive,
        }
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def terms(self, batch: Batch, rows: Lookup) -> dict[str, Tensor]:
        """The unweighted terms of a batch and its table rows, those of the channels summed over channels."""
        shares = batch.weights * (self.world_size / batch.global_examples)
        scored = rows if self.graph is None else self._propagated(self.graph, batch)
        with span("bpr"):
            terms = {
                "bpr": losses.bpr(scored.users, scored.positives, scored.negatives, shares),
                "regularization": losses.regularization(rows.users, rows.positives, shares),
            }
        if self.engine is not None:
            terms |= self._channel_terms(self.engine, batch, rows, shares)
        return terms

    def _channel_terms(self, engine: Any, batch: Batch, rows: Lookup, shares: Tensor) -> dict[str, Tensor]:
        items = rows.positives
        with span("noise"):
            inputs = {name: self._channel_inputs(name, batch, items.shape[1]) for name in batch.metadata}
        with span("channels"):
            generated = list(engine(items, inputs, batch.weights).values())
        balance_norm, examples = self.loss.balance_norm, batch.global_examples
        terms = {
            "reconstruction": torch.stack([losses.reconstruction(items, views, shares) for views in generated]).sum(),
            "balance": losses.balance(generated, shares, balance_norm, examples, mean_over_ranks),
        }
        if self.loss.contrastive > 0 or self.loss.user_contrastive > 0:
            with span("contrastive"):
                terms |= self._contrastive(batch, rows, shares, generated)
        return terms

    def _contrastive(self, batch: Batch, rows: Lookup, shares: Tensor, generated: list[Tensor]) -> dict[str, Tensor]:
        """The terms that compare with the catalogue: of all channels' views at once, and of the users."""
        terms, loss, items = {}, self.loss, rows.positives
        channels = len(generated) if loss.contrastive > 0 else 0
        catalogue = self._catalogue(batch, rows, compared=channels + (loss.user_contrastive > 0))
        if channels > 0:
            views, own, against = torch.cat(generated), items.repeat(channels, 1), catalogue
            if loss.contrastive_gradient == "table":
                views = views.detach()
            if loss.contrastive_gradient == "views":
                own, against = own.detach(), catalogue.as_constants()
            shares_of_views = shares.repeat(channels)
            terms["contrastive"] = contrastive(views, own, against, shares_of_views, temperature=loss.temperature)
        if loss.user_contrastive > 0:
            users, temperature = rows.users, loss.user_temperature
            terms["user_contrastive"] = contrastive(users, items, catalogue, shares, temperature=temperature)
        return terms

    def _catalogue(self, batch: Batch, rows: Lookup, *, compared: int) -> Catalogue:
        """All items, or those that were sampled, for so many comparisons an example."""
        items, examples = self.tables.sizes["item"], batch.weights.shape[0]
        if rows.samples is None:
            views = compared * examples * self.world_size
            return catalogue_of(self.tables.rows("item"), items=items, views=views)
        # Padding is a rank's last examples; what it drew counts at no world size.
        real = min(max(batch.global_examples - place()[0] * examples, 0), examples)
        count = batch.global_examples * self.tables.samples_per_example
        return catalogue_of_samples(rows.samples[:real].flatten(0, 1), items=items, samples_of_all_ranks=count)

    def samples(self, batch: Batch) -> Tensor | None:
        """Uniform item ids int64 [B, S], drawn with replacement, when the tables look samples up."""
        count = self.tables.samples_per_example
        if count == 0:
            return None
        counters = batch.positions[:, None] * count + torch.arange(count, device=batch.positions.device)
        return integers(key_for(self.seed, "sample", batch.epoch), counters, self.tables.sizes["item"])

    def _channel_inputs(self, channel: str, batch: Batch, dim: int) -> ChannelInputs:
        noise = normal(key_for(self.seed, "noise", channel, batch.epoch), batch.positions, dim)
        steps = integers(key_for(self.seed, "timestep", channel, batch.epoch), batch.positions, self.timesteps)
        is_conditioned = None
        if self.unconditional < 1:
            key = key_for(self.seed, "condition", channel, batch.epoch)
            is_conditioned = uniform(key, batch.positions) >= self.unconditional
        return ChannelInputs(batch.metadata[channel], noise, steps, is_conditioned)

    def _propagated(self, graph: Bipartite, batch: Batch) -> Lookup:
        """The batch's rows after propagation: each rank propagates its columns of all nodes; then rows travel."""
        users = average_gradient(self.tables.columns("user"))
        items = average_gradient(self.tables.columns("item"))
        users, items = propagate(graph, users, items, self.layers)
        dim = self.tables.dim
        return Lookup(
            columns_to_rows(users[gather_rows(batch.users)], dim),
            columns_to_rows(items[gather_rows(batch.positives)], dim),
            columns_to_rows(items[gather_rows(batch.negatives)], dim),
        )
