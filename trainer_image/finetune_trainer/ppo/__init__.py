"""Proximal policy optimisation against a reward model, our own.

`formulas` and `algorithm` are the method; `policy` asks a language model for the probabilities and values
that it needs. `recipes.ppo` connects both to data, storage and reports.
"""
