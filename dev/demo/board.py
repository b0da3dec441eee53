"""The address of the live board."""

from dev.demo_blog import Demo

DEMO = Demo(pages={"Live board": "/"})
