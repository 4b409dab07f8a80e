#!lua
--[[
transfer_out: let units leave for an account of another shard.

They are taken from grants in burn-down order: never what is held, never more than is spendable, and
never what only an overdraft limit admits. The entry tells the terms on which they are to arrive. It is
the promise that they will: once it is in the ledger, transfer_in keeps it.

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
   1 epoch        the epoch the caller knows
   2 quota_name   <account>|<quota type>
   3 now_ms       milliseconds, or "" for the server clock
   4 horizon_ms   milliseconds an operation is remembered
   5 due_max      changes that may be applied on the way
   6 transfer_id  unique per quota
   7 fingerprint  hash of the operation's arguments
   8 amount       units
   9 parts_max    grants as which they may arrive
  10 details      JSON of the caller, kept with the entry
  11 outbox_max   entries that may wait to be persisted

RETURNS
  SENT      fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements
  DENIED    what could have been transferred, in units

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this transfer was cancelled before it came
  IDEMPOTENCY_CONFLICT  this transfer id came before with other arguments
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  BACKPRESSURE          outbox_max entries wait to be persisted: retry when the drain has caught up
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  TOO_MANY_PARTS        it would arrive as more than parts_max grants
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/operations"
--- @include "lib/quotas"
--- @include "lib/transfers"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local transfer_id, fingerprint, amount, parts_max = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local details, outbox_max = ARGV[10], tonumber(ARGV[11])

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
local remembered = operations.recall(state, transfer_id)
if remembered then
  return operations.replay(state, transfer_id, fingerprint, remembered)
end
if state.frozen ~= "" then
  return redis.error_reply("QUOTA_FROZEN " .. state.frozen)
end
refused = quotas.pressed(state, outbox_max) or quotas.bring_up(state, due_max)
if refused then
  return refused
end
local most = transfers.transferable(state)
if amount > most then
  return { "DENIED", amounts.text(most) }
end

local parts = transfers.leave(state, amount)
if #parts > 3 * parts_max then
  return redis.error_reply("TOO_MANY_PARTS " .. amounts.text(#parts / 3) .. " " .. amounts.text(parts_max))
end
local answer = entries.add(state, "quota.transferred_out", {
  at = state.now, operation_id = transfer_id, fingerprint = fingerprint, amount = amount,
  subject = transfer_id, terms = transfers.text(parts), details = details,
})
operations.remember(state, transfer_id, answer)

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit(state) or quotas.answer("SENT", answer)
