"""Virtual tokens: what they learn, what stays, how they write, and who else can open them."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import __main__ as program
from finetune_trainer import answers, merge, opening
from finetune_trainer.commands import evaluate, generate
from finetune_trainer.commands.generate import Wanted
from finetune_trainer.commands.output import Stores
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL, SEQUENCE_TO_SEQUENCE, Head
from finetune_trainer.sources import ModelSource
from finetune_trainer.tuning import apply as tunings
from finetune_trainer.tuning import virtual_tokens
from support.preference_data import preferences
from support.tiny_models import pairs, tiny_model, tiny_tokenizer, write_jsonl

KINDS = ("PrefixTuning", "PromptTuning", "PTuning")
SIZE = 5
NEW = 6
NEW_TOKENS = answers.Sampling(max_new_tokens=NEW)


def tuning(kind: str, **block: Any) -> Tuning:
    return Tuning.model_validate({"type": kind, "virtualTokens": {"virtualTokens": SIZE, **block}})


def adapted(folder: Path, kind: str, head: Head = CAUSAL) -> Any:
    base = head.loader.from_pretrained(folder)
    base.config.use_cache = False
    torch.manual_seed(2)
    return tunings.apply(base, tuning(kind), "s3://b/base", head, checkpointing=False).eval()


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {
        family: tiny_model(root / family, family, layers=2, hidden=32)
        for family in ("llama", "qwen2", "mistral", "gpt2", "t5")
    }


PROMPTS = [list(range(5, 16)), [30, 31, 32], [40, 41, 42, 43, 44, 45]]


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_written_as_the_logits_of_each_prompt_alone_say(
    families: dict[str, Path], family: str, kind: str
) -> None:
    model = adapted(families[family], kind)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    stop = tokenizer.eos_token_id
    with torch.no_grad():
        wanted = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            for _ in range(NEW):
                # The forward pass of training: no cache, no padding.
                following = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
                ids = torch.cat([ids, following.argmax(-1, keepdim=True)], dim=1)
                if ids[0, -1] == stop:
                    break
            wanted.append(ids[0, len(prompt) :].tolist())
    sampling = answers.Sampling(max_new_tokens=NEW)
    assert answers.answer(model, tokenizer, PROMPTS, sampling) == wanted
    for prompt, each in zip(PROMPTS, wanted, strict=True):
        assert answers.answer(model, tokenizer, [prompt], sampling) == [each]


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_decoder_answers_a_batch_as_each_input_alone(
    families: dict[str, Path], kind: str
) -> None:
    model = adapted(families["t5"], kind, SEQUENCE_TO_SEQUENCE)
    # Spread, so that answers are not one token again and again.
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in model.get_base_model().parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.5)
    wanted = []
    for prompt in PROMPTS:
        ids, written = torch.tensor([prompt]), torch.zeros(1, 1, dtype=torch.long)
        for _ in range(NEW):
            with torch.no_grad():
                logits = model(
                    input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=written
                ).logits
            written = torch.cat([written, logits[:, -1:].argmax(-1)], dim=1)
        wanted.append(written[0].tolist())
    assert len({tuple(each) for each in wanted}) > 1
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None
    )
    assert found.tolist() == wanted


def test_the_first_token_of_a_text_is_not_learned(families: dict[str, Path]) -> None:
    model = adapted(families["llama"], "PromptTuning")
    ids = torch.arange(5, 13).view(1, 8)
    # By hand: the mean over the tokens that follow another one.
    logits = model(input_ids=ids).logits[:, SIZE:]
    wanted = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [("red", "is repeated"), ("Which colour? Thing is red or blue or yellow or green.", "is cut")],
)
def test_initial_text_by_the_tokenizer_that_was_loaded(
    model_folder: Path, text: str, words: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    wish = tuning("PromptTuning", initialText=text)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = tunings.apply(base, wish, "s3://b/base", CAUSAL, checkpointing=False)
    virtual_tokens.start(model, wish, tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    filled = [ids[place % len(ids)] for place in range(SIZE)]
    learned = model.prompt_encoder["default"].embedding.weight
    assert learned.requires_grad
    torch.testing.assert_close(learned.detach(), base.get_input_embeddings().weight[filled])
    (told,) = virtual_tokens.told(wish, tokenizer)
    assert f"{len(ids)} tokens" in told.why
    assert words in told.why
    assert model.peft_config["default"].tokenizer_name_or_path is None


def test_what_is_left_of_the_positions() -> None:
    assert virtual_tokens.room(512, tuning("PTuning")) == 512 - SIZE
    assert virtual_tokens.room(512, Tuning()) == 512
    assert virtual_tokens.room(None, tuning("PTuning")) is None
    with pytest.raises(TrainerError, match="the model has 5 positions"):
        virtual_tokens.room(SIZE, tuning("PTuning"))
    with pytest.raises(TrainerError, match="has no token"):
        virtual_tokens.told(
            tuning("PromptTuning", initialText=" "), lambda *_, **__: {"input_ids": []}
        )


@pytest.fixture
def run(laptop: Any, model_folder: Path) -> Any:
    def run(kind: str, changes: dict[str, Any], rows: Any = pairs) -> Any:
        write_jsonl(laptop.folder / "train.jsonl", rows(64))
        return laptop.run({
            "model.source": f"file://{model_folder}",
            "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
            "data.limits": {"maxDuplicates": 1},
            "data.evaluation": {"fraction": 0.1},
            "tuning": {"type": kind, "virtualTokens": {"virtualTokens": SIZE}},
            "training": {"maxSteps": 12, "batchSize": 4, "learningRate": 1e-1},
            "output.uri": f"file://{laptop.folder}/out",
            **changes,
        }).report  # fmt: skip

    return run


def published(laptop: Any) -> Path:
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    return Path(manifest["prefix"].removeprefix("file://"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_by_each_kind(run: Any, laptop: Any, model_folder: Path, kind: str) -> None:
    report = run(kind, {})
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 0.92 * float(report.evaluation.loss_before)
    resolved = {choice.field: choice for choice in report.resolved}
    assert resolved["data.packing"].value == "Disabled"
    assert "only its first row would follow" in resolved["data.packing"].why

    # One tensor, and nobody's path: virtual tokens, or their keys and values in two layers.
    folder = published(laptop)
    (stored,) = load_file(folder / "adapter_model.safetensors").values()
    # Two heads of 16 for keys, as many for values.
    assert stored.shape == (SIZE, 2 * 2 * 2 * 16 if kind == "PrefixTuning" else 64)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert str(laptop.folder) not in json.dumps(config | {"base_model_name_or_path": ""})

    # Plain PEFT on the plain base says what our opened model says, and embeddings alone explain it.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer("Thing 3 is red. Which colour? ", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    plain = base(**batch).logits
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_folder), str(folder)
    ).eval()
    width = batch["input_ids"].shape[1]
    said = theirs(**batch).logits[:, -width:]
    assert (said - plain).abs().max() > 0.1
    source = replace(ModelSource.of_folder(model_folder, "s3://b/base"), adapters=(folder,))
    ours, _ = opening.load_source(source, CAUSAL, "Float32", "cpu", merged=False)
    torch.testing.assert_close(ours(**batch).logits[:, -width:], said)
    if kind != "PrefixTuning":
        embeddings = base.get_input_embeddings()(batch["input_ids"])
        inputs = torch.cat([stored.unsqueeze(0), embeddings], dim=1)
        torch.testing.assert_close(base(inputs_embeds=inputs).logits[:, -width:], said)

    # The commands write what the logits say, one prompt as it comes and several at once.
    prompts = [
        "Thing 3 is red. Which colour? ",
        "Thing 12, which is large, is blue. Which colour? ",
    ]
    wanted = [_greedy(theirs, tokenizer, each) for each in prompts]
    out = laptop.folder / "out"
    for prompt, text in zip(prompts, wanted, strict=True):
        assert command(out, generate.run, Wanted([Asked(prompt, "-")], NEW_TOKENS)) == f"{text}\n"
    both = Wanted([Asked(each, "-") for each in prompts], NEW_TOKENS, json_lines=True)
    lines = command(out, generate.run, both).splitlines()
    assert [json.loads(line)["answer"] for line in lines] == wanted
    again = command(out, evaluate.run)
    assert report.evaluation.loss_before in again
    assert report.evaluation.loss_after in again

    # Nothing can be trained on top of it.
    report = run(kind, {"model.source": f"file://{out}", "output.uri": f"file://{out}-2"})
    assert (report.outcome, report.reason) == ("Failed", "UnsupportedModel")
    assert "cannot be merged into weights" in report.message
    assert "Tune further from its base model" in report.hint
    with pytest.raises(TrainerError) as caught:
        merge.merge(base, folder, "s3://b/out")
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL


def _greedy(net: Any, tokenizer: Any, prompt: str) -> str:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    begin = ids.shape[1]
    for _ in range(NEW):
        with torch.no_grad():
            following = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        ids = torch.cat([ids, following.argmax(-1, keepdim=True)], dim=1)
        if ids[0, -1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[0, begin:], skip_special_tokens=True))


def command(output: Path, work: Any, *arguments: Any) -> str:
    stream = io.StringIO()

    def run(place: Any, found: Any, target: Any) -> None:
        work(found, *arguments, place, target)

    code = program.run_command(f"file://{output}", Stores(), run, {}, stream)
    assert code == 0, stream.getvalue()
    return stream.getvalue()


@pytest.mark.parametrize(("method", "kind"), [("DPO", "PrefixTuning"), ("ORPO", "PTuning")])
def test_preferences(run: Any, method: str, kind: str) -> None:
    training = {"maxSteps": 8, "batchSize": 4, "learningRate": 3e-2}
    report = run(kind, {"method.type": method, "training": training}, preferences)
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < float(report.evaluation.loss_before)


def test_a_reference_that_cannot_be_switched_to(run: Any) -> None:
    dpo = {"type": "DPO", "dpo": {"reference": {"precompute": False}}}
    report = run("PromptTuning", {"method": dpo}, preferences)
    assert (report.outcome, report.reason) == ("Failed", "InvalidSpec")
    assert "does not start at the base model" in report.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.packing": "Enabled"}, "only the first would follow"),
        ({"training.gradientCheckpointing": "Enabled"}, "finds the prefix in the cache"),
        ({"method": {"type": "Reward"}}, "does not find behind virtual tokens"),
    ],
)
def test_what_does_not_go_together(run: Any, changes: dict[str, Any], words: str) -> None:
    report = run("PrefixTuning", changes)
    assert (report.outcome, report.reason) == ("Failed", "InvalidSpec")
    assert words in report.message
