"""What the cache knows of users."""


def user(user_id: int) -> str:
    """Name a user, wherever their name, avatar or account is shown."""
    return f"user:{user_id}"
