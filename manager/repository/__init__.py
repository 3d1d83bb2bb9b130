"""What happens: the tables, and the operations on them. Each function's SQL stands directly above it."""
