"""How it travels: one file a service. Decoding may refuse, encoding cannot fail."""
