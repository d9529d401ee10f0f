"""Write safetensors files atomically and with normal permissions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from nse_plugin.support.files import written_whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors of any shape to a safetensors file, with permissions by the umask (safetensors 0.8.0 makes files
    private)."""
    with written_whole(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata))
        make_readable(temporary)


def make_readable(file: Path) -> None:
    """Set the permissions of a file written by safetensors according to the umask."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)
