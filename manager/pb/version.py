"""Generated from proto/ by `make proto`; never edited."""

PROTO_VERSION = "f2effb5a1ec0ab1f245f983e0e4e2444178ca1730f5f7f0005168088706bde64"
ACCEPTED = frozenset({"f2effb5a1ec0ab1f245f983e0e4e2444178ca1730f5f7f0005168088706bde64"})
