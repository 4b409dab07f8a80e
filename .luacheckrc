-- Redis embeds Lua 5.1 and adds a handful of globals.
std = "lua51"
read_globals = { "redis", "KEYS", "ARGV", "cjson", "cmsgpack", "bit", "struct" }
max_line_length = 120
ignore = {
  "211/.*_key$",  -- a key is declared for its slot even where a library is who uses it
  "241",          -- a library that another one includes may go unused by the script itself
}
