"""Checkpoints in storage: how they are published, found again, kept and removed.

A checkpoint is a folder that exists once its manifest does. The training session hands folders to
`BackgroundPublisher`; a new attempt takes the fence with `CheckpointStore.claim` and begins from
`CheckpointStore.newest`. What lies in the folders is the session's matter; nothing here knows torch.
"""

from finetune_trainer.checkpoints.background import BackgroundPublisher
from finetune_trainer.checkpoints.fence import Fence
from finetune_trainer.checkpoints.identity import Identity, require_same
from finetune_trainer.checkpoints.manifest import CheckpointManifest
from finetune_trainer.checkpoints.store import CheckpointStore, Found

__all__ = [
    "BackgroundPublisher",
    "CheckpointManifest",
    "CheckpointStore",
    "Fence",
    "Found",
    "Identity",
    "require_same",
]
