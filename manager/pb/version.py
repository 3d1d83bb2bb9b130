"""Generated from proto/ by `make proto`; never edited."""

PROTO_VERSION = "7c153cd092643bb1eaa9541f64371c4bf5e928960a9c51e14b69dbe78f1c21ff"
ACCEPTED = frozenset({"7c153cd092643bb1eaa9541f64371c4bf5e928960a9c51e14b69dbe78f1c21ff"})
