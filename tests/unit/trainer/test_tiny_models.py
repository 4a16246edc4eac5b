"""The builders that other tests stand on: each family loads plainly and its tokenizer fits."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from support.tiny_models import FAMILIES, tiny_model

CLASSES = {"t5": AutoModelForSeq2SeqLM, "bert": AutoModelForMaskedLM}
SHAPE = {"hidden": 32, "layers": 1, "positions": 64}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_loads_plainly(tmp_path: Path, family: str) -> None:
    folder = tiny_model(tmp_path, family, **SHAPE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = CLASSES.get(family, AutoModelForCausalLM).from_pretrained(folder)
    assert model.config.model_type == family
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    batch = tokenizer("The colour is red", return_tensors="pt")
    extra = {"decoder_input_ids": torch.tensor([[0]])} if family == "t5" else {}
    logits = model(input_ids=batch["input_ids"], **extra).logits
    assert logits.shape[-1] == len(tokenizer)


def test_encoders_frame_their_text(tmp_path: Path) -> None:
    bert = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "bert", "bert", **SHAPE))
    ids = bert("The colour is red")["input_ids"]
    assert bert.convert_ids_to_tokens([ids[0], ids[-1]]) == ["[CLS]", "[SEP]"]
    assert bert.decode(ids, skip_special_tokens=True) == "the colour is red"
    assert "[MASK]" in bert.convert_ids_to_tokens(bert("a [MASK] thing")["input_ids"])
    t5 = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "t5", "t5", **SHAPE))
    tokens = t5.convert_ids_to_tokens(t5("<extra_id_0> red")["input_ids"])
    assert (tokens[0], tokens[-1]) == ("<extra_id_0>", "</s>")
    assert t5.pad_token_id == 0
