#!lua
--[[
transfer_quota: move units between two accounts of one shard, all or nothing.

What transfer_out and transfer_in do, as one step: nobody ever sees the units in neither quota, or in
both. The entry of the quota they leave comes first in the outbox, so whatever is lost later, an arrival
never stands there alone.

KEYS
   1 versions    hash    @epoch and the last versions issued, compared; gains these versions
   2 outbox      stream  gains one event per entry
   3 due         zset    quotas by next_change_at
   4 quota       hash    the quota they leave: sums, limits, grants
   5 holds       hash    its open holds
   6 changes     zset    what will begin or end there
   7 ops0        hash    its remembered operations, even periods
   8 ops1        hash    its remembered operations, odd periods
   9 to_quota    hash    the quota in which they arrive
  10 to_holds    hash    its open holds
  11 to_changes  zset    what will begin or end there
  12 to_ops0     hash    its remembered operations, even periods
  13 to_ops1     hash    its remembered operations, odd periods

ARGV
   1 epoch         the epoch the caller knows
   2 quota_name    <account>|<quota type> that they leave
   3 now_ms        milliseconds, or "" for the server clock
   4 horizon_ms    milliseconds an operation is remembered
   5 due_max       changes that may be applied on the way, in each quota
   6 transfer_id   unique per quota that units leave
   7 fingerprint   hash of the operation's arguments
   8 amount        units
   9 parts_max     grants as which they may arrive
  10 details       JSON kept with the entry of what leaves
  11 outbox_max    entries that may wait to be persisted
  12 to_name       <account>|<quota type> in which they arrive
  13 arrival_id    unique per quota in which units arrive
  14 grants_max    grants that one quota may have
  15 arrival       fingerprint and JSON kept with the entry of what arrives, a space between them

RETURNS
  TRANSFERRED  fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED     fingerprint version amount shortfall balance held debt flags terms movements
  DENIED       what could have been transferred, in units
  BARRED       account state since reason: of an account on the path they would arrive at that is closed

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      one of them is not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this transfer was cancelled before it came
  IDEMPOTENCY_CONFLICT  this transfer id or arrival id came before, with other arguments
  QUOTA_FROZEN          the log of one of them is in doubt: no new holds, debits and grants
  BACKPRESSURE          outbox_max entries wait to be persisted: retry when the drain has caught up
  CATCH_UP              more than due_max changes are due in one: run catch_up, then retry
  TOO_MANY_PARTS        it would arrive as more than parts_max grants
  GRANT_EXISTS          a grant of an id that would be made is in the quota
  TOO_MANY_GRANTS       the quota would have more than grants_max grants
  AMOUNT_OVERFLOW       the quota would exceed 2^53 - 1 units
]]
--- @include "lib/accounts"
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/operations"
--- @include "lib/quotas"
--- @include "lib/transfers"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local to_quota_key, to_holds_key, to_changes_key = KEYS[9], KEYS[10], KEYS[11]
local to_ops0_key, to_ops1_key = KEYS[12], KEYS[13]
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local transfer_id, fingerprint, amount, parts_max = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local details, outbox_max, to_name, arrival_id = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]
local grants_max, arrival = tonumber(ARGV[14]), ARGV[15]

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local to_keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = to_quota_key,
  holds = to_holds_key, changes = to_changes_key, ops0 = to_ops0_key, ops1 = to_ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
local remembered = operations.recall(state, transfer_id)
if remembered then
  return operations.replay(state, transfer_id, fingerprint, remembered)
end
local to
to, refused = quotas.open_beside(state, to_keys, to_name)
if not to then
  return refused
elseif operations.recall(to, arrival_id) then
  return redis.error_reply("IDEMPOTENCY_CONFLICT " .. arrival_id)
end
to.has_policies = state.has_policies
refused = accounts.barred({ to }, true) or quotas.frozen({ state, to }) or quotas.pressed(state, outbox_max)
  or quotas.bring_up(state, due_max) or quotas.bring_up(to, due_max)
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
refused = transfers.refuse(to, arrival_id, amount, parts, grants_max)
if refused then
  return refused
end
local answer = entries.add(state, "quota.transferred_out", {
  at = state.now, operation_id = transfer_id, fingerprint = fingerprint, amount = amount,
  subject = transfer_id, terms = transfers.text(parts), details = details,
})
operations.remember(state, transfer_id, answer)
local arrival_print, arrival_details = string.match(arrival, "^(%S*) (.*)$")
transfers.arrive(to, arrival_id, parts, {
  fingerprint = arrival_print, amount = amount, subject = transfer_id, details = arrival_details,
})

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit_all({ state, to }) or quotas.answer("TRANSFERRED", answer)
