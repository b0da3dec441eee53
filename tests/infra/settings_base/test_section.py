"""Sections of the settings."""

from app.infra.settings_base.section import Section, Switch


class FeatureSettings(Section):
    switch: Switch = None
    three_states: bool | None = None


def test_only_switches_depend_on_the_environment() -> None:
    for is_development in (True, False):
        section = FeatureSettings().with_switches(is_development=is_development)
        assert (section.switch, section.three_states) == (is_development, None)
    kept = FeatureSettings(switch=False).with_switches(is_development=True)
    assert kept.switch is False
