"""The rows of the compatibility table: what does not work, and why.

Read by `compatibility` alone. Everything that no row names works. A row stands here only if
`make matrix` sees its cells fail when it is taken away, or if `silent` says what goes wrong unseen.
"""

from dataclasses import dataclass

from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.tuning import VIRTUAL_TOKENS, TuningType


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
# Every other kind of adapter that PEFT has; `tuning.type: Other` takes those that no row refuses.
OTHERS = (
    "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA",
    "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "LILY", "LN_TUNING", "LOHA", "LOKR",
    "MISS", "MULTITASK_PROMPT_TUNING", "OFT", "OSF", "PEANUT", "POLY", "PSOFT", "PVERA",
    "RANDLORA", "ROAD", "SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS",
    "UNILORA", "VBLORA", "VERA", "WAVEFT", "XLORA",
)  # fmt: skip
# Tasks whose model is not a decoder with a language-model head.
SUPERVISED: tuple[Task, ...] = (
    "text2text-generation",
    "text-classification",
    "token-classification",
    "fill-mask",
)

# Kinds of PEFT that refuse GPT-2's modules, or find none (OSF).
NOT_FOR_CONV1D = (
    "BEFT", "BOFT", "C3A", "DELORA", "GLORA", "HRA", "LILY", "LOHA", "LOKR", "MISS", "OFT", "OSF",
    "PEANUT", "PSOFT", "ROAD", "SHIRA", "SUPERTUNING",
)  # fmt: skip

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
        "DoRA reads the weights of its base in every step, which PEFT cannot do with Int8 on a CPU and "
        "nobody has proved on a GPU; use NF4",
        variants=("DoRA",),
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
    Refusal(
        "full tuning has no adapter to merge: its output is the whole model; leave `output.merged` out",
        tunings=("Full",),
        merged=True,
    ),
    Refusal(
        "PEFT makes no virtual tokens for models that fill masks; use LoRA or IA3",
        tasks=("fill-mask",),
        tunings=VIRTUAL_TOKENS,
    ),
    Refusal(
        "PEFT puts virtual tokens among the tokens that are tagged, where no tag belongs to them; use "
        "LoRA or IA3",
        tasks=("token-classification",),
        tunings=VIRTUAL_TOKENS,
    ),
    Refusal(
        "models that classify keep no keys and values for PEFT to put a prefix into; use PTuning or "
        "LoRA",
        tasks=("text-classification",),
        tunings=("PrefixTuning",),
    ),
    Refusal(
        "a decoder classifies by the last token of a text, which it does not find behind virtual tokens; "
        "use LoRA",
        tasks=("text-classification",),
        tunings=("PromptTuning", "PTuning"),
        families=DECODERS,
        silent="it takes the last place of the padded batch, so the class depends on the other rows",
    ),
    Refusal(
        "a reward model judges by the last token of an answer, which it does not find behind virtual "
        "tokens; use LoRA",
        methods=("Reward",),
        tunings=VIRTUAL_TOKENS,
        silent="it takes the last place of the padded batch, so the reward depends on the other rows",
    ),
    Refusal(
        "PEFT puts virtual tokens before the padding of a batch of prompts, so what an answer is worth "
        "would depend on the other prompts; use LoRA",
        methods=ONLINE,
        tunings=VIRTUAL_TOKENS,
        silent="prompts of a batch differ in length, and with it the distance to the virtual tokens",
    ),
    Refusal(
        "a recomputed forward pass finds the prefix in the cache already; leave "
        "`training.gradientCheckpointing` to Auto, or use PromptTuning",
        tunings=("PrefixTuning",),
        checkpointing=True,
    ),
    Refusal(
        "virtual tokens stand once before a sequence, so of packed rows only the first would follow "
        "them; leave `data.packing` to Auto",
        tunings=VIRTUAL_TOKENS,
        packed=True,
    ),
    Refusal(
        "virtual tokens live before the text and not in the weights, so there is nothing to merge",
        tunings=VIRTUAL_TOKENS,
        merged=True,
    ),
    Refusal(
        "T5's classifier takes no embeddings, and so no virtual tokens; use LoRA",
        tasks=("text-classification",),
        tunings=("PromptTuning", "PTuning"),
        families=("t5",),
    ),
    Refusal(
        "PEFT mixes adapters with it that were trained before, and a job has none; use LoRA",
        others=("XLORA",),
    ),
    Refusal(
        "PEFT stores no new classifier with it; use LoRA",
        tasks=("text-classification", "token-classification"),
        others=("TRAINABLE_TOKENS",),
    ),
    Refusal(
        "GPT-2's output head shares its weights with the embeddings, and TRL's fused loss would pass the "
        "adapter by; use LoRA",
        families=("gpt2",),
        others=("TRAINABLE_TOKENS",),
    ),
    Refusal(
        "it lives in virtual tokens and not in the model; use PromptTuning or PrefixTuning",
        others=("CARTRIDGE", "CPT"),
    ),
    Refusal(
        "PEFT asks for the number of a task with each row, and rows have none; use LoRA or PromptTuning",
        others=("POLY", "MULTITASK_PROMPT_TUNING"),
    ),
    Refusal(
        "PEFT needs scikit-learn for it, which the image does not hold; use AdaLoRA",
        others=("ADAMSS",),
    ),
    Refusal(
        "PEFT's forward pass of it fails with the transformers of the image; use LoRA",
        others=("SHADOW",),
    ),
    Refusal(
        "PEFT hides the model behind it from the fused loss of TRL; use PrefixTuning",
        others=("ADAPTION_PROMPT",),
    ),
    Refusal(
        "PEFT has it for plain linear modules only, and GPT-2 has others; use LoRA or VERA",
        families=("gpt2",),
        others=NOT_FOR_CONV1D,
    ),
    Refusal(
        "PEFT cannot put this kind of adapter into the weights; publish the adapter alone",
        others=("LILY",),
        merged=True,
    ),
    Refusal(
        "it learns biases, and the base has none to put them into; publish the adapter alone",
        families=(*DECODERS, "t5"),
        others=("BEFT",),
        merged=True,
    ),
    Refusal(
        "FourierFT changes T5 so much that rounding moves the merged logits by more than 1e-4 of their "
        "size; publish the adapter alone",
        families=("t5",),
        others=("FOURIERFT",),
        merged=True,
    ),
)
