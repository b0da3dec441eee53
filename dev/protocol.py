"""The protocol class of graceful_gunicorn for `make dev`: Uvicorn imports it by its name."""

from app.infra.server.wiring import server_config
from app.settings import load_settings
from graceful_gunicorn import protocol_class

Protocol = protocol_class(server_config(load_settings().server))
