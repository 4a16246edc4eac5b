"""The rows of the compatibility table: what does not work, and why.

Read by `compatibility` alone. Everything that no row names works. A row stands here only if
`make matrix` sees its cells fail when it is taken away, or if `silent` says what goes wrong unseen.
"""

from dataclasses import dataclass

from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.tuning import TuningType


@dataclass(frozen=True)
class Refusal:
    """One thing that does not work: every condition that is given must hold.

    Attributes:
        why: What cannot be done, by whom, and what to do instead; one sentence.
        families: `model_type`s; a row with families is judged by the trainer, not at apply.
        variants: Of LoRA and QLoRA.
        quantizations: Number formats of the base.
        others: PEFT's names of `Other` tunings.
        merged: Holds only if merged weights are asked for.
        checkpointing: Holds only if gradient checkpointing is `Enabled`.
        packed: Holds only if packing is `Enabled`.
        silent: The libraries raise no error; why the result is wrong all the same.
    """

    why: str
    methods: tuple[MethodType, ...] = ()
    tasks: tuple[Task, ...] = ()
    tunings: tuple[TuningType, ...] = ()
    families: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    merged: bool = False
    checkpointing: bool = False
    packed: bool = False
    silent: str | None = None

    def __str__(self) -> str:
        return self.why


DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
PREFERENCES: tuple[MethodType, ...] = ("Reward", "DPO", "IPO", "KTO", "ORPO", "CPO", "SimPO")
ONLINE: tuple[MethodType, ...] = ("PPO", "GRPO", "RLOO", "Distillation")
# Names of PEFT's that `tuning.type: Other` takes.
OTHERS = ("LOHA", "LOKR", "VERA", "OFT")
# Tasks whose model is not a decoder with a language-model head.
SUPERVISED: tuple[Task, ...] = (
    "text2text-generation",
    "text-classification",
    "token-classification",
    "fill-mask",
)

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "the task has one method, SFT; preferences and rewards teach models of text-generation",
        methods=(*PREFERENCES, *ONLINE),
        tasks=SUPERVISED,
    ),
    Refusal(
        "a decoder has no encoder to read the input with; use the task text-generation",
        tasks=("text2text-generation",),
        families=(*DECODERS, "bert"),
    ),
    Refusal(
        "only an encoder such as BERT fills masks; use the task text-generation",
        tasks=("fill-mask",),
        families=(*DECODERS, "t5"),
    ),
    Refusal(
        "an encoder does not write on; use fill-mask or a classification",
        tasks=("text-generation",),
        families=("bert",),
    ),
    Refusal(
        "an encoder-decoder does not write on, it answers; use the task text2text-generation",
        tasks=("text-generation",),
        families=("t5",),
    ),
    Refusal(
        "LoftQ starts from what quantisation lost, and this base is not quantised; use QLoRA",
        tunings=("LoRA",),
        variants=("LoftQ",),
    ),
    Refusal(
        "LoftQ makes up for 4 bits; with Int8 next to nothing is lost; use Standard",
        variants=("LoftQ",),
        quantizations=("Int8",),
    ),
    Refusal(
        "PiSSA and OLoRA take their start away from the base before it is quantised, so that nobody "
        "else would have that base; use LoftQ with QLoRA",
        tunings=("QLoRA",),
        variants=("PiSSA", "OLoRA"),
        silent="the start would be taken from weights that quantisation has changed",
    ),
    Refusal(
        "what LoftQ learned makes up for a quantised base; in weights that are not quantised it would "
        "be an error; publish the adapter alone",
        variants=("LoftQ",),
        merged=True,
        silent="the merged weights carry the quantisation error with the opposite sign",
    ),
)
