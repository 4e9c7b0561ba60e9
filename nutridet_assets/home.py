"""The Dagster instance's folder under `NUTRIDET_HOME`, with this project's settings in it.

Belongs here: where runs, events and schedules lie. Does not belong here: artefacts (`nutridet_core.artifacts.layout`).
"""

from __future__ import annotations

import os
from pathlib import Path

from nutridet_core.artifacts.store import write_text
from nutridet_core.errors import SettingsError
from nutridet_core.settings import Settings

SETTINGS = Path(__file__).with_name("dagster.yaml")
_STORAGE = "NUTRIDET_DAGSTER_STORAGE"
_DRIVER = "postgresql+psycopg2://"
"""SQLAlchemy 2.1 takes a plain `postgresql://` for psycopg 3, with which Dagster's NOTIFY is a syntax error."""
_POSTGRES = f"""
storage:
  postgres:
    postgres_url:
      env: {_STORAGE}
"""
"""The address stays in the environment: it holds a password."""


def prepare_home() -> Path:
    """Make the folder on first use and name it in `DAGSTER_HOME`, unless the user has set that.

    A `dagster.yaml` that is there belongs to the user and is kept.

    Raises:
        SettingsError: when a database is set that Dagster cannot use, or that the file that is there does not use.
    """
    settings = Settings()
    if settings.dagster_storage and not settings.dagster_storage.startswith(_DRIVER):
        raise SettingsError("names another database or driver", field=_STORAGE, remedy=f"Begin it with {_DRIVER}.")
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(settings.home / "dagster")))
    file = home / SETTINGS.name
    if not file.is_file():
        write_text(file, SETTINGS.read_text(encoding="utf-8") + (_POSTGRES if settings.dagster_storage else ""))
    elif settings.dagster_storage and f"env: {_STORAGE}" not in file.read_text(encoding="utf-8"):
        raise SettingsError(
            "keeps runs elsewhere", where=file, field="storage", remedy=f"Write{_POSTGRES}there, or unset {_STORAGE}."
        )
    return home


if __name__ == "__main__":
    print(prepare_home())
