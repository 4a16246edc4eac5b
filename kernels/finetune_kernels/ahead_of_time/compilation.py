"""One launch to the machine code of one chip, and what that takes; many of them beside each other.

Results are kept under `~/.cache/finetune-operator/kernels` (or `FINETUNE_CACHE`) by the kernel's source,
its arguments, the chip and Triton's version, so only what changed is compiled anew. Called by `__main__`.
"""

import itertools
import json
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from finetune_kernels.ahead_of_time.chips import (
    CHIPS,
    MAX_BLOCK_REGISTERS,
    MAX_THREAD_REGISTERS,
    THREADS_OF_A_WARP,
    Chip,
)
from finetune_kernels.ahead_of_time.launches import Entry, Launch

_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one chip.

    Attributes:
        registers: Of a thread.
        local_bytes: Memory of a thread beside its registers: what spilled.
        shared_bytes: Of a block.
        warps: Of a block.
    """

    registers: int
    local_bytes: int
    shared_bytes: int
    warps: int

    def excess(self, chip: Chip) -> list[str]:
        """What goes beyond the chip's limits, in words; spilled registers count."""
        whole = self.registers * self.warps * THREADS_OF_A_WARP
        checks = (
            (self.registers, MAX_THREAD_REGISTERS, "registers of a thread"),
            (whole, MAX_BLOCK_REGISTERS, "registers of a block"),
            (self.shared_bytes, chip.shared_memory, "bytes of shared memory"),
            (self.local_bytes, 0, "bytes spilled"),
        )
        return [f"{got} {what}, {most} allowed" for got, most, what in checks if got > most]


def compile_all(entries: Sequence[Entry]) -> list[list[Resources]]:
    """Resources of every entry (outer) on every chip (inner), from as many processes as CPUs."""
    global _entries  # noqa: PLW0603 - forked processes find the kernels here, which do not pickle
    _entries = entries
    tasks = list(itertools.product(range(len(entries)), range(len(CHIPS))))
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        results = list(pool.map(_compile_by_index, tasks, chunksize=1))
    return [results[start : start + len(CHIPS)] for start in range(0, len(results), len(CHIPS))]


_entries: Sequence[Entry] = ()


def _compile_by_index(task: tuple[int, int]) -> Resources:
    index, chip = task
    return compile_launch(_entries[index].launches[chip], CHIPS[chip])


def compile_launch(launch: Launch, chip: Chip) -> Resources:
    """Compile, or read what an earlier compilation found."""
    kept = _cache() / f"{_key(launch, chip)}.json"
    if kept.exists():
        return Resources(**json.loads(kept.read_text()))
    resources = _compile(launch, chip)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
        json.dump(asdict(resources), file)
    Path(file.name).replace(kept)
    return resources


def _cache() -> Path:
    given = os.environ.get("FINETUNE_CACHE")
    return (Path(given) if given else Path.home() / ".cache/finetune-operator") / "kernels"


def _key(launch: Launch, chip: Chip) -> str:
    return f"{launch.digest}-{chip.name}"


def _compile(launch: Launch, chip: Chip) -> Resources:
    source = ASTSource(
        fn=launch.kernel,
        signature=launch.signature,
        constexprs={(launch.kernel.arg_names.index(n),): v for n, v in launch.constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in launch.aligned},
    )
    target = GPUTarget("cuda", chip.capability, THREADS_OF_A_WARP)
    # Triton's own cache would keep a copy of everything that is only measured here.
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        compiled = triton.compile(source, target=target, options=dict(launch.options))
        registers, local = _usage(compiled.asm["cubin"], Path(folder))
    metadata = compiled.metadata
    return Resources(registers, local, metadata.shared, metadata.num_warps)


def _usage(code: bytes, folder: Path) -> tuple[int, int]:
    """Registers and local bytes of a thread, as the assembler wrote them into the code."""
    path = folder / "kernel.cubin"
    path.write_bytes(code)
    command = [str(_TOOLS / "cuobjdump"), "-res-usage", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return found["REG"], found["STACK"] + found["LOCAL"]
