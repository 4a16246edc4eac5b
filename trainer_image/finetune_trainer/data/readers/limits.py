"""How much a data file may become when it is read, so that a small file cannot fill the memory.

Used by the readers. The bounds are far above honest data: text compresses three- to twentyfold.
"""

from dataclasses import dataclass

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.files import DataFile
from finetune_trainer.errors import TrainerError

MEBIBYTE = 2**20
MAX_LINE = 64 * MEBIBYTE
MAX_WHOLE = 512 * MEBIBYTE
MAX_UNPACKED = 32 * 1024 * MEBIBYTE
MAX_RATIO = 200
# Below this size any ratio is harmless.
FREE = 64 * MEBIBYTE


@dataclass
class Unpacked:
    """Counts what comes out of a compressed file.

    Attributes:
        file: The file.
        size: Bytes so far.
    """

    file: DataFile
    size: int = 0

    def add(self, size: int) -> None:
        """Count more bytes.

        Raises:
            TrainerError: DataTooLarge once the file becomes beyond reason.
        """
        self.size += size
        packed = max(1, self.file.path.stat().st_size)
        if self.size > MAX_UNPACKED or (self.size > FREE and self.size > MAX_RATIO * packed):
            message = (
                f"{self.file.name}: {packed} bytes unpack to more than {self.size}; a file may grow "
                f"{MAX_RATIO}-fold, and to {MAX_UNPACKED // MEBIBYTE} MiB"
            )
            raise TrainerError(Reason.DATA_TOO_LARGE, message)


def too_large(where: str, what: str, limit: int) -> TrainerError:
    """Something that is larger than `limit` bytes."""
    message = f"{where}: {what} is larger than {limit // MEBIBYTE} MiB"
    return TrainerError(Reason.DATA_TOO_LARGE, message)
