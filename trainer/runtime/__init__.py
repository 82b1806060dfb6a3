"""Where a run happens: device, precision, ranks."""

from __future__ import annotations

from trainer.runtime.connect import PRECISIONS, Runtime, connect, environment_rank, select_device

__all__ = ["PRECISIONS", "Runtime", "connect", "environment_rank", "select_device"]
