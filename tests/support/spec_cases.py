"""One table of valid and invalid specs, judged by pydantic in unit tests and by the real API server
in cluster tests: both must come to the same verdict and name the same place.
"""

from dataclasses import dataclass, field
from typing import Any

from support.jobs import ABSENT, spec

FILES = [{"source": "s3://datasets/a.jsonl"}]


@dataclass(frozen=True)
class Case:
    """A spec, whether it is valid, and a word of the refusal that shows the right rule spoke."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    refusal: str | None = None
    job_name: str = "demo"

    @property
    def valid(self) -> bool:
        return self.refusal is None

    @property
    def spec(self) -> dict[str, Any]:
        return spec(self.changes)


def _method(kind: str, data: str, **block: object) -> dict[str, Any]:
    changes: dict[str, Any] = {"method.type": kind, "data.format": data}
    return changes | {f"method.{name}": value for name, value in block.items()}


VALID = (
    Case("minimal"),
    Case("learning rate as a bare number", {"training.learningRate": 2e-4}),
    Case("whole number where a fraction may stand", {"method.type": "DPO", "method.dpo": {"labelSmoothing": 0}}),
    Case("auto or a count", {"data.maxLength": 2048, "training.batchSize": "Auto"}),
    Case("full tuning", {"tuning.type": "Full"}),
    Case("LoRA with its block", {"tuning": {"type": "LoRA", "lora": {"rank": 8, "targets": ["q_proj"]}}}),
    Case("QLoRA", {"tuning": {"type": "QLoRA", "quantization": {"type": "NF4"}}}),
    Case("AdaLoRA", {"tuning": {"type": "AdaLoRA", "adalora": {"initialRank": 12, "targetRank": 8}}}),
    Case("prompt tuning", {"tuning": {"type": "PromptTuning", "virtualTokens": {"virtualTokens": 8}}}),
    Case("other adapter", {"tuning": {"type": "Other", "other": {"name": "VERA", "arguments": {"r": 8}}}}),
    Case("hub model", {"model.source": "hf://Qwen/Qwen3-8B@main"}),
    Case("output of another job", {"model.source": "job://first"}),
    Case("volume source", {"model.source": "pvc://models/llama"}),
    Case("laptop file", {"model.source": "file:///tmp/model"}),
    Case("dots in names", {"output.uri": "s3://models/v1.2/..hidden/a.b"}),
    Case("evaluation by fraction", {"data.evaluation": {"fraction": 0.1}}),
    Case("early stopping", {"training": {"earlyStopping": {}, "evaluateEverySteps": 5}, "data.evaluation": {"fraction": 0.1}}),
    Case("evaluation by sources", {"data.evaluation": {"sources": FILES}}),
    Case("limits of the data", {"data.limits": {"maxTruncated": 0, "maxSkipped": 1, "maxDuplicates": 0.25}}),
    Case("no rows in the output", {"data.publishedSamples": 0}),
    Case("weighted sources", {"data.train": [*FILES, {"source": "s3://datasets/b.csv", "weight": 0.5}]}),
    Case("a split of a hub data set", {"data.train": [{"source": "hf://org/name", "split": "test", "subset": "en"}]}),
    Case("streaming", {"data.streaming": True, "training": {"maxSteps": 9}}),
    Case("mapped columns", {"data.columns": {"prompt": "question"}}),
    Case("classes", {"model.task": "text-classification", "data.format": "Labelled"}),
    Case("DPO", _method("DPO", "Preference", dpo={"beta": 0.2})),
    Case("mixed DPO losses", _method("DPO", "Preference", dpo={"losses": [{"type": "Sigmoid"}, {"type": "SFT", "weight": 0.1}]})),
    Case("a loss with label smoothing", _method("DPO", "Preference", dpo={"losses": [{"type": "ExoPair"}], "labelSmoothing": 0.001})),
    Case("KTO", _method("KTO", "UnpairedPreference")),
    Case("PPO", _method("PPO", "PromptOnly", ppo={"rewardModel": "job://reward"})),
    Case("GRPO", _method("GRPO", "PromptOnly", grpo={"rewards": [{"type": "ExactMatch", "column": "answer"}]})),
    Case("rewards of every type", _method("RLOO", "PromptOnly", rloo={"rewards": [
        {"type": "ExactMatch", "column": "answer", "weight": -0.5}, {"type": "Regex", "pattern": "[0-9]+"},
        {"type": "Regex", "pattern": "<(.*)>", "column": "answer"}, {"type": "NumericAnswer", "column": "answer", "tolerance": 0.1},
        {"type": "Length", "targetTokens": 20}, {"type": "JSONSchema", "jsonSchema": "{}"}, {"type": "JSONSchema"},
        {"type": "Format", "pattern": "<a>.*</a>"}]})),
    Case("rewards beside a reward model", _method("GRPO", "PromptOnly", grpo={
        "rewardModel": "job://reward", "rewardModelWeight": 2, "rewards": [{"type": "Length", "targetTokens": 5}]})),
    Case("PPO in minibatches", _method("PPO", "PromptOnly", ppo={
        "rewardModel": "job://reward", "minibatches": 4, "klTarget": 6, "valueLearningRate": 1e-4, "missingEosPenalty": 1})),
    Case("eight GPUs, sharded", {"resources.gpusPerNode": 8, "distributed.strategy": "ZeRO3"}),
    Case("affinity", {"scheduling.affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200"]}]}]}}}}),
    Case("store", {"storage": {"endpoint": "http://minio.storage.svc:9000", "credentials": {"secretName": "s3"}}}),
    Case("longest name", job_name="a" * 50),
)  # fmt: skip

INVALID = (
    Case("no model", {"model": ABSENT}, "model"),
    Case("no training data", {"data": {"train": []}}, "train"),
    Case("no output", {"output": ABSENT}, "output"),
    Case("misspelt field", {"training.learningrate": 1e-4}, "learningrate"),
    Case("unknown method", {"method.type": "SFTT"}, "method.type"),
    Case("learning rate zero", {"training.learningRate": 0}, "learningRate"),
    Case("learning rate over one", {"training.learningRate": 2}, "learningRate"),
    Case("learning rate as text", {"training.learningRate": "2e-4"}, "learningRate"),
    Case("negative seed", {"training.seed": -1}, "seed"),
    Case("word that is not Auto", {"data.maxLength": "auto"}, "maxLength"),
    Case("length below the least", {"data.maxLength": 4}, "maxLength"),
    Case("epochs and steps", {"training.epochs": 1, "training.maxSteps": 5}, "at most one of"),
    Case("two warm-ups", {"training.scheduler": {"warmupRatio": 0.1, "warmupSteps": 3}}, "at most one of"),
    Case("rank zero", {"tuning": {"lora": {"rank": 0}}}, "rank"),
    Case("rank too high", {"tuning": {"lora": {"rank": 1025}}}, "rank"),
    Case("LoRA block with full tuning", {"tuning": {"type": "Full", "lora": {}}}, "`lora` is allowed only"),
    Case("QLoRA without quantization", {"tuning.type": "QLoRA"}, "needs `quantization`"),
    Case("quantization without QLoRA", {"tuning": {"type": "LoRA", "quantization": {}}}, "needs `type: QLoRA`"),
    Case("rank that grows", {"tuning": {"type": "AdaLoRA", "adalora": {"initialRank": 4, "targetRank": 8}}}, "only pruned"),
    Case("a text that a prefix has no use for", {"tuning": {"type": "PrefixTuning", "virtualTokens": {"initialText": "Colour?"}}},
         "only with PromptTuning"),
    Case("block of another method", _method("SFT", "Auto", dpo={}), "`dpo` is allowed only"),
    Case("PPO without a reward model", _method("PPO", "PromptOnly"), "ppo.rewardModel"),
    Case("GRPO without rewards", _method("GRPO", "PromptOnly", grpo={}), "give `rewards`"),
    Case("reward without what it compares with", _method("GRPO", "PromptOnly", grpo={"rewards": [{"type": "ExactMatch"}]}), "need `column`"),
    Case("reward without its pattern", _method("GRPO", "PromptOnly", grpo={"rewards": [{"type": "Format"}]}), "need `pattern`"),
    Case("reward without its length", _method("GRPO", "PromptOnly", grpo={"rewards": [{"type": "Length"}]}), "need `targetTokens`"),
    Case("reward with a field of another", _method("GRPO", "PromptOnly", grpo={"rewards": [
        {"type": "Length", "targetTokens": 5, "pattern": "a"}]}), "`pattern` is allowed only with"),
    Case("reward that names code", _method("GRPO", "PromptOnly", grpo={"rewards": [{"type": "Python", "code": "1"}]}), "code"),
    Case("one answer a prompt", _method("GRPO", "PromptOnly", grpo={
        "rewardModel": "job://reward", "answersPerPrompt": 1}), "answersPerPrompt"),
    Case("DPO without strength", _method("DPO", "Preference", dpo={"beta": 0}), "beta"),
    Case("label smoothing that nothing reads", _method("DPO", "Preference", dpo={"labelSmoothing": 0.1}), "is part of the losses"),
    Case("ExoPair without label smoothing", _method("DPO", "Preference", dpo={"losses": [{"type": "ExoPair"}]}), "above 0"),
    Case("DPO on chats", _method("DPO", "Messages"), "DPO needs data of format Preference"),
    Case("SFT on pairs", _method("SFT", "Preference"), "SFT of text-generation needs data of format"),
    Case("weighted evaluation", {"data.evaluation": {"sources": [{**FILES[0], "weight": 2}]}}, "no `weight`"),
    Case("preferences for masks", {**_method("DPO", "Preference"), "model.task": "fill-mask"}, "the task has one method, SFT"),
    Case("chats for classes", {"model.task": "text-classification", "data.format": "Messages"},
         "SFT of text-classification needs data of format Labelled"),
    Case("classes for text", {"data.format": "Labelled"}, "SFT of text-generation needs"),
    Case("early stopping without evaluations", {"training.earlyStopping": {}, "data.evaluation": {"fraction": 0.1}}, "needs `evaluateEverySteps`"),
    Case("early stopping without held-out rows", {"training": {"earlyStopping": {}, "evaluateEverySteps": 5}}, "needs held-out rows"),
    Case("early stopping of a pruning", {"tuning.type": "AdaLoRA", "training": {"earlyStopping": {}, "evaluateEverySteps": 5},
         "data.evaluation": {"fraction": 0.1}}, "not pruned yet"),
    Case("limit over the whole", {"data.limits": {"maxSkipped": 1.5}}, "maxSkipped"),
    Case("limit that is not known", {"data.limits": {"maxTypos": 0}}, "maxTypos"),
    Case("more samples than fit", {"data.publishedSamples": 11}, "publishedSamples"),
    Case("streaming without an end", {"data.streaming": True}, "needs `training.maxSteps`"),
    Case("streaming with a held-out fraction", {"data.streaming": True, "training": {"maxSteps": 9},
         "data.evaluation": {"fraction": 0.1}}, "no fraction"),
    Case("streaming by weight", {"data.streaming": True, "training": {"maxSteps": 9},
         "data.train": [{**FILES[0], "weight": 2}]}, "no `weight`"),
    Case("pairs in packs", {**_method("DPO", "Preference"), "data.packing": "Enabled"}, "SFT of text-generation only"),
    Case("streaming in packs", {"data.streaming": True, "training": {"maxSteps": 9}, "data.packing": "Enabled"}, "not packed"),
    Case("streaming pairs", {**_method("DPO", "Preference"), "data.streaming": True, "training": {"maxSteps": 9}}, "SFT of text-generation only"),
    Case("both evaluations", {"data.evaluation": {"fraction": 0.1, "sources": FILES}}, "exactly one of"),
    Case("empty evaluation", {"data.evaluation": {}}, "exactly one of"),
    Case("path below another job's output", {"model.source": "job://first/model"}, "model.source"),
    Case("job of an impossible name", {"model.source": "job://First"}, "model.source"),
    Case("path traversal", {"output.uri": "s3://models/a/../b"}, "output.uri"),
    Case("empty path part", {"output.uri": "s3://models//b"}, "output.uri"),
    Case("unknown scheme", {"model.source": "https://example.com/model"}, "model.source"),
    Case("host path", {"model.source": "hostpath://etc"}, "model.source"),
    Case("line break in a URI", {"model.source": "s3://models/a\nb"}, "model.source"),
    Case("output to a hub", {"output.uri": "hf://org/name"}, "output.uri"),
    Case("secret of another namespace", {"storage": {"credentials": {"secretName": "a", "namespace": "b"}}}, "namespace"),
    Case("secret name with a path", {"storage": {"credentials": {"secretName": "../a"}}}, "secretName"),
    Case("endpoint with a password", {"storage": {"endpoint": "http://user:secret@s3"}}, "endpoint"),
    Case("GPU fraction", {"resources.gpusPerNode": 0.5}, "gpusPerNode"),
    Case("memory without a unit we know", {"resources.memory": "8gb"}, "memory"),
    Case("sharding over one GPU", {"resources.gpusPerNode": 1, "distributed.strategy": "FSDP"}, "does nothing"),
    Case("QLoRA with ZeRO3", {"resources.gpusPerNode": 2, "distributed.strategy": "ZeRO3", "tuning": {
        "type": "QLoRA", "quantization": {}}}, "ZeRO2 or FSDP"),
    Case("command", {"resources.command": ["sh"]}, "command"),
    Case("grace period below zero", {"runPolicy.terminationGracePeriodSeconds": -1}, "terminationGracePeriodSeconds"),
    Case("name too long for its children", job_name="a" * 51, refusal="name"),
)  # fmt: skip

CASES = VALID + INVALID
