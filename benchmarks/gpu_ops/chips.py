"""What GPUs can do at most, by name: bytes a second, and bfloat16 products a second."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """Limits of a chip, from its maker's data sheet.

    Attributes:
        name: What its name, as the driver gives it, has in it.
        bandwidth: Of its memory, GB/s.
        flops: TFLOP/s of dense bfloat16 products that are summed in float32.
    """

    name: str
    bandwidth: float
    flops: float


# Longer names first: "H100" is part of "H100 PCIe", whose limits are others.
CHIPS = (
    Chip("B200", 8000, 2250),
    Chip("H200", 4800, 989),
    Chip("H100 NVL", 3938, 835),
    Chip("H100 PCIe", 2039, 756),
    Chip("H100", 3352, 989),
    Chip("A100-SXM4-40GB", 1555, 312),
    Chip("A100-PCIE-40GB", 1555, 312),
    Chip("A100 80GB PCIe", 1935, 312),
    Chip("A100", 2039, 312),
    Chip("A10G", 600, 70),
    Chip("A10", 600, 125),
    Chip("L40S", 864, 362),
    Chip("L4", 300, 121),
    Chip("RTX 5090", 1792, 209.5),
    Chip("RTX 4090", 1008, 165.2),
    Chip("RTX 3090", 936, 71),
)


def chip_of(device: str) -> Chip | None:
    """The chip that a device's name says; None where its limits are not known here."""
    return next((chip for chip in CHIPS if chip.name.lower() in device.lower()), None)
