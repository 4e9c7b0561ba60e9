"""The Dagster instance's folder under `NUTRIDET_HOME`, with this project's settings in it.

Belongs here: where runs, events and schedules lie. Does not belong here: artefacts (`nutridet_core.layout`).
"""

from __future__ import annotations

import os
from pathlib import Path

from nutridet_core.settings import Settings
from nutridet_core.store import write_text

SETTINGS = Path(__file__).with_name("dagster.yaml")


def prepare_home() -> Path:
    """Make the folder on first use and name it in `DAGSTER_HOME`, unless the user has set that.

    A `dagster.yaml` that is there belongs to the user and is kept.
    """
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Settings().home / "dagster")))
    if not (home / SETTINGS.name).is_file():
        write_text(home / SETTINGS.name, SETTINGS.read_text(encoding="utf-8"))
    return home


if __name__ == "__main__":
    print(prepare_home())
