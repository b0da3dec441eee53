"""Fixtures for the tests of `account_mails`."""

import pytest

from app.infra.mail.folder import list_mails
from app.infra.mail.settings import MailSettings
from app.infra.resources import ProcessResources
from tests.features.account_mails.inbox import Inbox
from tests.features.users.factory import UserFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> UserFactory:
    return UserFactory(resources)


@pytest.fixture
def inbox(resources: ProcessResources, clean: None) -> Inbox:
    """All mails that are sent in this test."""
    folder = resources.settings[MailSettings].folder
    assert folder is not None
    return Inbox(resources, folder, frozenset(list_mails(folder)))
