#!lua flags=allow-oom
--[[
hydrate_quota: load a quota from the ledger, unless Redis has it.

Refused unless the ledger's head is the last version that was issued: a stale read can never give
spent quota back, whoever deleted the key. Nothing is written for a quota that nobody knows, unless
the caller is about to make its first entry. Allowed when memory is full: a late capture may need it, and
what is new is refused before it comes here.

KEYS
  1 versions  hash  @epoch and the last version issued, compared
  2 due       zset  quotas by next_change_at
  3 quota     hash  written here if absent
  4 holds     hash  the open holds
  5 changes   zset  what will begin or end
  6 ops0      hash  remembered operations, even periods
  7 ops1      hash  remembered operations, odd periods

ARGV
   1 epoch           the epoch of the ledger in the instant it was read
   2 quota_name      <account>|<quota type>
   3 horizon_ms      milliseconds an operation is remembered
   4 version         the ledger's newest version; 0: it knows no such quota
   5 may_create      1: also when version is 0
   6 next_change_at  milliseconds, 2^53 - 1 for never
   7 fields          the hash's fields and values, newline after each word
   8 hold_records    hold id and record, newline after each
   9 change_records  score and member, newline after each
  10 answers         operation id, and its answer with \31 for newlines, newline after each

RETURNS
  LOADED
  PRESENT
  UNKNOWN     nobody knows the quota; nothing was written
  WAIT_DRAIN  last issued version: entries wait to be persisted

ERRORS                          (in the order they are checked)
  FENCED  another epoch: ask the gate, read the ledger again
]]
--- @include "lib/amounts"

local versions_key, due_key, quota_key, holds_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7]
local epoch, quota_name, horizon_ms, version = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local may_create, next_change_at, fields = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local hold_records, change_records, answers = ARGV[8], ARGV[9], ARGV[10]

local fence = redis.call("HMGET", versions_key, "@epoch", quota_name)
if fence[1] ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (fence[1] or "absent"))
end
local present = redis.call("HGET", quota_key, "version")
if present and present == (fence[2] or present) then
  return { "PRESENT" }
elseif fence[2] and fence[2] ~= version then
  return { "WAIT_DRAIN", fence[2] }
elseif version == "0" and may_create ~= "1" then
  return { "UNKNOWN" }
end

redis.call("ZCARD", due_key) -- a key of another type fails here

local function words(text)
  return string.gmatch(text, "([^\n]*)\n")
end

-- Point of no return: what an older life of the quota left is replaced.
redis.call("DEL", quota_key, holds_key, changes_key, ops0_key, ops1_key)
local next_word = words(fields)
for field in next_word do
  redis.call("HSET", quota_key, field, next_word())
end
next_word = words(hold_records)
for hold_id in next_word do
  redis.call("HSET", holds_key, hold_id, next_word())
end
next_word = words(change_records)
for score in next_word do
  redis.call("ZADD", changes_key, score, next_word())
end
if next_change_at < amounts.MAX then
  redis.call("ZADD", due_key, amounts.text(next_change_at), quota_name)
else
  redis.call("ZREM", due_key, quota_name)
end
local time = redis.call("TIME")
local period = math.floor((tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)) / horizon_ms)
local answers_key = period % 2 == 0 and ops0_key or ops1_key
next_word = words(answers)
for operation_id in next_word do
  redis.call("HSET", answers_key, operation_id, (string.gsub(next_word(), "\31", "\n")))
end
if answers ~= "" then
  redis.call("PEXPIREAT", answers_key, amounts.text((period + 2) * horizon_ms))
end
return { "LOADED" }
