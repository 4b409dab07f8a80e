#!lua flags=allow-oom
--[[
drop_quota: forget a quota that differs from the ledger, which has all of its log; it hydrates.

Only if it still is as it was seen when it was compared: whatever was written to it since is in its
version. The last version issued becomes the ledger's, so nothing older can be loaded.

KEYS
  1 versions  hash  @epoch, compared; the last version issued, compared and set
  2 due       zset  loses the quota
  3 quota     hash  compared, deleted
  4 holds     hash  deleted
  5 changes   zset  deleted
  6 ops0      hash  deleted; the horizon's operations come back from the ledger
  7 ops1      hash  deleted

ARGV
  1 epoch       the epoch the caller knows
  2 quota_name  <account>|<quota type>
  3 version     the ledger's newest version
  4 issued      the last version issued, as it was seen; empty: none
  5 state       version, chain, remaining, covered, held and debt as seen; empty: unreadable

RETURNS
  DROPPED
  CHANGED  it is not as it was seen; nothing was done

ERRORS                          (in the order they are checked)
  FENCED  another epoch: ask the gate
]]
local versions_key, due_key, quota_key, holds_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7]
local epoch, quota_name, version, issued, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local fence = redis.call("HMGET", versions_key, "@epoch", quota_name)
if fence[1] ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (fence[1] or "absent"))
end
local stored = redis.pcall("HMGET", quota_key, "version", "chain", "remaining", "covered", "held", "debt")
if stored.err and state ~= "" then
  return { "CHANGED" }
end
local words = {}
for place = 1, 6 do
  words[place] = stored[place] or ""
end
if (fence[2] or "") ~= issued or (state ~= "" and table.concat(words, " ") ~= state) then
  return { "CHANGED" }
end
redis.call("ZCARD", due_key) -- a key of another type fails here

-- Point of no return: one quota, and what it had issued.
redis.call("DEL", quota_key, holds_key, changes_key, ops0_key, ops1_key)
redis.call("ZREM", due_key, quota_name)
if issued ~= "" then
  redis.call("HSET", versions_key, quota_name, version)
end
return { "DROPPED" }
