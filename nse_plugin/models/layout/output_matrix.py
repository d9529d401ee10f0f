"""`W_out`, the matrix that NSE edits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nse_plugin.models.transformers_private import Conv1D

EDITABLE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class LayoutError(ValueError):
    """A model, or a layer of it, that cannot be edited; the message gives the remedy."""


@dataclass(frozen=True)
class OutputMatrix:
    """`W_out` of one layer's MLP: it maps the f neurons to the hidden size d.

    name: the weight's parameter name in the model. module: the Linear or Conv1D that holds it.
    """

    name: str
    module: nn.Module

    @property
    def weight(self) -> nn.Parameter:
        """The parameter itself: [d, f] in a Linear, [f, d] in a Conv1D."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def matrix(self) -> Tensor:
        """The weight's data as [d, f], a view."""
        return self.as_matrix(self.weight.data)

    def as_matrix(self, data: Tensor) -> Tensor:
        """View a tensor in the module's own order as [d, f]."""
        return data.T if isinstance(self.module, Conv1D) else data

    def add_columns(self, neurons: Tensor, delta: Tensor, master: Tensor | None = None) -> None:
        """Add `delta` [d, m] to the columns `neurons` [m], summed in float64 and rounded once.

        master: a higher-precision copy of the weight, in the module's own order; if given, the sum is stored there and
        the model's weight is rounded from it.
        """
        matrix = self.matrix
        finest = matrix if master is None else self.as_matrix(master)
        columns = finest[:, neurons].to(torch.float64) + delta.to(matrix.device)
        finest[:, neurons] = columns.to(finest.dtype)
        if master is not None:
            matrix[:, neurons] = finest[:, neurons].to(matrix.dtype)

    def keys(self, inputs: Tensor, rows: int, tokens: int) -> Tensor:
        """Return the module's inputs for a batch of [rows, tokens] as [rows, tokens, f]; some layers (OPT's, mixtures
        of experts) flatten them to [rows x tokens, f].

        Raises LayoutError if the module receives only some of the tokens, as a routed expert does.
        """
        if inputs.shape[:-1].numel() != rows * tokens:
            raise LayoutError(
                f"{self.name} is given {inputs.shape[:-1].numel()} tokens where the model is given {rows * tokens}, as "
                "a routed expert would be: name a matrix that every token passes once with rewrite_module_tmp."
            )
        return inputs.reshape(rows, tokens, inputs.shape[-1])
