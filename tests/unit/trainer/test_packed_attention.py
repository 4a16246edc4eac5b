"""Our attention inside models of transformers gives what their own attention gives."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from finetune_trainer.fast import packed_attention
from finetune_trainer.fast.packed_attention import install
from support.preference_data import SETTINGS

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def pair(window: int | None = None, **settings):
    """One model with transformers' attention, and the same weights with ours."""
    torch.manual_seed(0)
    if window:
        config, kind = MistralConfig(sliding_window=window, **SIZES), MistralForCausalLM
    else:
        config, kind = LlamaConfig(**SIZES, **settings), LlamaForCausalLM
    stock, ours = kind(config).eval(), kind(config).eval()
    ours.load_state_dict(stock.state_dict())
    install(ours)
    return stock, ours


@pytest.mark.parametrize("window", [None, 3])
def test_padded_rows_on_either_side(window) -> None:
    stock, ours = pair(window)
    ids = torch.randint(32, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = mask[1, 6:] = 0
    with torch.no_grad():
        want = stock(ids, attention_mask=mask).logits[mask.bool()]
        got = ours(ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(got, want)


def test_packed_documents_and_their_gradients() -> None:
    stock, ours = pair()
    ids = torch.randint(32, (1, 9))
    positions = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 2, 3]])
    packed = ours(ids, position_ids=positions, use_cache=False).logits[0]
    alone = [stock(ids[:, a:b]).logits[0] for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(packed, torch.cat(alone))
    packed.square().sum().backward()
    torch.cat(alone).square().sum().backward()
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_documents_are_made_once_a_batch(monkeypatch) -> None:
    made = []
    make = packed_attention.Documents.from_positions
    monkeypatch.setattr(
        packed_attention.Documents, "from_positions", lambda p: made.append(1) or make(p)
    )
    _, ours = pair()
    for _ in range(2):
        positions = torch.tensor([[0, 1, 0, 1]])
        ours(torch.randint(32, (1, 4)), position_ids=positions, use_cache=False)
    assert len(made) == 2


def test_generation_with_a_cache() -> None:
    stock, ours = pair()
    ids, mask = torch.randint(1, 32, (2, 5)), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    want, got = (m.generate(ids, attention_mask=mask, **options) for m in (stock, ours))
    assert torch.equal(want, got)


def test_what_it_lacks_is_refused() -> None:
    _, ours = pair(attention_dropout=0.1)
    with pytest.raises(ValueError, match="no dropout"):
        ours.train()(torch.randint(32, (1, 4)))


def test_it_is_taken_where_it_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dropping = (
        LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=share)) for share in (0.0, 0.1)
    )
    assert packed_attention.why_not(model) is None
    assert packed_attention.try_on(model, SETTINGS) is None
    assert model.config._attn_implementation == packed_attention.NAME
    assert "already" in str(packed_attention.why_not(model))
    assert "dropout" in str(packed_attention.why_not(dropping))
    # As a kernel would that is wrong on some chip.
    monkeypatch.setattr(packed_attention, "attention", lambda q, *_, **__: 2 * q)
    assert "logits differ" in str(packed_attention.try_on(dropping, SETTINGS))
    assert dropping.config._attn_implementation == "sdpa"
