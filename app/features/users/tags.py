"""Cache tags of users."""


def user(user_id: int) -> str:
    """Tag answers that show the name, the avatar or the account of a user."""
    return f"user:{user_id}"


def account(user_id: int) -> str:
    """Tag answers that show a row which is deleted together with the account of a user."""
    return f"account:{user_id}"
