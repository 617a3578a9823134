"""A development server that speaks the OpenAI Images API, strictly, and fails on demand."""

from .faults import FAULTS, Fault
from .flavours import FLAVOURS
from .records import FilePart, RequestRecord
from .server import Emulator

__all__ = ["FAULTS", "FLAVOURS", "Emulator", "Fault", "FilePart", "RequestRecord"]
