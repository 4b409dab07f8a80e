#!lua flags=allow-oom
--[[
note_persisted: tell the shard how far its outbox is persisted.

What is persisted is kept for a while and does not press: scripts that ask for backpressure leave it
out. The cursor only rises within an epoch, so a ledger that lost commits is seen to be behind it.

KEYS
  1 versions  hash    @epoch, compared; gains @persisted, an entry count, and @cursor, an id
  2 outbox    stream  counted

ARGV
  1 epoch   the epoch the caller persisted
  2 cursor  <epoch>-<n>: the event persisted last

RETURNS
  NOTED  how many persisted events the outbox keeps

ERRORS                          (in the order they are checked)
  FENCED  another epoch: ask the gate
]]
local versions_key, outbox_key = KEYS[1], KEYS[2]
local epoch, cursor = ARGV[1], ARGV[2]

local known = redis.call("HMGET", versions_key, "@epoch", "@cursor")
if known[1] ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (known[1] or "absent"))
end
if redis.call("EXISTS", outbox_key) == 0 then
  return redis.error_reply("FENCED the outbox is gone")
end
local about, last = redis.call("XINFO", "STREAM", outbox_key), nil
for place = 1, #about, 2 do
  if about[place] == "last-generated-id" then
    last = about[place + 1]
  end
end

-- "7-12" in epoch "7" is 12; nil in another.
local function number_of(id)
  local of_epoch, n = string.match(id, "^(%d+)%-(%d+)$")
  return of_epoch == epoch and tonumber(n) or nil
end

local length, n, ends_at = redis.call("XLEN", outbox_key), number_of(cursor), number_of(last)
local persisted = n and ends_at and math.max(length - math.max(ends_at - n, 0), 0) or 0
local before = number_of(known[2] or "")

-- Point of no return: two fields.
redis.call("HSET", versions_key, "@persisted", string.format("%d", persisted))
if n and (not before or before < n) then
  redis.call("HSET", versions_key, "@cursor", cursor)
end
return { "NOTED", string.format("%d", persisted) }
