#!lua flags=allow-oom
--[[
unload_quota: forget an idle quota that the ledger knows whole; it hydrates when it is needed.

KEYS
  1 versions  hash  @epoch and the last version issued, compared
  2 due       zset  loses the quota
  3 quota     hash  deleted
  4 holds     hash  must be absent: no hold is open
  5 changes   zset  deleted
  6 ops0      hash  deleted; the horizon's operations come back from the ledger
  7 ops1      hash  deleted

ARGV
  1 epoch         the epoch the caller knows
  2 quota_name    <account>|<quota type>
  3 version       the ledger's newest version
  4 change_after  milliseconds: a quota that changes before this instant stays

RETURNS
  UNLOADED
  KEPT      why

ERRORS                          (in the order they are checked)
  FENCED  another epoch: ask the gate
]]
local versions_key, due_key, quota_key, holds_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7]
local epoch, quota_name, version, change_after = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local fence = redis.call("HMGET", versions_key, "@epoch", quota_name)
if fence[1] ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (fence[1] or "absent"))
end
local stored = redis.call("HMGET", quota_key, "version", "next_change_at", "frozen")
if not stored[1] then
  return { "KEPT", "absent" }
elseif stored[1] ~= version or (fence[2] and fence[2] ~= version) then
  return { "KEPT", "not drained" }
elseif stored[3] ~= "" then
  return { "KEPT", "frozen" }
elseif redis.call("EXISTS", holds_key) == 1 then
  return { "KEPT", "held" }
elseif tonumber(stored[2]) <= change_after then
  return { "KEPT", "changes soon" }
end
redis.call("ZCARD", due_key) -- a key of another type fails here

-- Point of no return: one command, one quota.
redis.call("DEL", quota_key, changes_key, ops0_key, ops1_key)
redis.call("ZREM", due_key, quota_name)
return { "UNLOADED" }
