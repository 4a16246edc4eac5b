"""The one exception of the plugin: what went wrong, and a hint.

Raised anywhere below `__main__`, which prints it on stderr and exits with `EXIT_TROUBLE`.
"""

EXIT_COMPLETE = 0
EXIT_FAILED = 1
EXIT_TIMEOUT = 2
EXIT_TROUBLE = 3


class PluginError(Exception):
    """The plugin cannot do what was asked; the message is for the user."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
