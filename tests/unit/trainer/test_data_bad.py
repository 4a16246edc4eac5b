"""Every row of the table of bad data ends in its own reason, with its place, and a hint."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1 import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data import files, prepare
from finetune_trainer.data.given import Given
from finetune_trainer.data.load import Examples, load
from finetune_trainer.environment import read as environment_of
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Storage
from support.bad_data import BAD_DATA, BadData
from support.jobs import spec
from support.tiny_models import tiny_tokenizer

VOCABULARY = 400
PREPARERS: dict[tuple[str, str], Any] = {
    ("SFT", "text-generation"): prepare.token_rows,
    ("DPO", "text-generation"): prepare.preference_rows,
    ("SFT", "text-classification"): prepare.class_rows,
}


def loaded(case: BadData, folder: Path) -> tuple[FineTuneJobSpec, Examples]:
    source = folder / "t"
    source.mkdir()
    for name, content in case.files.items():
        (source / name).write_bytes(content)
    place = source / next(iter(case.files)) if len(case.files) == 1 else source
    changes = {"data.train": [{"source": f"file://{place}"}], **case.changes}
    wanted = FineTuneJobSpec.model_validate(spec(changes))
    environment = environment_of({}, folder)
    found = files.find_train(wanted.data, Storage(None, environment))
    return wanted, load(wanted, files.fetch(found, folder / "data"), [])


def tokenized(wanted: FineTuneJobSpec, examples: Examples) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = wanted.data.chat_template or tokenizer.chat_template
    given = Given(examples, wanted.data, tokenizer, 512, wanted.training.seed, VOCABULARY)
    PREPARERS[wanted.method.type, wanted.model.task](given)


def learn(case: BadData, folder: Path) -> None:
    wanted, examples = loaded(case, folder)
    assert case.tokenized, "must be found before a tokenizer is loaded"
    tokenized(wanted, examples)


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_has_its_reason_and_place(name: str, tmp_path: Path) -> None:
    case = BAD_DATA[name]
    with pytest.raises(TrainerError) as caught:
        learn(case, tmp_path)
    error = caught.value
    assert error.reason == case.reason, error.message
    assert all(words in error.message for words in case.words), error.message
    assert error.hint or Reason(error.reason).meaning.hint
    assert len(error.message) < 2000
