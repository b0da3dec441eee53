"""Log lines on standard error, each with the id of the request it belongs to."""

import logging.config

from app.infra.web.request_id import request_id
from app.settings import LogSettings


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def configure_logging(settings: LogSettings) -> None:
    """Configure the loggers of `app`. Those of the server keep their own configuration."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": _RequestId}},
            "formatters": {
                "line": {
                    "format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
                }
            },
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "filters": ["request_id"],
                    "formatter": "line",
                }
            },
            "loggers": {
                "app": {"handlers": ["stderr"], "level": settings.level},
                # SQLAlchemy lets a pool log under the name of its class.
                "app.infra.database.pool": {"level": "WARNING"},
            },
        }
    )
