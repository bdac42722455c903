"""Transfer: starting a model from another's structure and parameters."""

from penjing.transfer.parameters import Kept, Transfer, transfer_parameters
from penjing.transfer.structure import transfer_structure
from penjing.verbs import make_callable

__all__ = ["Kept", "Transfer", "transfer_parameters", "transfer_structure"]

make_callable(__name__, "penjing.optimize.transferring", "transfer")
