"""QLoRA: the base really is in 4 or 8 bits, the adapter learns on it, and stock libraries agree."""

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)
from trl import SFTConfig, SFTTrainer

from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import heads, memory, model, sanity, save
from finetune_trainer.heads import CAUSAL, SEQUENCE_CLASSIFICATION, SEQUENCE_TO_SEQUENCE
from finetune_trainer.sources import ModelSource
from finetune_trainer.tuning import starts
from finetune_trainer.tuning.apply import apply
from finetune_trainer.tuning.base import keeping_dtypes, load_base
from finetune_trainer.tuning.targets import count_parameters
from support.jobs import spec
from support.tiny_models import tiny_model

IDS = torch.arange(5, 25).reshape(2, 10)
LINEAR = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)


def tuning(kind: str, **lora: object) -> Tuning:
    given = {"rank": 4, "alpha": 8, **lora}
    return Tuning.model_validate({"type": "QLoRA", "quantization": {"type": kind}, "lora": given})


def source(folder: Path) -> ModelSource:
    return ModelSource.of_folder(folder, "s3://b/base")


def quantized(
    base: ModelSource, kind: str, head: heads.Head, scratch: Path, precision: str = "Float32"
) -> Any:
    config = model.load_config(base.folder, base.uri, head)
    block = tuning(kind).quantization
    return load_base(base, config, precision, "cpu", head, quantization=block, scratch=scratch)


def adapted(net: Any, block: Tuning, head: heads.Head = CAUSAL) -> Any:
    return apply(net, block, "s3://b/base", head, checkpointing=True)


