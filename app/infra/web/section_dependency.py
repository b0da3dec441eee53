"""Gives a route the section of the settings that it needs."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from app.infra.settings_base.section import Sections, SectionT


def section(kind: type[SectionT]) -> Callable[[Request], Awaitable[SectionT]]:
    """Return a dependency: `Annotated[AvatarSettings, Depends(section(AvatarSettings))]`."""

    async def find_section(request: Request) -> SectionT:
        sections: Sections = request.app.state.settings
        return sections[kind]

    return find_section
