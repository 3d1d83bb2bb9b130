"""Generated from proto/ by `make proto`; never edited."""

PROTO_VERSION = "959c65148c9a04399915e9310b1ef0c87a3efd2256dfc20c6d4e5188cc003c43"
ACCEPTED = frozenset({"959c65148c9a04399915e9310b1ef0c87a3efd2256dfc20c6d4e5188cc003c43"})
