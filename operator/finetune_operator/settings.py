"""The operator's settings, all from environment variables named `FINETUNE_OPERATOR_…`.

Read once by `__main__`. The chart sets them; `finetune-operator --help` lists them.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from finetune_operator.plan.installation import Checksums, Installation

PREFIX = "FINETUNE_OPERATOR_"
# Without a user and a password, which would show in every pod.
HUB_PATTERN = r"^https?://[-A-Za-z0-9.\[\]:]+(/[-A-Za-z0-9._~/]*)?$"


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names it, one finding a line."""


class Settings(BaseSettings):
    """Settings of one operator process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    trainer_image: Annotated[str, Field(min_length=1)]
    """Image of the trainer pods."""

    trainer_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull it."""

    trainer_image_pull_secrets: str = ""
    """Pull secrets in the jobs' namespaces, separated by commas."""

    namespaces: str = ""
    """Namespaces to serve, separated by commas; empty for the whole cluster."""

    hub_endpoint: Annotated[str, Field(pattern=HUB_PATTERN)] | None = None
    """URL of the hub that `hf://` sources mean; without it, the public one."""

    storage_endpoint: str | None = None
    """Default of spec.storage.endpoint."""

    storage_region: str | None = None
    """Default of spec.storage.region."""

    storage_credentials_secret: str | None = None
    """Default of spec.storage.credentials.secretName, in each job's namespace."""

    storage_checksums: Checksums | None = None
    """Default of spec.storage.checksums, for jobs that name no endpoint of their own."""

    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Jobs that are worked on at the same time."""

    status_interval_seconds: Annotated[float, Field(ge=0.5, le=600)] = 10
    """Shortest time between two progress updates of a job."""

    progress_interval_seconds: Annotated[float, Field(gt=0, le=600)] = 5
    """Shortest time between two progress records of a trainer."""

    resync_seconds: Annotated[float, Field(ge=5, le=86400)] = 300
    """Time between two readings of all lists."""

    health_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Port of /healthz."""

    log_format: Literal["json", "console"] = "json"
    """How log lines look."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least important lines that are written."""

    @field_validator("trainer_image_pull_secrets", "namespaces")
    @classmethod
    def _names_only(cls, value: str) -> str:
        for name in _names(value):
            if not all(part.isalnum() for part in name.replace(".", "-").split("-")):
                raise ValueError(f"{name!r} is not a name; separate names by commas")
        return value

    @property
    def namespace_names(self) -> tuple[str, ...]:
        """The namespaces to serve; empty for all."""
        return _names(self.namespaces)

    @property
    def installation(self) -> Installation:
        """What concerns the jobs."""
        return Installation(
            image=self.trainer_image,
            image_pull_policy=self.trainer_image_pull_policy,
            image_pull_secrets=_names(self.trainer_image_pull_secrets),
            progress_interval_seconds=self.progress_interval_seconds,
            hub_endpoint=self.hub_endpoint,
            endpoint=self.storage_endpoint,
            region=self.storage_region,
            credentials_secret=self.storage_credentials_secret,
            checksums=self.storage_checksums,
        )


def load() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: A setting is missing or wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_findings(error))) from None


def describe() -> str:
    """All settings with their meaning and their default, for `--help`."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"default: {field.default or 'none'}"
        lines.append(f"  {PREFIX}{name.upper()}\n      {field.description} ({default})")
    return "\n".join(lines)


def _findings(error: ValidationError) -> list[str]:
    findings = []
    for found in error.errors(include_url=False, include_input=False):
        name = PREFIX + "_".join(str(part) for part in found["loc"]).upper()
        findings.append("is not set" if found["type"] == "missing" else found["msg"])
        findings[-1] = f"{name}: {findings[-1]}; see `finetune-operator --help`"
    return findings


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
