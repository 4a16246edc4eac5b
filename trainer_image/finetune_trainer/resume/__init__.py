"""What a run must remember to go on as if nothing had happened, as a folder.

`checkpointing` says when a run is saved and hands the folder on; `taking` writes and reads it, piece by
piece: weights and optimiser (`trainer`, `ppo.training`), random numbers (`randomness`), the watch, the
adapter's companion, and what was measured before training (`start`). Tensors are stored as safetensors,
everything else as JSON: nothing is pickled. Where folders go is the matter of `checkpoints`.
"""
