"""Log lines: one a line, as JSON or for a console; kopf's own lines go the same way.

Called once by `__main__`. Lines are in the past tense and name the job, its namespace and its UID.
Nothing that holds credentials is ever logged; `cluster` keeps headers out of `repr`.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.types import Processor

FRAMEWORKS = ("kopf", "aiohttp", "asyncio")


def configure(log_format: Literal["json", "console"], level: str) -> None:
    """Set up structlog and the standard library's logging."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    _route(shared, log_format, level)


def _route(shared: list[Processor], log_format: str, level: str) -> None:
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in FRAMEWORKS:
        # The framework speaks of every event; its warnings are enough.
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
