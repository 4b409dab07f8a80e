#!lua flags=allow-oom
--[[
debit_used: take units for a call that has happened already.

By the capture rule: never denied, not even while the quota is frozen, memory is full or too much waits
to be persisted. Grants pay in burn-down order, then debt up to the overdraft limit; what can't be paid
is recorded as shortfall.

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
   1 epoch         the epoch the caller knows
   2 quota_name    <account>|<quota type>
   3 now_ms        milliseconds, or "" for the server clock
   4 horizon_ms    milliseconds an operation is remembered
   5 due_max       changes that may be applied on the way
   6 operation_id  unique per quota
   7 fingerprint   hash of the operation's arguments
   8 amount        units
   9 details       JSON of the caller, kept with the entry
  10 others        further quotas that the call acts on (lib/shares); empty: none
  11 paid_by       the account that pays, percent-encoded, or has paid where its quota is not sent; empty: who can

RETURNS
  DEBITED   fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this operation id came before with other arguments
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  PAYERS_WANTED         these accounts may have to pay for it: retry with their quotas
]]
--- @include "lib/entries"
--- @include "lib/limits"
--- @include "lib/operations"
--- @include "lib/payers"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local more_keys = { unpack(KEYS, 9) }
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local operation_id, fingerprint, amount = ARGV[6], ARGV[7], tonumber(ARGV[8])
local details, others, paid_by = ARGV[9], ARGV[10], ARGV[11]

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
state.asked, state.details = amount, details
local states
states, refused = quotas.gather(state, operation_id, "", fingerprint, others, more_keys)
if not states then
  return refused
end
refused = quotas.bring_up_all(states, due_max) or payers.obey(states, paid_by, due_max)
refused = refused or payers.find(states, due_max)
if refused then
  return refused
end

-- What the entry says beside its numbers.
local function flags_of(each)
  local payer = each.payer and " by:" .. each.payer or ""
  return each.is_counted and "used counted" .. payer or "used"
end

for _, each in ipairs(states) do
  each.is_counted = each.payer ~= nil or limits.alone(each)
  local shortfall, counts = quotas.charge(each, each.asked), limits.of(each)
  if counts then
    counts.add(each, each.asked, 1)
  end
  each.answer = entries.add(each, "quota.debited", {
    at = state.now, operation_id = each.id, fingerprint = fingerprint,
    amount = each.asked, shortfall = shortfall, flags = flags_of(each),
    details = each.details,
  })
  operations.remember(each, each.id, each.answer)
end

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit_all(states) or quotas.answer_all("DEBITED", states)
