"""For the tests of applications: a real gateway on free ports of this machine."""

from .process import GatewayProcess, find_program

__all__ = ["GatewayProcess", "find_program"]
