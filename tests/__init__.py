"""The tests. Neither the environment nor the .env of whoever runs them reaches the settings."""

import os

from app.settings import Settings

Settings.model_config["env_file"] = None
for name in list(os.environ):
    if (
        name == "WEB_CONCURRENCY"
        or name.startswith("OTEL_")
        or name.lower().split("_")[0] in Settings.model_fields
    ):
        del os.environ[name]
