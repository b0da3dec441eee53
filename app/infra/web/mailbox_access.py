"""Who may see the mails of development, and the pages that their links lead to."""

from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from app.errors import NotFound
from app.infra.mail.settings import MailSettings
from app.infra.observability.settings import MetricsSettings
from app.infra.web.metrics_endpoint import is_in_networks
from app.infra.web.section_dependency import section


async def mail_folder(
    request: Request,
    settings: Annotated[MailSettings, Depends(section(MailSettings))],
    metrics: Annotated[MetricsSettings, Depends(section(MetricsSettings))],
) -> Path:
    """Return the folder of the mails, or raise `NotFound`.

    Only development has a folder, and only clients in METRICS_NETWORKS may read its mails: whoever
    reads a mail about a password reset can take over the account. The other settings of the metrics
    do not matter: METRICS_PORT shows the metrics to every client.
    """
    if settings.folder is None or not is_in_networks(request, metrics.networks):
        raise NotFound("Not Found.")
    return settings.folder


MailFolder = Annotated[Path, Depends(mail_folder)]
