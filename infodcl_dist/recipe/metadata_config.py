"""The configuration of what is made before training: pre-trained embeddings, and channels from them."""

from typing import Any, Literal

from pydantic import Field

from infodcl_dist.base.config import Config
from infodcl_dist.graph.similarity import Measure

# Keys that say how neighbours are found and averaged; all others are pre-training's.
OF_ITEMS = ("neighbours", "similarity", "hub_cap")
OF_USERS = ("social_graph", "social_neighbours", "similarity", "hub_cap")


class MetadataConfig(Config):
    """Pre-training and the channels made from it. Reused by every run with the same data and the values that matter."""

    neighbours: int = Field(
        default=20, ge=1, description="most similar items averaged by the knowledge channel and by those of item graphs"
    )
    social_neighbours: int | None = Field(
        default=None,
        ge=1,
        description="most similar users averaged by the social channel; null: all with any similarity",
    )
    social_graph: Literal["interactions", "given"] = Field(
        default="interactions",
        description="whom the social channel takes for a user's neighbours: users with similar interactions, or those "
        "of the dataset's user graph, each with weight 1 (then the other similarity keys have no say in it)",
    )
    similarity: Measure = Field(
        default="jaccard", description="of two sets a, b: jaccard |a ∩ b| / |a ∪ b|, or cosine |a ∩ b| / √(|a| |b|)"
    )
    hub_cap: int | None = Field(
        default=None,
        ge=1,
        description="users and attributes (for similar items) and items (for similar users) with more pairs than that "
        "count in no similarity: they cost the square of their pairs and tell the least; null: all count",
    )
    seed: int = Field(default=0, ge=0, description="seed of pre-training")
    dim: int = Field(
        default=64, ge=2, le=4096, description="width F of the pre-trained embeddings, and so of the channels' rows"
    )
    layers: int = Field(default=3, ge=0, le=10, description="LightGCN layers in pre-training")
    epochs: int = Field(default=200, ge=1, description="pre-training epochs, at most")
    global_batch_size: int = Field(default=2048, ge=1, description="examples a pre-training step")
    learning_rate: float = Field(default=0.002, gt=0, le=1, description="of pre-training")
    regularization: float = Field(default=1e-4, ge=0, description="L2 weight in pre-training")
    evaluate_every: int = Field(default=5, ge=1, description="epochs between validations in pre-training")
    patience: int = Field(default=4, ge=1, description="validations without gain that end pre-training")

    def of_channel(self, channel: str) -> dict[str, Any]:
        """The values that a made channel hangs on, beside those of pre-training."""
        names = set(OF_ITEMS)
        if channel == "social":
            names = set(OF_USERS) if self.social_graph == "interactions" else {"social_graph"}
        return self.model_dump(mode="json", include=names)

    def of_pretraining(self) -> dict[str, Any]:
        """The values that pre-training hangs on: all that no channel has for itself."""
        return self.model_dump(mode="json", exclude={*OF_ITEMS, *OF_USERS})
