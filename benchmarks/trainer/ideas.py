"""What would come next for a goal that is not met: written by hand, after reading the profile.

Shown on the page beside the row that misses its goal. A unit test refuses an idea whose row is gone.
"""

from trainer.figures import Kind

NONE_YET = "no idea is written down yet"

_LIBRARIES = (
    "what is there before the first step is libraries and weights in Float32, which both sides have; next: "
    "hold the frozen weights in bfloat16 and cast a layer when it is used"
)
_WRITING = (
    "answers are written token by token, in products of a few rows that the speed of memory bounds, alike "
    "on both sides; next: merge the adapter into a copy of the weights while answers are written, and stop "
    "reading rows that have ended"
)

IDEAS: dict[tuple[str, Kind], str] = {
    (
        "SFT",
        "speed",
    ): "products with frozen weights take most of the time, and they are the library's; next: "
    "bfloat16 products on CPUs that have them",
    (
        "SFT",
        "memory",
    ): f"{_LIBRARIES}; `training.gradientCheckpointing` recomputes as many layers as a pod's "
    "`resources.memory` demands, and these runs name none",
    ("SFT, bfloat16", "memory"): f"one row a step: {_LIBRARIES}",
    ("DPO", "memory"): f"{_LIBRARIES}; next: smaller passes where prompts are long",
    ("GRPO", "speed"): _WRITING,
    ("GRPO", "memory"): _LIBRARIES,
    ("PPO", "speed"): _WRITING,
    ("PPO", "memory"): _LIBRARIES,
    (
        "first step",
        "first step",
    ): "imports of torch and transformers are most of it; next: import while the weights are read",
}
"""By case and kind of goal."""
