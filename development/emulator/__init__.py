"""A development server that speaks the OpenAI Images API, strictly, and fails on demand."""

from .faults import Fault
from .server import Emulator
from .wire import RequestRecord

__all__ = ["Emulator", "Fault", "RequestRecord"]
