#!lua flags=allow-oom
--[[
freeze_quota: mark a loaded quota as frozen, or as thawed. Hydration brings the mark by itself.

KEYS
  1 versions  hash  @epoch, compared
  2 quota     hash  its field `frozen`

ARGV
  1 epoch   the epoch the caller knows
  2 reason  why it is frozen; empty: it is not

RETURNS
  MARKED
  ABSENT  not loaded: nothing to mark

ERRORS                          (in the order they are checked)
  FENCED  another epoch: ask the gate
]]
local versions_key, quota_key = KEYS[1], KEYS[2]
local epoch, reason = ARGV[1], ARGV[2]

local known = redis.call("HGET", versions_key, "@epoch")
if known ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (known or "absent"))
end
if redis.call("EXISTS", quota_key) == 0 then
  return { "ABSENT" }
end

-- Point of no return: one field.
redis.call("HSET", quota_key, "frozen", reason)
return { "MARKED" }
