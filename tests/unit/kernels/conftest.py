"""The interpreter must be on before any kernel is decorated."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
