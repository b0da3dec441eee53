"""Every router of the service: one line for each feature."""

from fastapi import FastAPI

from app.features.account_mails import routes as account_mails
from app.features.accounts import routes as accounts
from app.features.archives import routes as archives
from app.features.auth import routes as auth
from app.features.avatars import routes as avatars
from app.features.board import routes as board
from app.features.comments import routes as comments
from app.features.dashboard import routes as dashboard
from app.features.drafts import routes as drafts
from app.features.mailbox import routes as mailbox
from app.features.posts import routes as posts
from app.features.users import routes as users
from app.infra import health
from app.infra.web import metrics_endpoint


def include_routers(app: FastAPI) -> None:
    """Include the router of each feature. A router's `lifespan` runs with that of the app."""
    app.include_router(posts.router)
    app.include_router(comments.router)
    app.include_router(drafts.router)
    app.include_router(dashboard.router)
    app.include_router(users.router)
    app.include_router(avatars.router)
    app.include_router(archives.router)
    app.include_router(auth.router)
    app.include_router(account_mails.router)
    app.include_router(accounts.router)
    app.include_router(health.router)
    app.include_router(metrics_endpoint.router)
    app.include_router(board.router)
    app.include_router(mailbox.router)
