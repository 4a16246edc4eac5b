"""Whole runs in the interpreter, which must be on before any kernel is decorated, and must know bfloat16."""

import support.interpreter  # noqa: F401 - its import switches it on
