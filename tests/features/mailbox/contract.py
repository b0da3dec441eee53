"""The routes of the mailbox, for the tests of the contract."""

from app.infra.mail.folder import list_mails
from app.infra.mail.message import Mail
from app.infra.mail.settings import MailSettings
from app.infra.resources import ProcessResources
from tests.contract.declaration import Contract, Ids, Route, World

EVERYBODY = Route(200, 200, 200, 200)  # the tests call from an address that may see the mailbox


async def make_rows(resources: ProcessResources, _ids: Ids) -> Ids:
    await resources.mailer.send(Mail("ann@example.com", "Hello", "Text", "<p>HTML</p>"))
    folder = resources.settings[MailSettings].folder
    assert folder is not None
    return {"mail_id": list_mails(folder)[0]}


async def populate(world: World) -> None:
    world.ids |= await make_rows(world.resources, world.ids)


CONTRACT = Contract(
    {
        "GET /mailbox": EVERYBODY,
        "GET /mailbox/": EVERYBODY,
        "GET /mailbox/mails/{mail_id}": EVERYBODY,
        "GET /mailbox/mails/{mail_id}/html": EVERYBODY,
    },
    make_rows=make_rows,
    populate=populate,
)
