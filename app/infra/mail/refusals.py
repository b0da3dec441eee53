"""Tells whether a mail server refuses the recipient for good, or this service."""

import re

PERMANENT = 500  # replies from here on mean that the same mail would be refused again (RFC 5321)
# The replies to RCPT that are about a mailbox (RFC 5321, 4.3.2, and RFC 7504).
MAILBOX = {550, 551, 552, 553, 554, 556}
# RFC 3463: the class, the subject and the detail of a reply. Some servers write it after a #.
ENHANCED = re.compile(r"(?:^|[\s(#])5\.(\d{1,3})\.(\d{1,3})(?![.\d])")
ADDRESS, MAILBOX_STATUS = 1, 2
OF_SENDER = {7, 8}  # details of the subject ADDRESS
NON_ASCII_REFUSED = (6, 7)  # RFC 6531: for this recipient
ABOUT_US = re.compile(r"relay|rcpthosts|authenti|log ?in|denied|sender", re.IGNORECASE)


def is_recipient_refused(code: int, text: str, recipient: str, *, to_rcpt: bool) -> bool:
    """Return whether a reply means that this recipient gets no mail from anybody.

    Otherwise the setting is wrong, such as the sender or the login, or the mail itself. A server
    that gives no code of RFC 3463 is believed in its answer to RCPT alone, `to_rcpt`.
    """
    if code < PERMANENT:
        return False
    text = text.replace(recipient, "")  # anybody may have chosen it
    if match := ENHANCED.search(text):
        subject, detail = int(match[1]), int(match[2])
        is_address = subject == ADDRESS and detail not in OF_SENDER
        return is_address or subject == MAILBOX_STATUS or (subject, detail) == NON_ASCII_REFUSED
    return to_rcpt and code in MAILBOX and ABOUT_US.search(text) is None
