import pytest

from finetune_trainer.storage.uri import Uri


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://bucket/a/b.jsonl", ("s3", "bucket", "a/b.jsonl")),
        ("s3://bucket/a/", ("s3", "bucket", "a")),
        ("s3://bucket", ("s3", "bucket", "")),
        ("pvc://claim/x", ("pvc", "claim", "x")),
        ("file:///tmp/x", ("file", "", "tmp/x")),
    ],
)
def test_parts(text: str, parts: tuple[str, str, str]) -> None:
    uri = Uri.parse(text)
    assert (uri.scheme, uri.authority, uri.path) == parts
    assert str(uri) == text.rstrip("/")
