"""URIs of models, data and outputs, taken apart.

Used by `storage` only. Shapes were checked by the API (no `..`, no empty part); nothing is opened.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Uri:
    """A place: `s3://bucket/key`, `pvc://claim/path` or `file:///path`.

    Attributes:
        scheme: `s3`, `pvc` or `file`.
        authority: Bucket or claim; empty for `file`.
        path: What follows, without slashes at its ends.
    """

    scheme: str
    authority: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "Uri":
        """Take a URI apart.

        >>> Uri.parse("s3://models/base/")
        Uri(scheme='s3', authority='models', path='base')
        """
        scheme, _, rest = text.partition("://")
        authority, _, path = rest.partition("/")
        return cls(scheme, authority, path.strip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}/{self.path}".rstrip("/")
