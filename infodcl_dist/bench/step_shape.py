"""The sizes of a run's step, from its configuration and its data set's manifest: nothing is read or allocated."""

from infodcl_dist.bench.step_model import StepShape
from infodcl_dist.data.dataset import Manifest
from infodcl_dist.parallel.table_plan import column_shards
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run_plan import channel_width


def step_shape(config: RunConfig, manifest: Manifest, world_size: int) -> StepShape:
    """What `step_model.predict` is asked about.

    Raises:
        UserError: the configuration names a channel that the data set has not.
    """
    channels = config.model.trained_channels
    shards = column_shards(config.model.dim, world_size) if config.tables.sharding == "column_wise" else 1
    return StepShape(
        users=manifest.users,
        items=manifest.items,
        pairs=manifest.counts["train"],
        global_batch=config.train.global_batch_size,
        dim=config.model.dim,
        metadata_dims=tuple(channel_width(name, config, manifest) for name in channels),
        timesteps=config.model.timesteps,
        world_size=world_size,
        is_fused=config.tables.is_fused,
        answered_share=1 / shards,
        samples_per_example=config.samples_per_example,
        views_per_example=config.views_per_example,
        training_layers=config.model.training_layers,
    )
