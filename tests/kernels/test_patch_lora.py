"""Models with adapters of PEFT, patched, against PEFT's own forward and backward pass."""

import copy
import os
import socket
from collections.abc import Callable

import bitsandbytes as bnb
import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config

from finetune_kernels import patch
from support.adapted_models import ALL, IDS, adapted, base
from support.kernel_truth import error


def step(model: torch.nn.Module) -> tuple[torch.Tensor, dict]:
    model.zero_grad()
    output = model(input_ids=IDS, labels=IDS, use_cache=False)
    output.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.logits.detach(), gradients


def assert_close(got: tuple, want: tuple, limit: float = 1e-5) -> None:
    assert error(got[0], want[0].double()) < limit
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        assert error(got[1][name], gradient.double()) < limit, name


def blocks_run(model: torch.nn.Module) -> bool:
    """Whether only the head is called as a module: PEFT calls every matrix of an adapter."""
    calls, original = [], torch.nn.Linear.forward
    torch.nn.Linear.forward = lambda m, x: calls.append(m) or original(m, x)
    try:
        model(input_ids=IDS)
    finally:
        torch.nn.Linear.forward = original
    return len(calls) == 1


@pytest.mark.parametrize("kernels", ["Torch", "Triton"])
def test_a_patched_adapter_trains_the_same_and_is_put_back(kernels) -> None:
    model = adapted()
    before, names = step(model), list(model.state_dict())
    patched = patch(model, kernels)
    counts = {"LoraLinear": 7, "LoraQKV": 1, "LoraMLP": 1}
    assert {k: v for k, v in patched.layers.items() if k.startswith("Lora")} == counts
    assert ("RMSNorm" in patched.layers) == (kernels == "Triton")
    assert not patched.left
    assert blocks_run(model)
    assert_close(step(model), before)
    assert list(model.state_dict()) == names
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_close(step(model.train()), before)
    patched.undo()
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert_close(step(model), before)


def test_only_some_layers_adapted() -> None:
    model = adapted(target_modules=["q_proj", "v_proj"])
    before = step(model)
    patched = patch(model, "Torch")
    assert dict(patched.layers) == {"LoraLinear": 2, "LoraQKV": 1}
    assert_close(step(model), before)


def test_the_reference_is_the_model_without_its_adapter() -> None:
    model = adapted()
    plain = base()(input_ids=IDS).logits
    patch(model, "Torch")
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, plain)
    tuned = model(input_ids=IDS).logits
    assert error(tuned, plain.double()) > 0.01
    model.merge_adapter()
    assert error(model(input_ids=IDS).logits, tuned.double()) < 1e-5
    model.unmerge_adapter()
    assert error(model(input_ids=IDS).logits, tuned.double()) < 1e-5


def test_a_second_adapter_is_left_to_peft() -> None:
    model, twin = adapted(), adapted()
    patch(model, "Torch")
    for each in (model, twin):
        torch.manual_seed(3)
        each.add_adapter("other", LoraConfig(r=2, target_modules=ALL, init_lora_weights=False))
        each.base_model.set_adapter(["default", "other"])
    assert_close(step(model), step(twin))
    assert patch(adapted(model=twin.unload(), lora_dropout=0.1), "Torch").left == {
        "lora.Linear": "dropout 0.1"
    }


def test_variants_are_left_to_peft_and_named() -> None:
    model = adapted(use_dora=True)
    before = step(model)
    patched = patch(model, "Torch")
    assert not patched.layers
    assert patched.left == {"lora.Linear": "a variant of LoRA, such as DoRA"}
    assert_close(step(model), before)


def test_other_adapters_are_left_to_peft_and_named() -> None:
    model = get_peft_model(base(), AdaLoraConfig(target_modules=ALL, total_step=10))
    before = step(model)
    patched = patch(model, "Torch")
    assert not patched.layers
    assert patched.left == {"lora.SVDLinear": "not a plain adapter of a linear layer"}
    assert_close(step(model), before)


def test_hooks_on_parts_are_called() -> None:
    model = adapted()
    patch(model, "Torch")
    seen = []
    part = model.base_model.model.model.layers[0].mlp.up_proj.lora_A["default"]
    part.register_forward_hook(lambda *_: seen.append(1))
    model(input_ids=IDS)
    assert seen == [1]


def assert_not_worse(model: torch.nn.Module, exact: torch.nn.Module) -> None:
    """Hold bfloat16 training of the patched model to the error that PEFT's own has."""
    truth = step(exact)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = step(model)
        patched = patch(model, "Torch")
        got = step(model)
        assert blocks_run(model)
    assert patched.layers["LoraQKV"] == patched.layers["LoraMLP"] == 1
    assert got[0].dtype == theirs[0].dtype
    assert error(got[0], truth[0]) <= 1.05 * error(theirs[0], truth[0]) + 2**-8
    assert all(got[1][name].dtype == gradient.dtype for name, gradient in theirs[1].items())
    # Of all gradients together: those of single matrices this small differ by chance.
    every, other, exactly = (
        torch.cat([s[1][n].flatten() for n in truth[1]]) for s in (got, theirs, truth)
    )
    assert error(every, exactly) <= 1.05 * error(other, exactly) + 2**-8


