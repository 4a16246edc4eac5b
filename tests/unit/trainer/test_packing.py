import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from finetune_api.run_file import JobIdentity, RunFile
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Plan
from finetune_trainer import isolation
from finetune_trainer.batches import Batch, Collator
from finetune_trainer.context import Context
from finetune_trainer.data.packed_row import PackedRow
from finetune_trainer.data.packing import decide, pack
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.recipes.sft import SFT
from finetune_trainer.resolve import Machine, Settings, resolve
from finetune_trainer.sources import ModelSource
from support.jobs import spec
from support.tiny_models import pairs, tiny_model, tiny_tokenizer, write_jsonl


def row(length: int, number: int = 0) -> TokenRow:
    ids = [(7 * number + 3 * place) % 250 + 5 for place in range(length)]
    return TokenRow(ids, [IGNORED, *ids[1:]], f"a line {number}")


def rows_of(*lengths: int) -> list[TokenRow]:
    return [row(length, number) for number, length in enumerate(lengths)]


def numbers(packed: list[PackedRow]) -> list[list[str]]:
    return [[each.origin.removeprefix("a line ") for each in one.rows] for one in packed]


def test_each_row_goes_where_it_fits_best() -> None:
    # 9 takes 1, 6 takes 4, 5 takes 3 and 2: nothing is wasted.
    packed = pack(rows_of(3, 9, 4, 5, 2, 1, 6), 10)
    assert numbers(packed) == [["0", "3", "4"], ["1", "5"], ["2", "6"]]
    assert [each.length for each in packed] == [10, 10, 10]


def test_no_row_is_lost_cut_or_put_twice() -> None:
    draw = random.Random(5)  # noqa: S311
    rows = rows_of(*(draw.randint(1, 64) for _ in range(500)))
    packed = pack(rows, 64)
    assert sorted(r.origin for each in packed for r in each.rows) == sorted(r.origin for r in rows)
    assert max(each.length for each in packed) <= 64
    fewest = -(-sum(r.length for r in rows) // 64)
    assert len(packed) <= 11 * fewest / 9 + 1
    assert numbers(pack(rows, 64)) == numbers(packed)


def test_a_row_is_never_predicted_from_the_row_before() -> None:
    text = TokenRow([5, 6, 7], [5, 6, 7], "b line 1")
    assert PackedRow((text, text)).labels == [IGNORED, 6, 7, IGNORED, 6, 7]


def test_positions_begin_again_with_each_row_and_with_the_padding() -> None:
    first, second = PackedRow(tuple(rows_of(2, 3))), PackedRow(tuple(rows_of(3)))
    batch = Collator(0).of_packed([first, second], "cpu")
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]]
    assert "attention_mask" not in batch
    assert batch["labels"][1].tolist()[3:] == [IGNORED, IGNORED]


def job(**changes: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(spec(changes))


def decided(rows: list[TokenRow], **changes: Any) -> tuple[int | None, str]:
    data = Prepared(rows, [], 16, Plan(), [])
    found, notes = decide(job(**changes), data)
    return len(found.packed) if found.packed else None, notes[0].why if notes else ""


def test_auto_packs_where_it_pays_and_changes_nothing_that_was_chosen() -> None:
    many = rows_of(*[4] * 4 * 512)
    assert decided(many) == (
        512,
        "2048 rows in 512 sequences of at most 16 tokens, 100% full; a batch counts sequences",
    )
    assert decided(many[:-4])[1] == "it would leave 511 sequences, which is less than 512"
    assert "would save 0% of the sequences" in decided(rows_of(*[9] * 2000))[1]
    assert "chosen for rows" in decided(many, **{"training.batchSize": 8})[1]
    assert decided(many, **{"data.packing": "Disabled"}) == (None, "")
    assert decided(rows_of(4, 4), **{"data.packing": "Enabled"})[0] == 1


@pytest.fixture(scope="module")
def settings() -> Settings:
    return resolve(job(**{"resources.gpusPerNode": 0}), Machine("cpu"), 100, 64)[0]


PACKED = pack(rows_of(30, 11, 1, 19, 25, 8), 48)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_rows_are_apart(tmp_path: Path, settings: Settings, family: str, attention: str) -> None:
    folder = tiny_model(tmp_path, family, layers=2)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    found = isolation.prove(model, PACKED, Collator(0), settings)
    # 30 and 11, 25 and 19 and 1; the row of 8 stands alone and proves nothing.
    assert found.rows == 5
    assert found.difference < 1e-5
    assert found.holds
    leaky = isolation.prove(model, PACKED, Leaky(0), settings)
    assert leaky.difference > 1e-2
    assert not leaky.holds


class Leaky(Collator):
    """Packs as those do who forget the positions: every row sees all rows before it."""

    def of_packed(self, packed: Any, device: str) -> Batch:
        batch = super().of_packed(packed, device)
        return {**batch, "position_ids": torch.arange(batch["input_ids"].shape[1])[None]}


def test_a_model_that_remembers_what_it_read_is_found_out(settings: Settings) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    found = isolation.prove(MambaForCausalLM(MambaConfig(**shape)), PACKED, Collator(0), settings)
    assert not found.holds
    assert "differ by" in str(found)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLOOM, which takes positions from the mask alone, so that packed rows see each other."""
    tokenizer = tiny_tokenizer()
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "n_layer": 1, "n_head": 2}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bloom")
    BloomForCausalLM(BloomConfig(**shape, initializer_range=0.5)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_packing_that_was_demanded_is_refused(laptop: Any, forgetful: Path) -> None:
    write_jsonl(laptop.folder / "train.jsonl", pairs(12))
    changes = {
        "model.source": f"file://{forgetful}",
        "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
        "data.maxLength": 256,
        "output.uri": f"file://{laptop.folder}/out",
        "data.packing": "Enabled",
    }
    report = laptop.run(changes).report
    assert report.reason is Reason.ROWS_NOT_ISOLATED, report.message
    assert "in one sequence and of each alone differ by" in report.message


def test_packing_that_was_left_open_is_given_up_and_told(
    settings: Settings, forgetful: Path, tmp_path: Path
) -> None:
    rows = rows_of(*[8] * 2048)
    data = Prepared(rows, [], 32, Plan(), [])
    data, notes = decide(job(), data)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    recipe, machine = SFT(), Machine("cpu")
    packed_settings, chosen = recipe.resolve(job(), machine, data)
    context = Context(
        RunFile(job=JobIdentity(namespace="a", name="b", uid="c"), spec=job()),
        {"model.source": ModelSource.of_folder(forgetful, "file:///bloom")},
        (),
        cast("Any", None),
        cast("Any", None),
        tmp_path,
        cast("Any", None),
    )
    ready = Ready(context, tokenizer, None, data, packed_settings, [*notes, *chosen])
    bloom = BloomForCausalLM.from_pretrained(forgetful)
    settled = recipe.settle(ready, bloom)
    assert settled.data.packed is None
    found = {choice.field: choice for choice in settled.resolved}
    assert len(found) == len(settled.resolved)
    assert found["data.packing"].value == "Disabled"
    assert "differ by" in found["data.packing"].why
    # Three epochs in batches of 16: of rows now, no longer of a quarter as many sequences.
    assert (packed_settings.total_steps, settled.settings.total_steps) == (96, 384)
    # The same with a model that keeps rows apart stays as it was decided.
    llama = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "llama"))
    proved = recipe.settle(ready, llama)
    assert proved.data.packed == data.packed
    assert "data.packing.isolation" in {choice.field for choice in proved.resolved}
