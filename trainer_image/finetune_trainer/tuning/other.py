"""Any other kind of adapter that PEFT has, by PEFT's own name, with checked arguments.

Arguments come from a manifest, so only plain values that the kind's configuration declares are let
through: nothing that names a file, a model or code, nothing that the trainer sets itself. Kinds that
cannot work here are rows of the compatibility table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, get_type_hints

from peft import PeftConfig
from peft.config import PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ConfigDict, TypeAdapter, ValidationError

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import OtherAdapter, Tuning
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.heads import Head
from finetune_trainer.tuning.targets import ALL_LINEAR, choose_targets, whole_modules

ERRORS = (
    ValueError, TypeError, NotImplementedError, ImportError, AttributeError, KeyError, AssertionError,
    RuntimeError,
)  # fmt: skip
"""What PEFT raises where a kind does not fit a model."""

NEEDS_VALUES = ("BOFT", "FROD", "SHIRA", "UNILORA")
"""Kinds that look at weights, or at numbers of their own, while they are built."""

_NAME, _ARGUMENTS = "tuning.other.name", "tuning.other.arguments"
# PEFT's name -> `tuning.type`.
_OWN = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "IA3": "IA3",
    "PREFIX_TUNING": "PrefixTuning",
    "PROMPT_TUNING": "PromptTuning",
    "P_TUNING": "PTuning",
}
# Their modules are no linear ones, and nobody names them: norms, embeddings, attention.
_OWN_TARGETS = ("ADAPTION_PROMPT", "LN_TUNING", "TRAINABLE_TOKENS")
_TARGETS = "target_modules"
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
# Argument that nobody may give -> why.
_WITHHELD = {
    **{field.name: "the trainer sets it" for field in fields(PeftConfig)},
    "modules_to_save": "the trainer sets it",
    "bias": "an adapter cannot take back what the base's own biases learn",
    "progressbar": "there is nobody to look at it",
}


def config(model: Model, tuning: Tuning, head: Head) -> PeftConfig:
    """PEFT's configuration for a model.

    Args:
        model: The base model, or its outline.
        tuning: The block of the spec.
        head: Which head the model carries.

    Raises:
        TrainerError: InvalidSpec for a name or an argument that is not known or not allowed,
            TargetModulesNotFound.
    """
    block = _block(tuning)
    kind = _kind(block.name)
    given = checked(kind, block.arguments or {})
    if _TARGETS in given and block.name in _OWN_TARGETS:
        raise _invalid(f"`{_ARGUMENTS}.{_TARGETS}`: {block.name} has targets of its own")
    known = _declared(kind)
    arguments = {**given, "task_type": head.peft_task}
    if block.name == "LN_TUNING":
        arguments[_TARGETS] = _norms(model)
    elif _TARGETS in known and block.name not in _OWN_TARGETS:
        arguments[_TARGETS] = _targets(model, given.get(_TARGETS, [ALL_LINEAR]), head)
    whole = whole_modules(model, head)
    if "modules_to_save" in known:
        arguments["modules_to_save"] = whole or None
    elif whole:
        message = f"`{_NAME}`: PEFT stores no {' and no '.join(whole)} with {block.name}"
        raise TrainerError(Reason.INVALID_SPEC, message, "Use an adapter of the LoRA family.")
    try:
        return kind(**arguments)
    except ERRORS as error:
        raise refused(tuning, error) from error


def checked(kind: type[PeftConfig], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that a kind's configuration declares, each of its declared type.

    Raises:
        TrainerError: InvalidSpec naming the argument.
    """
    hints = get_type_hints(kind)
    known = sorted(_declared(kind) - _WITHHELD.keys())
    for name, value in arguments.items():
        if name in _WITHHELD:
            raise _invalid(f"`{_ARGUMENTS}.{name}` is not for a manifest: {_WITHHELD[name]}")
        if name not in known:
            raise _invalid(f"`{_ARGUMENTS}.{name}`: there is no such argument", name, known)
        _check_type(name, value, hints[name])
    return dict(arguments)


def needs_values(tuning: Tuning) -> bool:
    """Whether the adapter cannot be built on the outline of a model."""
    return tuning.other is not None and tuning.other.name in NEEDS_VALUES


def refused(tuning: Tuning, error: Exception) -> TrainerError:
    """The failure that PEFT's refusal is."""
    name = _block(tuning).name
    said = f"{type(error).__name__}: {error}"
    return _invalid(f"`tuning.other`: PEFT cannot build {name} for this model: {said}"[:1900])


def _block(tuning: Tuning) -> OtherAdapter:
    if tuning.other is None:
        raise _invalid(f"`type: Other` needs `{_NAME}`")
    return tuning.other


def _kind(name: str) -> type[PeftConfig]:
    kinds = {each.value: kind for each, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name in _OWN:
        raise _invalid(
            f"`{_NAME}`: {name} is `tuning.type: {_OWN[name]}`, with settings of its own"
        )
    if name not in kinds:
        rest = sorted(kinds.keys() - _OWN.keys())
        raise _invalid(f"`{_NAME}`: PEFT has no {name}", name.upper(), rest)
    if issubclass(kinds[name], PromptLearningConfig):
        message = f"`{_NAME}`: {name} lives in virtual tokens and not in the model"
        hint = "Use `tuning.type` PrefixTuning, PromptTuning or PTuning."
        raise TrainerError(Reason.INVALID_SPEC, message, hint)
    return kinds[name]


def _declared(kind: type[PeftConfig]) -> set[str]:
    return {field.name for field in fields(kind) if field.init}


def _targets(model: Model, wanted: object, head: Head) -> list[str]:
    # PEFT would take a text as a regular expression.
    names = [wanted] if wanted == ALL_LINEAR else wanted
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names) or not names:
        raise _invalid(f"`{_ARGUMENTS}.{_TARGETS}` is a list of names, or {ALL_LINEAR}")
    return choose_targets(model, names, head, field=f"{_ARGUMENTS}.{_TARGETS}")


def _norms(model: Model) -> list[str]:
    modules = model.named_modules()
    return sorted({n.rpartition(".")[2] for n, each in modules if "Norm" in type(each).__name__})


def _check_type(name: str, value: object, declared: Any) -> None:  # noqa: ANN401 - a type
    try:
        # Strict: no text for a number, no true for 1.
        TypeAdapter(declared, config=_STRICT).validate_python(value)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        words = str(declared).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
        message = f"`{_ARGUMENTS}.{name}`: {value!r} is not {words}: {said}"
        raise _invalid(message[:1900]) from None


def _invalid(message: str, name: str = "", known: Sequence[str] = ()) -> TrainerError:
    near = get_close_matches(name, known, n=3, cutoff=0.5) if name else []
    if near:
        return TrainerError(Reason.INVALID_SPEC, message, f"Did you mean {' or '.join(near)}?")
    hint = f"There are {', '.join(known)}."[:1900] if known else None
    return TrainerError(Reason.INVALID_SPEC, message, hint)
