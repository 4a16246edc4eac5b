"""What methods take that write answers while they train: held against what PyTorch takes for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.kernels import chunked_divergence
from trl.trainer.distillation_trainer import _chunked_divergence_loss
from trl.trainer.utils import add_fused_lm_head

from finetune_trainer import heads, memory, resolve, writing
from finetune_trainer import model as models
from finetune_trainer.answering import Sampling, write_answers
from finetune_trainer.held_out import HeldOut
from finetune_trainer.layer_shape import Pass
from finetune_trainer.ppo import reading
from finetune_trainer.ppo.policy import ValueHead
from finetune_trainer.reference import Reference
from finetune_trainer.rollout import Rollout
from finetune_trainer.tuning.apply import apply
from finetune_trainer.writing import Answering, Beside
from support import measured_memory
from support.jobs import manifest
from support.tiny_models import tiny_model

PROMPT, ANSWER, ROWS, LAYERS = 40, 24, 4, 3
HOW = Sampling(ANSWER, temperature=0.7, top_p=0.9, stop_ids=(), pad_id=0)
METHODS = {
    "PPO": {"type": "PPO", "ppo": {"rewardModel": "s3://models/reward"}},
    "GRPO": {"type": "GRPO", "grpo": {"rewards": [{"type": "Length", "targetTokens": 8}]}},
    "Distillation": {"type": "Distillation", "distillation": {"teacher": "s3://models/teacher"}},
}


def job(method: str, tuning: str) -> tuple[Any, resolve.Settings]:
    changes = {
        "resources.gpusPerNode": 0,
        "method": METHODS[method],
        "tuning": {"type": tuning},
        "training": {"batchSize": ROWS, "microBatchSize": ROWS},
    }
    spec = resolve.FineTuneJobSpec.model_validate(manifest("demo", changes)["spec"])
    return spec, resolve.resolve(spec, resolve.Machine("cpu"), 100, PROMPT + ANSWER)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), layers=LAYERS, hidden=128)


def policy(folder: Path, spec: Any) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder)
    return apply(base, spec.tuning, "base", heads.CAUSAL, checkpointing=False)


def outlined(folder: Path, spec: Any) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(folder)
    with models.on_meta():
        base = models.outline(config, heads.CAUSAL)
        return apply(base, spec.tuning, "base", heads.CAUSAL, checkpointing=False), config


def rollout() -> Rollout:
    draw = torch.Generator().manual_seed(0)
    prompts, answers = (torch.randint(1, 90, (ROWS, n), generator=draw) for n in (PROMPT, ANSWER))
    present = [torch.ones_like(each, dtype=torch.bool) for each in (prompts, answers)]
    return Rollout(prompts, present[0], answers, present[1], torch.ones(ROWS, dtype=torch.bool))


@pytest.mark.parametrize("group", [1, ROWS])
def test_answers_take_no_more_than_was_counted(folder: Path, group: int) -> None:
    spec, settings = job("GRPO", "LoRA")
    how = Answering(answers=ROWS, group=group, held_out=0, prompt=PROMPT, answer=ANSWER)
    planned = writing.written(*outlined(folder, spec), settings, how)
    net = policy(folder, spec)
    prompts = [[1 + row // group] * PROMPT for row in range(ROWS)]
    found = measured_memory.peak(lambda: write_answers(net, prompts, HOW, seed=0))
    assert found <= planned <= 1.7 * found


def test_held_out_answers_are_compared_in_what_was_counted(folder: Path) -> None:
    spec, settings = job("PPO", "LoRA")
    how = Answering(answers=ROWS, group=1, held_out=ROWS, prompt=PROMPT, answer=ANSWER)
    outline, config = outlined(folder, spec)
    planned = writing.compared(config, settings, how)
    planned = max(planned, writing.read(outline, config, settings, ROWS * (PROMPT + ANSWER)))
    net, given = policy(folder, spec), rollout()
    held: Any = HeldOut([None] * ROWS, HOW, ROWS, torch.float32)  # type: ignore[list-item]
    found = measured_memory.peak(lambda: held.divergence(net, given, Reference(net, None).logits))
    assert found <= planned <= 1.7 * found


@pytest.mark.parametrize("tuning", ["LoRA", "Full"])
def test_a_pass_of_ppo_takes_no_more_than_was_planned(folder: Path, tuning: str) -> None:
    spec, settings = job("PPO", tuning)
    outline, config = outlined(folder, spec)
    tokens = ROWS * (PROMPT + ANSWER)
    largest = Pass(tokens, chunked=tuning == "LoRA", flat=tuning == "LoRA")
    beside = Beside(reading=writing.read(outline, config, settings, tokens))
    planned = memory.estimate(outline, config, spec, settings, largest, beside)
    net, given = policy(folder, spec), rollout()
    add_fused_lm_head(net.get_base_model() if tuning == "LoRA" else net, temperature=0.7)
    way, head = reading.way(Reference(net, None), 0.7, torch.float32), ValueHead(128)

    def first_pass() -> None:
        read = way.read(net, given)
        values = head(read.hidden)
        with torch.no_grad():
            way.read(net, given)
        (read.log_probabilities.sum() + values.sum()).backward()

    first_pass()
    found = measured_memory.peak(first_pass)
    assert found <= planned.activations + planned.logits <= 1.7 * found


def test_distributions_are_compared_in_what_was_counted(folder: Path) -> None:
    assert memory.TOKEN_CHUNK_SIZE == chunked_divergence.TOKEN_CHUNK_SIZE
    assert memory.VOCAB_CHUNK_SIZE == chunked_divergence.VOCAB_CHUNK_SIZE
    spec, settings = job("Distillation", "LoRA")
    outline, config = outlined(folder, spec)
    tokens = ROWS * (PROMPT + ANSWER)
    beside = Beside(reading=writing.read(outline, config, settings, tokens))
    planned = memory.estimate(outline, config, spec, settings, Pass(tokens, chunked=False), beside)
    net, teacher, given = policy(folder, spec), policy(folder, spec), rollout()

    def states(model: Any) -> Any:
        ids = torch.cat([given.prompts, given.answers], dim=1)
        return model.base_model.model.model(input_ids=ids, use_cache=False).last_hidden_state

    def step() -> None:
        mine = states(net)
        with torch.no_grad():
            theirs = states(teacher)
        weight = net.get_output_embeddings().weight
        kept = torch.ones(ROWS, PROMPT + ANSWER)
        _chunked_divergence_loss(mine, theirs, weight, weight, kept, beta=0.5)[0].backward()

    step()
    found = measured_memory.peak(step)
    assert found <= planned.activations + planned.logits <= 1.7 * found
