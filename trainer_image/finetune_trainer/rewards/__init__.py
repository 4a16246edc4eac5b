"""Rewards: a library of verifiable ones, and reward models. None of them runs code from a manifest.

`functions` holds the library, `build` makes rewards of a spec, `scores` adds them up, `reward_model`
asks a sequence classifier (the only module here that imports torch). Answers are hostile: a policy is
trained to find whatever raises a reward, so every function is bounded in time and memory.
"""
