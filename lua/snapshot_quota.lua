#!lua flags=no-writes
--[[
snapshot_quota: show all that is kept of one quota, as it is, with the end of its outbox.

Nothing is judged or brought up to now: the reconciler compares exactly what is stored.

KEYS
  1 versions  hash    @epoch, compared; the last version issued
  2 outbox    stream  its last id
  3 quota     hash    every field
  4 holds     hash    every hold
  5 changes   zset    what will begin or end

ARGV
  1 epoch       the epoch the caller knows
  2 quota_name  <account>|<quota type>

RETURNS
  SNAPSHOT    issued last_id [field value]... [hold_id record]... [member at]..., each list a list
  UNREADABLE  issued last_id, and which key is no quota's

ERRORS                          (in the order they are checked)
  FENCED  another epoch, or the outbox is gone: ask the gate
]]
local versions_key, outbox_key, quota_key, holds_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local changes_key = KEYS[5]
local epoch, quota_name = ARGV[1], ARGV[2]

local fence = redis.call("HMGET", versions_key, "@epoch", quota_name)
if fence[1] ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (fence[1] or "absent"))
end
local about = redis.pcall("XINFO", "STREAM", outbox_key)
if about.err then
  return redis.error_reply("FENCED the outbox is gone")
end
local last_id
for place = 1, #about, 2 do
  if about[place] == "last-generated-id" then
    last_id = about[place + 1]
  end
end
local issued = fence[2] or ""
local fields = redis.pcall("HGETALL", quota_key)
local hold_records = redis.pcall("HGETALL", holds_key)
local planned = redis.pcall("ZRANGE", changes_key, 0, -1, "WITHSCORES")
if fields.err or hold_records.err or planned.err then
  local which = fields.err and "quota" or hold_records.err and "holds" or "changes"
  return { "UNREADABLE", issued, last_id, which }
end
return { "SNAPSHOT", issued, last_id, fields, hold_records, planned }
