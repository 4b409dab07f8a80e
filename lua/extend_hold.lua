#!lua
--[[
extend_hold: let a hold grow, or live longer.

`amount` is the new total, admitted like a new hold for what it grows by; `ttl_ms` counts from now. In
limits all of a hold that grows counts from now on, for its growth is let through now. Growth is an
entry; a renewal that only moves the expiry is none, and needs no operation id.

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
   9 amount        units, the new total; 0 to keep it
  10 ttl_ms        milliseconds from now; 0 to keep the expiry
  11 outbox_max    entries that may wait to be persisted
  12 others        further quotas that the call acts on (lib/shares); empty: none
  13 unenforced    quota types that refuse nothing unless an account says so, a space before and after each

RETURNS
  EXTENDED  amount expires_at, then the shadow's quotas that would refuse, and why
  DENIED    of each quota that gates its name, the total asked of it, and that which it could have admitted
  EXCEEDED  quota of per window zone cap required left wait_ms, of a limit (lib/windows); then of each quota the same
  BARRED    account state since reason: of an account on its path that is suspended or closed

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this operation id came before with other arguments
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  HOLD_CLOSED           captured, released or expired within the horizon, and this is no repeat
  HOLD_NOT_FOUND        not open and not remembered: ask the ledger
  PAYERS_WANTED         these accounts may have to pay for it: retry with their quotas
  HOLD_SHRINKS          the new total is below what is held
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  BACKPRESSURE          outbox_max entries wait to be persisted: retry when the drain has caught up
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
local hold_id, operation_id, fingerprint, amount = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local ttl_ms, outbox_max, others, unenforced = tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[12], ARGV[13]

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
state.asked = amount
local states, replayed, opened = quotas.gather(state, operation_id, "", fingerprint, others, more_keys)
if not opened and not states or replayed and replayed.err then
  return replayed
end
states = states or opened
refused = quotas.bring_up_all(states, due_max)
if refused then
  return refused
end
if not holds.get(state, hold_id) then
  if replayed then -- it happened, and the hold has closed since: the first answer again
    return { "EXTENDED", replayed[4], replayed[10] }
  elseif operations.happened(state, hold_id) or operations.happened(state, hold_id .. ":expire") then
    return redis.error_reply("HOLD_CLOSED " .. hold_id)
  end
  return redis.error_reply("HOLD_NOT_FOUND " .. hold_id)
end

refused = payers.follow(states, hold_id, due_max)
if refused then
  return refused
end

local grows = false
for _, each in ipairs(states) do
  each.hold = holds.get(each, hold_id .. each.suffix)
  each.kept = each.hold and each.hold.amount or 0
  local growth = (replayed or amount == 0 or not each.hold) and 0 or each.asked - each.kept
  if growth < 0 then
    return redis.error_reply("HOLD_SHRINKS " .. hold_id .. " holds " .. amounts.text(each.kept))
  end
  each.asked, grows = growth, grows or growth > 0
  each.is_counted = each.hold and each.hold.is_counted
end

-- Take what a hold counts out of its limits, that it may be asked for anew, grown. Nothing is written.
local function exceeded()
  for _, each in ipairs(states) do
    local counts = each.asked > 0 and limits.of(each)
    if counts then
      counts.correct(each, each.hold.counts_at, -each.kept)
    end
  end
  return limits.exceeded(states, 0, 0, quotas.spendable)
end

if grows then
  accounts.mark(states, unenforced)
end
refused = grows and (accounts.barred(states) or quotas.frozen(states) or quotas.pressed(state, outbox_max)
  or quotas.denied(states) or exceeded())
if refused then
  return refused
elseif redis.call("EXISTS", outbox_key) == 0 then
  return redis.error_reply("FENCED the outbox is gone")
end

local function grow(each, hold)
  local covered, allocations = grants.take(each, each.is_counted and 0 or math.min(each.asked, each.remaining), true)
  for _, word in ipairs(allocations) do
    hold.allocations[#hold.allocations + 1] = word
  end
  hold.amount, hold.covered = hold.amount + each.asked, hold.covered + covered
  each.held = each.held + (each.is_counted and 0 or each.asked)
  local counts = limits.of(each)
  if counts then
    hold.counts_at = counts.add(each, hold.amount, 0)
  end
  operations.remember(each, each.id, entries.add(each, "hold.extended", {
    at = state.now, operation_id = each.id, fingerprint = fingerprint,
    amount = hold.amount, subject = hold.id, flags = accounts.flags(each),
    terms = amounts.text(hold.expires_at), details = each.details,
  }))
end

for _, each in ipairs(states) do
  local hold = each.hold
  if hold then
    if ttl_ms > 0 then
      hold.expires_at = state.now + ttl_ms
      quotas.expect(each, "a:" .. hold.id, hold.expires_at)
    end
    if each.asked > 0 then
      grow(each, hold)
    end
    holds.keep(each, hold)
  end
end

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit_all(states)
  or accounts.tell(states, { "EXTENDED", amounts.text(state.hold.amount), amounts.text(state.hold.expires_at) })
