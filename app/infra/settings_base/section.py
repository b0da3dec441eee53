"""The base class of all sections of the settings, and the types of their fields."""

from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

# Upper bounds, so that a number with a digit too many is refused at start-up.
Positive = Annotated[int, Field(gt=0, le=10**12)]
SmallCount = Annotated[int, Field(gt=0, le=10_000)]
WholeSeconds = Annotated[int, Field(gt=0, le=366 * 86_400)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Seconds = Annotated[float, Field(ge=0.001, le=86_400)]


class OnInDevelopment:
    """Marks a field for which None means on in development, and off in production."""


Switch = Annotated[bool | None, OnInDevelopment]


class Section(BaseModel):
    """A frozen group of settings. Its field name in `Settings` is the prefix of their names."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, validate_default=True)

    def with_switches(self, *, is_development: bool) -> Self:
        """Return a copy in which every `Switch` is True or False."""
        unset = {
            name: is_development
            for name, field in type(self).model_fields.items()
            if OnInDevelopment in field.metadata and getattr(self, name) is None
        }
        return self.model_copy(update=unset)


SectionT = TypeVar("SectionT", bound=Section)


class Sections:
    """The sections by their class. Code asks for a section without knowing `Settings`."""

    def __init__(self, *sections: Section) -> None:
        self._sections = {type(section): section for section in sections}

    def __getitem__(self, kind: type[SectionT]) -> SectionT:
        section = self._sections[kind]
        assert isinstance(section, kind)
        return section
