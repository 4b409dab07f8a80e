#!lua flags=allow-oom
--[[
trim_outbox: drop the oldest events, which the ledger has kept for long enough.

The epoch must be the one in which they were persisted: a trim that was paused must not reach into
another history. The caller cuts in slices, so that one call stays short.

KEYS
  1 versions  hash    @epoch, compared; @persisted, made less
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

local persisted = tonumber(redis.call("HGET", versions_key, "@persisted") or 0)

-- Point of no return: what goes was persisted, and is not kept any more.
local trimmed = redis.call("XTRIM", outbox_key, "MINID", "=", min_id)
if trimmed > 0 then
  redis.call("HSET", versions_key, "@persisted", string.format("%d", math.max(persisted - trimmed, 0)))
end
return { "TRIMMED", string.format("%d", trimmed) }
