"""The PostgreSQL launcher: a server of one's own for development, trials and tests."""

from manager.embedded.access import psql, published
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.postgres import Postgres, start

__all__ = ["EmbeddedPostgresError", "Postgres", "psql", "published", "start"]
