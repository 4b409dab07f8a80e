#!lua
--[[
set_limit: change one limit of a quota: set, raise for a while, renew its periods, or remove it.

What the limit has let through goes on to count, but where it is new or has another time zone: then it
counts from now on. Who changes one limit leaves the others as they are; the entry tells all of them.

KEYS
  1 versions  hash    @epoch and the last version issued, compared; gains this version
  2 outbox    stream  gains one event per entry
  3 due       zset    quotas by next_change_at
  4 quota     hash    the quota: sums, limits, grants
  5 holds     hash    its open holds
  6 changes   zset    what will begin or end
  7 ops0      hash    remembered operations, even periods
  8 ops1      hash    remembered operations, odd periods

ARGV
   1 epoch         the epoch the caller knows
   2 quota_name    <account>|<quota type>
   3 now_ms        milliseconds, or "" for the server clock
   4 horizon_ms    milliseconds an operation is remembered
   5 due_max       changes that may be applied on the way
   6 operation_id  unique per quota
   7 fingerprint   hash of the operation's arguments
   8 action        set, raise, renew or remove
   9 limit         its nine words (lib/windows); of an action other than set only those count that it changes
  10 limits_max    limits that a quota may have
  11 details       JSON of the caller, kept with the entry
  12 outbox_max    entries that may wait to be persisted

RETURNS
  SET       fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this operation id came before with other arguments
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  BACKPRESSURE          outbox_max entries wait to be persisted: retry when the drain has caught up
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  LIMIT_NOT_FOUND       the quota has no such limit
  TOO_MANY_LIMITS       the quota has limits_max limits
  PERIODS_OVER          the marks are of no period now: name those of now
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/limits"
--- @include "lib/operations"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local operation_id, fingerprint, action, limit = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local limits_max, details, outbox_max = tonumber(ARGV[10]), ARGV[11], tonumber(ARGV[12])

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
local remembered = operations.recall(state, operation_id)
if remembered then
  return operations.replay(state, operation_id, fingerprint, remembered)
end
if state.frozen ~= "" then
  return redis.error_reply("QUOTA_FROZEN " .. state.frozen)
end
refused = quotas.pressed(state, outbox_max) or quotas.bring_up(state, due_max)
if refused then
  return refused
end

local counts = limits.library()
local known, wanted = counts.read(state), counts.parse(limit)
local listed, place = known.limits, nil
for number, each in ipairs(listed) do
  if each.field == wanted.field then
    place = number
  end
end
local before = listed[place]
if action ~= "set" and (not before or action == "renew" and before.zone ~= wanted.zone) then
  return redis.error_reply("LIMIT_NOT_FOUND " .. string.sub(wanted.field, 3))
elseif not before and #listed >= limits_max then
  return redis.error_reply("TOO_MANY_LIMITS the quota has " .. amounts.text(#listed))
end

-- The marks of a limit that goes on: what counted after the last one it knew counts in the period of now.
local function marks_after()
  local last = string.match(before.marks, "(%d+)$")
  if not wanted.is_marked or before.place < last + 0 then
    return wanted.marks
  end
  local _, ends = counts.place_of(wanted, known.now)
  return last .. string.match(wanted.marks, ":" .. amounts.text(ends) .. ".*$")
end

if wanted.is_marked and (action == "set" or action == "renew") then
  local begins, ends = counts.place_of(wanted, known.now)
  if not (begins and ends) then
    return redis.error_reply("PERIODS_OVER " .. amounts.text(known.now) .. " " .. limit .. " " .. state.name)
  end
end
if action == "remove" then
  counts.drop(state, before)
  table.remove(listed, place)
elseif action == "raise" then
  before.raised_to, before.raised_until = wanted.raised_to, wanted.raised_until
elseif before and before.zone == wanted.zone then
  before.marks = marks_after()
  if action == "set" then
    before.amount, before.raised_to, before.raised_until = wanted.amount, 0, 0
  end
else
  if before then
    counts.drop(state, before)
  end
  wanted.since = known.now
  known.at, known.is_later = known.now + 1, true
  listed[place or #listed + 1] = wanted
end
local words = {}
for number, each in ipairs(listed) do
  words[number] = counts.text(each)
end
state.limits = table.concat(words, ";")
local answer = entries.add(state, "limit.set", {
  at = state.now, operation_id = operation_id, fingerprint = fingerprint,
  amount = 0, terms = state.limits, details = details,
})
operations.remember(state, operation_id, answer)

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit(state) or quotas.answer("SET", answer)
