"""Transfer: starting a model from another's structure and parameters."""

from penjing.transfer.parameters import Kept, Transfer, transfer_parameters
from penjing.transfer.structure import transfer_structure

__all__ = ["Kept", "Transfer", "transfer_parameters", "transfer_structure"]
