"""Shapes that every block of the API shares: the base model, rules, references, text types.

Imported by all of `finetune_api.v1alpha1`. A rule is written once with its two faces, the CEL
expression that the API server evaluates and the Python check that pydantic runs, so that a
manifest is judged alike by `kubectl apply` and by `finetune-trainer run` on a laptop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["finetune.dev/v1alpha1"] = "finetune.dev/v1alpha1"


@dataclass(frozen=True)
class Rule:
    """One rule across fields, in both languages.

    Attributes:
        cel: The expression for the API server; `self` is the object, `oldSelf` its former value.
        message: What is wrong and what to do, for the user.
        check: The same rule on the validated model. None for transition rules (`oldSelf`), which
            have no meaning for a single manifest.
    """

    cel: str
    message: str
    check: Callable[[Any], bool] | None = None


@dataclass(frozen=True)
class Kubernetes:
    """Schema extensions of one field that pydantic has no word for.

    Attributes:
        list_type: `atomic`, `set` or `map` for server-side apply.
        list_keys: The keys of a `map` list.
        rules: CEL rules on this field alone, mostly immutability.
        int_or_string: Emit `x-kubernetes-int-or-string`.
    """

    list_type: str | None = None
    list_keys: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    int_or_string: bool = False

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        if self.list_type:
            schema["x-kubernetes-list-type"] = self.list_type
        if self.list_keys:
            schema["x-kubernetes-list-map-keys"] = list(self.list_keys)
        if self.int_or_string:
            schema["x-kubernetes-int-or-string"] = True
        return _with_rules(schema, self.rules)


def _with_rules(schema: JsonSchemaValue, rules: tuple[Rule, ...]) -> JsonSchemaValue:
    if rules:
        validations = [{"rule": rule.cel, "message": rule.message} for rule in rules]
        schema["x-kubernetes-validations"] = validations
    return schema


IMMUTABLE = Kubernetes(
    rules=(
        Rule(
            cel="self == oldSelf",
            message="this field cannot change after the job was created; create a new job instead",
        ),
    )
)


def unchanged(*fields: str) -> tuple[Rule, ...]:
    """Transition rules: these optional fields (in camelCase) keep their value after creation."""
    return tuple(
        Rule(
            cel=f"has(self.{name}) == has(oldSelf.{name})"
            f" && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            message=f"`{name}` cannot change after the job was created; create a new job instead",
        )
        for name in fields
    )


class ApiModel(BaseModel):
    """Base of every block: camelCase in YAML, snake_case in Python, frozen, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        _with_rules(handler.resolve_ref_schema(schema), cls.rules)
        return schema

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        for rule in self.rules:
            if rule.check is not None and not rule.check(self):
                raise ValueError(rule.message)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The block as it stands in a manifest: camelCase keys, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def only_with(block: str, kind: str, *, field: str = "type") -> Rule:
    """The union rule: block `block` may be given only when `field` is `kind`."""
    camel = to_camel(block)
    return Rule(
        cel=f"!has(self.{camel}) || self.{field} == '{kind}'",
        message=f"`{camel}` is allowed only with `{field}: {kind}`",
        check=lambda model: getattr(model, block) is None or getattr(model, field) == kind,
    )


AUTO: Literal["Auto"] = "Auto"


def auto_or_between(field: str, lowest: int, highest: int) -> Rule:
    """The rule of an `AutoOrCount` field, whose bounds the schema cannot carry beside a word."""
    camel = to_camel(field)

    def check(model: BaseModel) -> bool:
        value = getattr(model, field)
        return value == AUTO or bool(lowest <= value <= highest)

    return Rule(
        cel=f"type(self.{camel}) == string ? self.{camel} == 'Auto'"
        f" : self.{camel} >= {lowest} && self.{camel} <= {highest}",
        message=f"`{camel}` is `Auto` or a whole number from {lowest} to {highest}",
        check=check,
    )


AutoOrCount = Annotated[int | Literal["Auto"], Kubernetes(int_or_string=True)]
"""A whole number, or `Auto`: resolved when the job runs. Give its bounds by `auto_or_between`."""

DnsLabel = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A Kubernetes object name that is one DNS label."""

DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""A Kubernetes object name with dots allowed."""

LabelKey = Annotated[
    str,
    Field(
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[
    str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
]

ConfigKey = Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""A key of a Secret or a ConfigMap."""

Quantity = Annotated[
    str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
]
"""A Kubernetes quantity, such as `500m` or `16Gi`."""

# Printable, no line breaks: these values reach logs and terminals.
Line = Annotated[str, Field(max_length=1024, pattern=r"^\PC*$")]


# One part of a path: anything printable but `.` and `..`. Path traversal is refused at apply, since
# keys built from these URIs must stay under their prefix (compare CVE-2023-1177 and its successors).
# Written without look-ahead, which neither the API server's regular expressions nor pydantic's have.
_CHAR = r"[^\pC\s/\\]"
_FIRST = r"[^\pC\s/\\.]"
_SEGMENT = rf"({_FIRST}{_CHAR}*|\.{_FIRST}{_CHAR}*|\.\.{_CHAR}+)"


def uri_pattern(*schemes: str) -> str:
    """A regular expression for `scheme://part/part` of the schemes, and for `file:///part/part`."""
    return rf"^(({'|'.join(schemes)})://|file:///){_SEGMENT}(/{_SEGMENT})*/?$"


# `job://` names one object of this namespace, whose names are at most 50 characters: no path.
_JOB = "job://[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?"
SOURCE_PATTERN = f"{uri_pattern('hf', 's3', 'pvc')}|^{_JOB}$"
OUTPUT_PATTERN = uri_pattern("s3", "pvc")

SourceUri = Annotated[str, Field(min_length=6, max_length=1024, pattern=SOURCE_PATTERN)]
OutputUri = Annotated[str, Field(min_length=6, max_length=1024, pattern=OUTPUT_PATTERN)]


class SecretReference(ApiModel):
    """A Secret in the job's own namespace. Another namespace cannot be named."""

    secret_name: DnsName
    """Name of the Secret. Its values are mounted as files and are never read by the operator."""
