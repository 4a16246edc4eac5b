"""Which parameters are trained: all weights, or an adapter; one module for each kind.

`apply` is called by the recipes between loading and training and knows the kinds; `targets` finds the
modules that get an adapter. Nothing is imported here, because PEFT takes seconds.
"""
