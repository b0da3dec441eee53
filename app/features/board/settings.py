"""Whether the live board is shown."""

from app.infra.settings_base.section import Section, Switch


class BoardSettings(Section):
    """The live board at `/`. If not set, it is on in development and off in production."""

    enabled: Switch = None
