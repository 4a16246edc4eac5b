"""The one connection to the hub: address, token, certificates, patience, and nobody else's calls.

Made by `storage.Storage` when there is an `hf://` source, which is also when huggingface_hub is first
imported. The libraries that train stay offline: the client that huggingface_hub shares with them lets
requests pass only from within `HubClient.calls`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from finetune_api.run_file import HUB_TOKEN_FILE
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import Environment
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign
from finetune_trainer.storage.hub_failures import is_temporary, retry_after, translated

Kind = Literal["model", "dataset"]
PUBLIC_HUB = "https://huggingface.co"
TRIES = 4
# Seconds: to connect, and between two pieces of an answer.
TIMEOUT = {"connect": 10.0, "read": 30.0, "write": 30.0, "pool": 30.0}
# Seconds before a failed call is repeated: the first doubles with each try.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)
_ours: ContextVar[bool] = ContextVar("hub_call_of_ours", default=False)


@dataclass(frozen=True)
class HubClient:
    """The hub, as one kind of source sees it.

    Attributes:
        endpoint: Its address.
        token: What to show it, or None; never logged.
        kind: Of the repositories that are read.
        scratch: Folder for what is downloaded.
        commits: What each revision stood for when it was first asked for.
    """

    endpoint: str
    token: str | None = field(repr=False)
    kind: Kind
    scratch: Path
    commits: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def api(self) -> Foreign:
        """huggingface_hub's own client."""
        from huggingface_hub import HfApi

        # `False` and not None, for which it would look for a token of its own.
        return HfApi(endpoint=self.endpoint, token=self.token or False)

    def commit(self, repository: str, revision: str, uri: str, missing: Reason) -> str:
        """The commit that a revision stands for: asked once a run, so that a run has one."""
        key = (repository, revision)
        if key not in self.commits:
            info = self.calls(
                lambda: self.api.repo_info(
                    repository, revision=revision, repo_type=self.kind, timeout=TIMEOUT["read"]
                ),
                uri,
                missing,
            )
            self.commits[key] = str(info.sha)
        return self.commits[key]

    def calls(self, call: Callable[[], Answer], uri: str, missing: Reason) -> Answer:
        """Do a call of huggingface_hub online, again if the failure may pass.

        Args:
            call: The call.
            uri: What is read, for messages.
            missing: Reason if it is not there.

        Raises:
            TrainerError: A reason of the hub.
        """
        with translated(uri, missing, known=self.token is not None), _online():
            for number in range(1, TRIES):
                try:
                    return call()
                except Exception as error:
                    if not is_temporary(error):
                        raise
                    pause = min(
                        retry_after(error) or FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE
                    )
                    kind = type(error).__name__
                    logger.info("%s: %s; trying again in %.1f s", uri, kind, pause)
                    time.sleep(pause)
            return call()


def make_hub_client(environment: Environment, kind: Kind) -> HubClient:
    """The client of this run for one kind of repository.

    Raises:
        TrainerError: HubCredentialsMissing, or InvalidSpec for an endpoint that is no URL.
    """
    endpoint = (environment.hub_endpoint or PUBLIC_HUB).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        message = f"HF_ENDPOINT is {endpoint!r}, which is not the URL of a hub"
        raise TrainerError(Reason.INVALID_SPEC, message)
    _share(environment.ca_bundle)
    return HubClient(endpoint, _token(environment, kind), kind, environment.scratch / "hub" / kind)


def _token(environment: Environment, kind: Kind) -> str | None:
    folder = environment.hub_credentials(kind)
    if folder is None:
        return environment.hub_token
    where = f"the Secret in `{'model' if kind == 'model' else 'data'}.credentials`"
    try:
        # `kubectl create secret --from-file` keeps the newline that editors put at the end.
        token = (folder / HUB_TOKEN_FILE).read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        message = f"{where}: key {HUB_TOKEN_FILE} is missing"
        raise TrainerError(Reason.HUB_CREDENTIALS_MISSING, message) from None
    except UnicodeDecodeError:
        token = "not ascii"  # noqa: S105 - refused below, as any text with a space
    if not token:
        message = f"{where}: key {HUB_TOKEN_FILE} is empty"
        raise TrainerError(Reason.HUB_CREDENTIALS_MISSING, message)
    if len(token.split()) > 1:
        message = f"{where}: key {HUB_TOKEN_FILE} is not one word"
        raise TrainerError(Reason.HUB_CREDENTIALS_INVALID, message)
    return token


def _share(ca_bundle: Path | None) -> None:
    import httpx2
    from huggingface_hub import set_client_factory

    # Its warnings carry the signed addresses of downloads; our own log says what happened.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    certificates = httpx2.create_ssl_context()
    if ca_bundle:
        certificates.load_verify_locations(ca_bundle)
    set_client_factory(
        lambda: httpx2.Client(
            event_hooks={"request": [_admit]}, follow_redirects=True, verify=certificates
        )
    )


def _admit(request: Foreign) -> None:
    """Runs before every request of huggingface_hub in this process, whoever makes it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not _ours.get():
        message = f"{request.url.host} was asked for behind our back; libraries stay offline"
        raise OfflineModeIsEnabled(message)
    # Some of its calls ask for no timeout at all.
    request.extensions["timeout"] = TIMEOUT


@contextmanager
def _online() -> Iterator[None]:
    reset = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(reset)