@torch.no_grad()
def logits(net: Any, **inputs: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(net.eval()(input_ids=IDS, **inputs).logits)


FAMILIES = [
    ("llama", "NF4", CAUSAL, AutoModelForCausalLM),
    ("qwen2", "FP4", CAUSAL, AutoModelForCausalLM),
    ("gpt2", "NF4", CAUSAL, AutoModelForCausalLM),
    ("gpt2", "Int8", CAUSAL, AutoModelForCausalLM),
    ("llama", "Int8", CAUSAL, AutoModelForCausalLM),
    ("t5", "NF4", SEQUENCE_TO_SEQUENCE, AutoModelForSeq2SeqLM),
    ("bert", "Int8", SEQUENCE_CLASSIFICATION, AutoModelForSequenceClassification),
    ("bert", "NF4", SEQUENCE_CLASSIFICATION, AutoModelForSequenceClassification),
]


@pytest.mark.parametrize(("family", "kind", "head", "stock"), FAMILIES)
def test_from_quantised_base_to_stock_reload(
    tmp_path: Path, family: str, kind: str, head: heads.Head, stock: Any
) -> None:
    folder = tiny_model(tmp_path / "base", family)
    torch.manual_seed(3)
    net = adapted(quantized(source(folder), kind, head, tmp_path), tuning(kind), head)
    expected = LINEAR[1] if kind == "Int8" else LINEAR[0]
    packed = [name for name, each in net.named_modules() if isinstance(each, expected)]
    assert packed
    states = [each.weight.quant_state for each in net.modules() if isinstance(each, LINEAR[0])]
    assert {state.quant_type for state in states} <= {kind.lower()}
    assert all(state.nested for state in states)
    assert not [name for name in packed if "head" in name or "classifier" in name]
    # The embeddings keep their numbers, and with tied ones the output head does.
    assert net.get_input_embeddings().weight.dtype == torch.float32
    assert {p.dtype for p in net.parameters() if p.requires_grad} == {torch.float32}

    labels = torch.tensor([0, 1]) if head is SEQUENCE_CLASSIFICATION else IDS
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    losses = trained(net, labels)
    assert losses[-1] < losses[0] - 0.1
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name

    save.save_adapter(net, tmp_path / "adapter")
    inputs = {"decoder_input_ids": IDS} if family == "t5" else {}
    again = PeftModel.from_pretrained(
        stock.from_pretrained(
            folder, dtype=torch.float32, quantization_config=net.config.quantization_config
        ),
        str(tmp_path / "adapter"),
    )
    assert torch.allclose(logits(again, **inputs), logits(net, **inputs), atol=1e-4)


def trained(net: Any, labels: torch.Tensor, steps: int = 6) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = net(input_ids=IDS, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_weights_are_those_that_bitsandbytes_makes(model_folder: Path, tmp_path: Path) -> None:
    net = quantized(source(model_folder), "NF4", CAUSAL, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(model_folder)
    name = "model.layers.1.mlp.down_proj"
    held = net.get_submodule(name).weight
    packed, _ = bitsandbytes.functional.quantize_4bit(
        whole.get_submodule(name).weight.data, quant_type="nf4", compress_statistics=True
    )
    assert torch.equal(held.data, packed)
    assert count_parameters(net)[1] == count_parameters(whole)[1]


def test_a_chain_is_merged_before_it_is_quantised(model_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    first = get_peft_model(base, config)
    first.save_pretrained(tmp_path / "first")
    merged = first.merge_and_unload()
    merged.save_pretrained(tmp_path / "expected")
    chain = ModelSource("u", "u", model_folder, adapters=(tmp_path / "first",))
    net = quantized(chain, "NF4", CAUSAL, tmp_path / "scratch")
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path / "expected",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )  # fmt: skip
    assert torch.allclose(logits(net), logits(expected), atol=1e-5)
    plain = quantized(source(model_folder), "NF4", CAUSAL, tmp_path)
    assert not torch.allclose(logits(net), logits(plain), atol=1e-1)


@pytest.mark.parametrize(("family", "kind"), [("llama", "NF4"), ("gpt2", "FP4"), ("llama", "Int8")])
def test_loftq_makes_up_for_what_was_lost(tmp_path: Path, family: str, kind: str) -> None:
    base = source(tiny_model(tmp_path / "base", family))
    whole = AutoModelForCausalLM.from_pretrained(base.folder)
    block = tuning(kind, variant="LoftQ")
    plain = (logits(quantized(base, kind, CAUSAL, tmp_path)) - logits(whole)).norm()
    net = starts.start(
        adapted(quantized(base, kind, CAUSAL, tmp_path), block), block, lambda: whole
    )
    assert (logits(net) - logits(whole)).norm() < plain
    # What it says before it learns is not what the quantised base says.
    with sanity.before_first_step(net):
        started = logits(net)
    with sanity.as_before_training(net):
        assert not torch.allclose(started, logits(net), atol=1e-2)
    name = "transformer.h.0.mlp.c_fc" if family == "gpt2" else "model.layers.0.mlp.up_proj"
    layer = net.get_submodule(f"base_model.model.{name}")
    weight = (
        whole.get_submodule(name).weight.T if family == "gpt2" else whole.get_submodule(name).weight
    )
    identity = torch.eye(weight.shape[1])
    with torch.no_grad():
        bias = layer(torch.zeros(1, weight.shape[1]))
        held = (layer(identity) - bias).T
        with net.disable_adapter():
            lost = weight - (layer(identity) - bias).T
    # Eckart and Young: the best that four ranks can do.
    left = torch.linalg.svdvals(lost)[4:].square().sum().sqrt()
    assert float((weight - held).norm()) == pytest.approx(float(left), rel=2e-2)


def test_memory_of_a_quantised_base_is_what_is_counted(model_folder: Path, tmp_path: Path) -> None:
    job = memory.FineTuneJobSpec.model_validate(
        spec({"tuning": {"type": "QLoRA", "quantization": {"type": "NF4", "doubleQuant": False}}})
    )
    config = model.load_config(model_folder, "s3://b/base")
    net = load_base(
        source(model_folder), config, "Float32", "cpu", CAUSAL,
        quantization=job.tuning.quantization, scratch=tmp_path,
    )  # fmt: skip
    held = sum(each.numel() * each.element_size() for each in net.parameters())
    states = [p.quant_state for p in net.parameters() if hasattr(p, "quant_state")]
    held += sum(4 * state.absmax.numel() for state in states)
    with model.on_meta():
        shapes = model.outline(config, CAUSAL).requires_grad_(False)
    counted = memory._weights(shapes, job.tuning, _settings())
    assert counted == pytest.approx(held, rel=1e-3)


def _settings() -> Any:
    class Held:
        weights = "Float32"

    return Held()


def test_no_trainer_casts_what_is_trained(model_folder: Path, tmp_path: Path) -> None:
    net = adapted(quantized(source(model_folder), "NF4", CAUSAL, tmp_path), tuning("NF4"))

    def dtypes() -> set[torch.dtype]:
        arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
        tokenizer = model.load_tokenizer(model_folder, "s3://b/base", None)
        rows = Dataset.from_list([{"text": "The colour of the thing is red."}])
        SFTTrainer(net, arguments, train_dataset=rows, processing_class=tokenizer)
        return {each.dtype for each in net.parameters() if each.requires_grad}

    with keeping_dtypes(net):
        assert dtypes() == {torch.float32}
    assert net.is_loaded_in_4bit
    assert dtypes() == {torch.bfloat16}
