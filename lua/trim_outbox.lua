#!lua flags=allow-oom
--[[
trim_outbox: drop the oldest events, which the ledger has kept for long enough.

The epoch must be the one in which they were persisted: a trim that was paused must not reach into
another history. The caller cuts in slices, so that one call stays short.

KEYS
  1 versions  hash    @epoch, compared
  2 outbox    stream  loses its oldest events

ARGV
  1 epoch   the epoch the caller persisted
  2 min_id  <epoch>-<n>: the first event that stays

RETURNS
  TRIMMED  how many events went

ERRORS                          (in the order they are checked)
  FENCED  another epoch: ask the gate
]]
local versions_key, outbox_key = KEYS[1], KEYS[2]
local epoch, min_id = ARGV[1], ARGV[2]

local known = redis.call("HGET", versions_key, "@epoch")
if known ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (known or "absent"))
end

-- Point of no return: one command.
local trimmed = redis.call("XTRIM", outbox_key, "MINID", "=", min_id)
return { "TRIMMED", string.format("%d", trimmed) }
