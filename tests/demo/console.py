"""What the demo prints: numbered steps with their seconds, commands with their output.

Used by all of this package. A step that fails is shown as failed and the error goes on.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 160


def open_console() -> Console:
    """A console that does not fold tables where nobody looks at a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


@dataclass
class Steps:
    """The steps of one run and how long each took."""

    console: Console = field(default_factory=open_console)
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Shows a step and its seconds."""
        began = time.monotonic()
        self.console.print(Text.assemble((f"\n▶ {title}", "bold cyan")))
        done = False
        try:
            yield
            done = True
        finally:
            self.seconds[title] = time.monotonic() - began
            mark, style = ("✓", "green") if done else ("✗", "red")
            self.console.print(Text(f"{mark} {self.seconds[title]:.1f} s", style))

    def say(self, text: str) -> None:
        """Prints lines below a step."""
        for line in text.rstrip().splitlines():
            self.console.print(Text(f"  {line}"), soft_wrap=True)

    def command(self, *words: str) -> None:
        """Shows a command as a user would type it."""
        self.console.print(Text(f"  $ {' '.join(words)}", "bold"), soft_wrap=True)

    @property
    def total(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began


def columns(environment: dict[str, str]) -> dict[str, str]:
    """The environment for a child that draws tables of its own."""
    return environment if os.isatty(1) else {**environment, "COLUMNS": str(PIPE_WIDTH)}
