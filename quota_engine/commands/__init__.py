"""One frozen value per Lua script: its keys, its arguments, and what its reply means."""
