"""Fast paths of SFT: rows kept apart, the order of rows, and what is refused."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.batches import Collator
from finetune_trainer.fast import prefix_attention
from finetune_trainer.fast.flat import FlatCollator, tokens
from finetune_trainer.fast.order import SortedSteps
from finetune_trainer.fast.prefixes import Group, Layout
from support.tiny_models import pairs, tiny_model, write_jsonl


def test_attention_forgets_as_the_model_was_told() -> None:
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8, attn_pdrop=0.5)
    model = AutoModelForCausalLM.from_config(config)
    prefix_attention.install(model)
    attention = model.transformer.h[0].attn
    # Queries of zero see all tokens alike, and values that tell tokens apart give the weights themselves.
    hidden, layout = torch.eye(8)[None], Layout((Group(0, (8,)),))
    with torch.no_grad():
        attention.c_attn.weight.zero_()[:, 16:] = torch.eye(8)
        attention.c_proj.weight.copy_(torch.eye(8))
        attention.resid_dropout.p = 0.0
        alike = torch.ones(8, 8).tril() / torch.arange(1, 9)[:, None]
        torch.testing.assert_close(attention.eval()(hidden, layout=layout)[0][0], alike)
        found = attention.train()(hidden, layout=layout)[0][0]
    kept = found > 0
    torch.testing.assert_close(found, kept * alike / 0.5)
    assert 0 < int(kept.sum()) < 36


def test_rows_in_one_row_are_the_rows_alone(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "m", "mistral")).eval()
    prefix_attention.install(model)
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 90, (n,), generator=draw).tolist() for n in (5, 1, 9)]
    examples = [{"input_ids": row, "labels": list(row)} for row in rows]
    flat, padded = FlatCollator(0)(examples), Collator(0)(examples)
    assert int(tokens(flat)) == int(tokens(padded)) == 15
    # Each row's first token has nothing before it that could predict it.
    assert [place for place, label in enumerate(flat["labels"][0]) if label == -100] == [0, 5, 6]
    with torch.no_grad():
        found = model(**{n: each for n, each in flat.items() if n != "labels"}).logits[0]
        alone = [model(torch.tensor([row])).logits[0] for row in rows]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_only_rows_of_one_step_trade_places() -> None:
    lengths = [3, 9, 1, 7, 7, 2, 8]
    order = [6, 0, 2, 3, 4, 1, 5]
    found = list(SortedSteps(order, lengths, 3))
    assert found == [6, 0, 2, 1, 3, 4, 5]
    assert len(SortedSteps(order, lengths, 3)) == 7


def test_triton_without_a_gpu_is_refused_before_anything_is_loaded(
    laptop: Any, model_folder: Path
) -> None:
    write_jsonl(laptop.folder / "train.jsonl", pairs(8))
    job = {
        "model.source": f"file://{model_folder}",
        "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
        "training.kernels": "Triton",
        "output.uri": f"file://{laptop.folder}/out",
    }
    report = laptop.run(job).report
    assert report.reason is Reason.UNSUPPORTED_COMBINATION
    assert "GPU" in report.message
