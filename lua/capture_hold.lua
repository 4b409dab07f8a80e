#!lua flags=allow-oom
--[[
capture_hold: turn a hold into a charge for what was really used.

Keeps what was used of the covered part in burn-down order and gives the rest back to the grants it
came from, last taken first; what belongs to a grant that has ended ends with it, as an entry of its
own. What the covered part can't pay comes from the then-live grants, then becomes debt up to the
overdraft limit; the rest is shortfall. Never denied, by no limit either: the call has been made. A hold
that is no longer open (released, expired) is charged late, once, under its own capture id. With
`is_final` = 0 a part is taken and the rest stays held.

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
   6 hold_id       the hold
   7 operation_id  unique per quota
   8 fingerprint   hash of the operation's arguments
   9 amount        units used; 0 charges nothing and closes the hold
  10 is_final      1: close the hold; 0: keep the rest held
  11 is_known      1: the ledger knows the hold, charge late
  12 details       JSON of the caller, kept with the entry
  13 others        further quotas that the call acts on (lib/shares); empty: none
  14 paid_by       the account that has paid already, percent-encoded; empty: who pays for the hold, or can

RETURNS
  CAPTURED  fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements

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
--- @include "lib/limits"
--- @include "lib/settlement"
--- @include "lib/operations"
--- @include "lib/payers"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local more_keys = { unpack(KEYS, 9) }
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local hold_id, operation_id, fingerprint, amount = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local is_final, is_known, details, others, paid_by = ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14]

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
state.asked, state.details = amount, details
local base, tail = operation_id, ""
if is_final == "1" then
  base, tail = hold_id, ":capture"
end
local states
states, refused = quotas.gather(state, base, tail, fingerprint, others, more_keys)
if not states then
  return refused
end
refused = quotas.bring_up_all(states, due_max)
if refused then
  return refused
end
if is_known ~= "1" and not holds.get(state, hold_id) and not operations.happened(state, hold_id)
    and not operations.happened(state, hold_id .. ":release")
    and not operations.happened(state, hold_id .. ":expire") then
  return redis.error_reply("HOLD_NOT_FOUND " .. hold_id)
end

refused = payers.obey(states, paid_by, due_max) or payers.follow(states, hold_id, due_max)
refused = refused or payers.find(states, due_max, nil, hold_id)
if refused then
  return refused
end

-- Use the hold of one quota. Returns what it did not cover. A hold that is only counted stays so, as long
-- as its quota does not gate.
local function use(each, hold)
  local closes, used = is_final == "1", each.asked
  if closes then
    settlement.lose_ended(each, hold, used, state.now)
  end
  local rest = used - settlement.consume(each, hold, used)
  if closes then
    settlement.close(each, hold, used)
  else
    local part = math.min(used, hold.amount)
    hold.amount, each.held = hold.amount - part, each.held - (hold.is_counted and 0 or part)
    settlement.correct(each, hold, used - part)
    holds.keep(each, hold)
  end
  return rest
end

-- What the entry of a capture says beside its numbers.
local function flags_of(each, hold)
  local flags = not hold and "late" or is_final ~= "1" and "part" or ""
  if not each.is_counted then
    return flags
  end
  local counted = each.payer and "counted by:" .. each.payer or "counted"
  return flags == "" and counted or flags .. " " .. counted
end

for _, each in ipairs(states) do
  local hold = holds.get(each, hold_id .. each.suffix)
  each.is_counted = each.payer ~= nil or limits.alone(each) and (not hold or hold.is_counted)
  local counts = not hold and limits.of(each)
  if counts then
    counts.add(each, each.asked, 0)
  end
  local rest = hold and use(each, hold) or each.asked
  local shortfall = quotas.charge(each, rest)
  each.answer = entries.add(each, "hold.captured", {
    at = state.now, operation_id = each.id, fingerprint = fingerprint,
    amount = each.asked, shortfall = shortfall, subject = hold_id .. each.suffix,
    flags = flags_of(each, hold), details = each.details,
  })
  operations.remember(each, each.id, each.answer)
end

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit_all(states) or quotas.answer_all("CAPTURED", states)
