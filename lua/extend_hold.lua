#!lua
--[[
extend_hold: let a hold grow, or live longer.

`amount` is the new total, admitted like a new hold for what it grows by; `ttl_ms` counts from now.
Growth is an entry; a renewal that only moves the expiry is none, and needs no operation id.

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
   6 hold_id       the hold
   7 operation_id  unique per quota
   8 fingerprint   hash of the operation's arguments
   9 amount        units, the new total; 0 to keep it
  10 ttl_ms        milliseconds from now; 0 to keep the expiry
  11 outbox_max    entries that may wait to be persisted

RETURNS
  EXTENDED  amount expires_at
  DENIED    the total that could have been admitted, in units

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this operation id came before with other arguments
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  HOLD_CLOSED           captured, released or expired within the horizon
  HOLD_NOT_FOUND        not open and not remembered: ask the ledger
  HOLD_SHRINKS          the new total is below what is held
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  BACKPRESSURE          outbox_max entries wait to be persisted: retry when the drain has caught up
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/holds"
--- @include "lib/operations"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local hold_id, operation_id, fingerprint, amount = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local ttl_ms, outbox_max = tonumber(ARGV[10]), tonumber(ARGV[11])

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
local remembered = operations.recall(state, operation_id)
local replayed = remembered and operations.replay(state, operation_id, fingerprint, remembered)
if replayed and replayed.err then
  return replayed
end
refused = quotas.bring_up(state, due_max)
if refused then
  return refused
end
local hold = holds.get(state, hold_id)
if not hold then
  if operations.happened(state, hold_id) or operations.happened(state, hold_id .. ":expire") then
    return redis.error_reply("HOLD_CLOSED " .. hold_id)
  end
  return redis.error_reply("HOLD_NOT_FOUND " .. hold_id)
end
local growth = (replayed or amount == 0) and 0 or amount - hold.amount
if growth < 0 then
  return redis.error_reply("HOLD_SHRINKS " .. hold_id .. " holds " .. amounts.text(hold.amount))
elseif growth > 0 and state.frozen ~= "" then
  return redis.error_reply("QUOTA_FROZEN " .. state.frozen)
end
refused = growth > 0 and quotas.pressed(state, outbox_max)
if refused then
  return refused
end
local spendable = quotas.spendable(state)
if growth > 0 and growth > spendable then
  return { "DENIED", amounts.text(hold.amount + math.max(spendable, 0)) }
end
if redis.call("EXISTS", outbox_key) == 0 then
  return redis.error_reply("FENCED the outbox is gone")
end

if ttl_ms > 0 then
  hold.expires_at = state.now + ttl_ms
  quotas.expect(state, "a:" .. hold_id, hold.expires_at)
end
if growth > 0 then
  local covered, allocations = grants.take(state, math.min(growth, state.remaining), true)
  for _, word in ipairs(allocations) do
    hold.allocations[#hold.allocations + 1] = word
  end
  hold.amount, hold.covered = hold.amount + growth, hold.covered + covered
  state.held = state.held + growth
  operations.remember(state, operation_id, entries.add(state, "hold.extended", {
    at = state.now, operation_id = operation_id, fingerprint = fingerprint,
    amount = hold.amount, subject = hold_id, terms = amounts.text(hold.expires_at),
  }))
end
holds.keep(state, hold)

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit(state) or { "EXTENDED", amounts.text(hold.amount), amounts.text(hold.expires_at) }
