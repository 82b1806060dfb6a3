"""Where a run happens: device, precision, ranks."""

from __future__ import annotations

from trainer.runtime.connect import Runtime, connect, select_device

__all__ = ["Runtime", "connect", "select_device"]
