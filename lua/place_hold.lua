#!lua
--[[
place_hold: set quota aside before the price of a call is known.

The balance does not move. `held` rises, so that no other call can spend the same units, until the
hold is captured, released or expires, exactly at its instant. Grants are burned at once and the hold
remembers which; what only the overdraft limit admits stays uncovered. The hold's id is the operation
id.

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
   6 hold_id      unique per quota
   7 fingerprint  hash of the operation's arguments
   8 amount       units
   9 ttl_ms       milliseconds from now
  10 details      JSON of the caller, kept with the entry
  11 outbox_max   entries that may wait to be persisted
  12 others       further quotas that the call acts on (lib/shares); empty: none
  13 is_dry       1: only say whether it would be admitted now
  14 unenforced   quota types that refuse nothing unless an account says so, a space before and after each

RETURNS
  PLACED    fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements
  ADMITTED  expires_at balance version: nothing changed; then quotas that would refuse, in the shadow, and why; or `by:` who pays
  DENIED    of each quota that gates its name, what is asked of it, and what it could have admitted, in units
  EXCEEDED  quota of per window zone cap required left wait_ms, of a limit (lib/windows); then of each quota the same
  BARRED    account state since reason: of an account on its path that is suspended or closed

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this id came before with other arguments, or its hold is still open
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  BACKPRESSURE          outbox_max entries wait to be persisted: retry when the drain has caught up
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  PAYERS_WANTED         these accounts may have to pay for it: retry with their quotas
  PERIODS_OVER          a limit knows of no period now: renew it, then retry
]]
--- @include "lib/accounts"
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/holds"
--- @include "lib/limits"
--- @include "lib/operations"
--- @include "lib/payers"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local more_keys = { unpack(KEYS, 9) }
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local hold_id, fingerprint, amount, ttl_ms = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local details, outbox_max, others, is_dry = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]
local unenforced = ARGV[14]

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
states, refused = quotas.gather(state, hold_id, "", fingerprint, others, more_keys)
if not states then
  return refused
end
for _, each in ipairs(states) do
  if holds.get(each, each.id) then
    return redis.error_reply("IDEMPOTENCY_CONFLICT " .. hold_id .. " is still open")
  end
end

-- What limits of some of these quotas refuse.
local function exceeded(some)
  return limits.exceeded(some, 1, 1, quotas.spendable)
end

accounts.mark(states, unenforced)
refused = accounts.barred(states) or quotas.frozen(states) or quotas.pressed(state, outbox_max)
  or quotas.bring_up_all(states, due_max) or payers.find(states, due_max, exceeded)
  or quotas.denied(states) or exceeded(states)
if refused then
  return refused
end

local expires_at = state.now + ttl_ms
if is_dry == "1" then
  local balance, version = amounts.text(entries.balance(state)), amounts.text(state.version)
  return payers.tell(states, accounts.tell(states, { "ADMITTED", amounts.text(expires_at), balance, version }))
end
for _, each in ipairs(states) do
  local covered, allocations = grants.take(each, each.is_counted and 0 or math.min(each.asked, each.remaining), true)
  local counts = limits.of(each)
  each.held = each.held + (each.is_counted and 0 or each.asked)
  holds.keep(each, {
    id = each.id, amount = each.asked, covered = covered, expires_at = expires_at, allocations = allocations,
    counts_at = counts and counts.add(each, each.asked, 1), is_counted = each.is_counted,
    payer = each.payer,
  })
  quotas.expect(each, "a:" .. each.id, expires_at)
  each.answer = entries.add(each, "hold.placed", {
    at = state.now, operation_id = each.id, fingerprint = fingerprint, amount = each.asked,
    subject = each.id, flags = accounts.flags(each), terms = amounts.text(expires_at), details = each.details,
  })
  operations.remember(each, each.id, each.answer)
end

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit_all(states) or quotas.answer_all("PLACED", states)