def test_mixed_precision_is_not_worse_than_peft() -> None:
    model = adapted(base(torch.bfloat16))  # adapters in float32, as PEFT makes them
    assert_not_worse(model, copy.deepcopy(model).double())


def in_four_bits(layer: torch.nn.Linear, double: bool) -> bnb.nn.Linear4bit:
    packed = bnb.nn.Linear4bit(
        *(layer.in_features, layer.out_features, layer.bias is not None),
        compute_dtype=torch.bfloat16,
        compress_statistics=double,
        quant_type="nf4",
    )
    packed.load_state_dict(layer.state_dict())
    return packed.to("cpu")


def quantised(double: bool) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A model with adapters on a base of 4 bits, and the same on the numbers that these stand for."""
    model, dense = base(torch.bfloat16), base(torch.bfloat16)
    for block, other in (
        (model.model.layers[0].self_attn, dense.model.layers[0].self_attn),
        (model.model.layers[0].mlp, dense.model.layers[0].mlp),
    ):
        for name in [n for n in ALL if hasattr(block, n)]:
            packed = in_four_bits(getattr(block, name), double)
            setattr(block, name, packed)
            weight = bnb.functional.dequantize_4bit(packed.weight.data, packed.weight.quant_state)
            getattr(other, name).weight.data = weight
    model.is_loaded_in_4bit = True
    model, dense = adapted(model), adapted(dense)
    for mine, others in zip(model.parameters(), dense.parameters(), strict=True):
        if mine.requires_grad:
            others.data.copy_(mine.data)
    return model, dense


@pytest.mark.parametrize("double", [True, False])
def test_four_bit_bases_are_not_worse_than_peft(double) -> None:
    model, dense = quantised(double)
    assert_not_worse(model, dense.double())


def test_gpt2_has_its_weights_turned() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = adapted(
        AutoModelForCausalLM.from_config(config),
        target_modules=["c_attn", "c_fc"],
        fan_in_fan_out=True,
    ).eval()
    before = step(model)
    assert dict(patch(model, "Torch").layers) == {"LoraLinear": 2}
    assert_close(step(model), before)


@pytest.mark.parametrize("four_bits", [False, True])
def test_the_compiler_takes_the_blocks_whole(four_bits) -> None:
    model = quantised(True)[0].bfloat16() if four_bits else adapted()
    inner = model.base_model.model.model
    layer = inner.layers[0]
    x = torch.randn(1, 3, 64, dtype=inner.norm.weight.dtype)
    places = inner.rotary_emb(x, torch.arange(3)[None])
    weights = [p for p in layer.parameters() if p.requires_grad]

    def gradients(call: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        # A tuple before transformers 4.54.
        states = call(x, position_embeddings=places)
        states = states[0] if isinstance(states, tuple) else states
        return torch.autograd.grad(states.square().sum(), weights)

    want = gradients(layer)
    patch(model, "Torch")
    torch._dynamo.reset()
    got = gradients(torch.compile(layer, backend="aot_eager", fullgraph=True))
    # Halves are rounded elsewhere than by PEFT; the compiler itself changes nothing.
    want, limit = (gradients(layer), 2**-8) if four_bits else (want, 1e-5)
    for mine, other in zip(got, want, strict=True):
        assert error(mine, other.double()) < limit


def test_gradients_of_micro_batches_add_up() -> None:
    def accumulated(model: torch.nn.Module) -> dict:
        model.zero_grad()
        for row in IDS:
            model(input_ids=row[None], labels=row[None], use_cache=False).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model = adapted()
    want = accumulated(model)
    patch(model, "Triton")
    got = accumulated(model)
    assert got.keys() == want.keys()
    assert all(error(got[name], gradient.double()) < 1e-5 for name, gradient in want.items())


@pytest.fixture
def alone(monkeypatch):
    """A process group of one process."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
        monkeypatch.setitem(os.environ, name, value)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_and_fsdp_wrap_a_patched_model(alone) -> None:
    before = step(adapted())
    model = adapted()
    patch(model, "Torch")
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    got = step(wrapped)
    assert_close((got[0], {n.removeprefix("module."): g for n, g in got[1].items()}), before)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = adapted()
    patch(model, "Torch")
    for layer in model.base_model.model.model.layers:
        torch.distributed.fsdp.fully_shard(layer, mesh=mesh)
    torch.distributed.fsdp.fully_shard(model, mesh=mesh)
    assert blocks_run(model)
    logits, gradients = step(model)
    assert_close((logits, {n: g.full_tensor() for n, g in gradients.items()}), before)
