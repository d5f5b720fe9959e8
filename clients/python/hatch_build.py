"""Copies the gateway's publish script into the package. The build fails if the script is missing."""

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COPY = "src/tickgate/publish.lua"
ORIGINAL = "src/backplane/redis/scripts/publish.lua"


class SharedFiles(BuildHookInterface):
    """Copies the gateway's publish script before it is packed. A source distribution already has it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        package = Path(self.root)
        original = package.parent.parent / ORIGINAL
        if original.is_file():
            shutil.copyfile(original, package / COPY)
        elif not (package / COPY).is_file():
            raise FileNotFoundError(f"{COPY} requires the repository's {ORIGINAL}")
