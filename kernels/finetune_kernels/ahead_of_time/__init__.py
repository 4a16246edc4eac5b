"""Compiles every kernel for every chip ahead of time, on a machine without a GPU.

The interpreter, which the tests use, hides what a compiler refuses, what spills and what does not fit into
shared memory. `python -m finetune_kernels.ahead_of_time` (`make kernels`) compiles all launches of
`catalogue` for all of `chips`, and keeps what each kernel takes in a committed table. Launches nothing.
"""
