"""Generated from proto/ by `make proto`; never edited."""

PROTO_VERSION = "4e677e07c2bdc1dd53da2ad07c1f685ec33e57d71059dba2e9c36f9772a4f2e5"
ACCEPTED = frozenset({"4e677e07c2bdc1dd53da2ad07c1f685ec33e57d71059dba2e9c36f9772a4f2e5"})
