"""What things are: frozen, typed values and pure decisions. Imports nothing but the standard library."""
