"""What a dataset plugin provides."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class DatasetFactory(Protocol):
    """Builds a dataset from the `data.datamodule.params` of an experiment."""

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Build the dataset.

        Args:
            opt_params: `local_rank`, `dist_enabled`, `save_dir`, and `search_paths`, the folders in which
                relative paths are looked up, nearest first.
            params: the parameters from the YAML.

        Returns:
            `{"dataset": torch Dataset, "norm_stats": {feature: {"mean": array, "std": array, …}}}`;
            `norm_stats` may be missing or None for data that needs no normalization. A dataset whose
            `__getitems__(indices)` returns one dict of tensors `(B, …)` is read a batch at a time.
            `without_effect`, if it is there, maps settings outside of `params` that do nothing for this
            dataset, such as `data.frame_memory`, to the reason.

        Raises:
            trainer.config.errors.ParameterError: a parameter cannot be used, and which.
        """
        ...
