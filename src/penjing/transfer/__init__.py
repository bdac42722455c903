"""Transfer: starting a model from another's parameters."""

from penjing.transfer.parameters import Kept, Transfer, transfer_parameters

__all__ = ["Kept", "Transfer", "transfer_parameters"]
