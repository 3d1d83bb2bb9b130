"""What the launcher says when it cannot do its work."""


class EmbeddedPostgresError(Exception):
    """PostgreSQL cannot be run here; the message says what is wrong and what to do about it."""
