"""Who works beside the learner: the replay buffer, the policy state manager and the rollout workers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config.online import OnlineConfig
from trainer.online.actors import MANAGER, REPLAY, ReplayBufferActor
from trainer.online.state_manager import PolicyStateManagerActor
from trainer.online.worker import RolloutWorkerActor
from trainer.utils.errors import UsageError
from trainer.utils.log import log

_STATUS_SECONDS = 15.0
_CLOSING_SECONDS = 120.0
