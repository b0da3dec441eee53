"""Cache tags of users."""


def user(user_id: int) -> str:
    """Tag answers that show the name, the avatar or the account of a user."""
    return f"user:{user_id}"
