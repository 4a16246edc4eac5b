"""What can be done with an output at a terminal: `generate`, `chat`, `evaluate`.

Registered by `__main__`, which imports a command only when it is asked for.
"""
