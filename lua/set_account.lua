#!lua flags=allow-oom
--[[
set_account: tell the scripts what is said of an account, unless they know something newer.

A record stays for the epoch, also one that says nothing any more: its revision keeps older ones out.
Allowed when memory is full, for it may be what stops the calls that fill it.

KEYS
  1 versions  hash    @epoch, compared; gains the record, and @accounts
  2 outbox    stream  must exist

ARGV
  1 epoch     the epoch the caller knows
  2 name      <account>|
  3 revision  counts up with each change of the account
  4 record    lines of lib/policies; empty: forget the account
  5 restricts 1: some call may be decided otherwise than without the record
  6 seen      a record that is replaced whatever its revision; empty: none

RETURNS
  SET
  KEPT  the record that is there, whose revision is not older

ERRORS                          (in the order they are checked)
  FENCED  another epoch, or the outbox is gone: ask the gate
]]
local versions_key, outbox_key = KEYS[1], KEYS[2]
local epoch, name, revision, record = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local restricts, seen = ARGV[5], ARGV[6]

local fence = redis.call("HMGET", versions_key, "@epoch", name)
if fence[1] ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (fence[1] or "absent"))
elseif redis.call("EXISTS", outbox_key) == 0 then
  return redis.error_reply("FENCED the outbox is gone")
end
local known = fence[2] and fence[2] ~= seen and tonumber(string.match(fence[2], "^%d+"))
if known and known >= revision then
  return { "KEPT", fence[2] }
end

-- Point of no return: one record, and the mark that there are some.
if record == "" then
  redis.call("HDEL", versions_key, name)
else
  redis.call("HSET", versions_key, name, record)
end
if restricts == "1" then
  redis.call("HSET", versions_key, "@accounts", "1")
end
return { "SET" }
