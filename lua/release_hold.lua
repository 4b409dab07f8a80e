#!lua flags=allow-oom
--[[
release_hold: give held quota back, unused.

Covered parts flow back to their grants, last taken first; what belongs to a grant that has ended ends
with it. Releasing a hold that is closed already changes nothing.

KEYS
  1 versions  hash    @epoch and the last version issued, compared; gains this version
  2 outbox    stream  gains one event per entry
  3 due       zset    quotas by next_change_at
  4 quota     hash    the quota: sums, limits, grants
  5 holds     hash    its open holds
  6 changes   zset    what will begin or end
  7 ops0      hash    remembered operations, even periods
  8 ops1      hash    remembered operations, odd periods
  9+ more     the keys 4 to 8 of each further quota

ARGV
  1 epoch        the epoch the caller knows
  2 quota_name   <account>|<quota type>
  3 now_ms       milliseconds, or "" for the server clock
  4 horizon_ms   milliseconds an operation is remembered
  5 due_max      changes that may be applied on the way
  6 hold_id      the hold
  7 fingerprint  hash of the operation's arguments
  8 details      JSON of the caller, kept with the entry
  9 others       further quotas that the call acts on (lib/shares); empty: none

RETURNS
  RELEASED  fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements
  CLOSED    the hold was captured or had expired before: nothing changed

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this operation id came before with other arguments
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  HOLD_NOT_FOUND        not open and not remembered: ask the ledger
  PAYERS_WANTED         these accounts may have to pay for it: retry with their quotas
]]
--- @include "lib/entries"
--- @include "lib/holds"
--- @include "lib/settlement"
--- @include "lib/operations"
--- @include "lib/payers"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local more_keys = { unpack(KEYS, 9) }
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local hold_id, fingerprint, details, others = ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
state.details = details
local states
states, refused = quotas.gather(state, hold_id, ":release", fingerprint, others, more_keys)
if not states then
  return refused
end
refused = quotas.bring_up_all(states, due_max)
if refused then
  return refused
end
if not holds.get(state, hold_id) then
  if operations.happened(state, hold_id) or operations.happened(state, hold_id .. ":capture")
      or operations.happened(state, hold_id .. ":expire") then
    return { "CLOSED" }
  end
  return redis.error_reply("HOLD_NOT_FOUND " .. hold_id)
end

refused = payers.follow(states, hold_id, due_max)
if refused then
  return refused
end

for _, each in ipairs(states) do
  local hold = holds.get(each, hold_id .. each.suffix)
  if hold then
    local amount = hold.amount
    settlement.lose_ended(each, hold, 0, state.now)
    settlement.close(each, hold, 0)
    each.answer = entries.add(each, "hold.released", {
      at = state.now, operation_id = each.id, fingerprint = fingerprint,
      amount = amount, subject = hold.id, flags = hold.is_counted and "counted" or "", details = each.details,
    })
    operations.remember(each, each.id, each.answer)
  end
end

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit_all(states) or quotas.answer_all("RELEASED", states)
