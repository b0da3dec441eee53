"""The address of the mailbox."""

from dev.demo_blog import Demo

DEMO = Demo(pages={"Mailbox": "/mailbox"})
