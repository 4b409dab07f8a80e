#!lua
--[[
transfer_in: let units arrive that have left another account, or come back to it.

Each part becomes a grant on the terms it had: with its priority and its end. Debt is paid first. A part
whose end came on its way ends here at once, as an entry. What has left must arrive: nothing that waits
to be persisted refuses it.

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
   6 arrival_id   unique per quota
   7 fingerprint  hash of the operation's arguments
   8 amount       units, all parts together
   9 terms        units priority expires_at of each part, separated by spaces
  10 grants_max   grants that one quota may have
  11 transfer_id  the transfer
  12 details      JSON kept with the entry
  13 is_back      1: they come back to where they were, which may be closed

RETURNS
  ARRIVED   fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements
  BARRED    account state since reason: of an account on its path that is closed

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this arrival was cancelled before it came
  IDEMPOTENCY_CONFLICT  this arrival id came before with other arguments
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  GRANT_EXISTS          a grant of an id that would be made is in the quota
  TOO_MANY_GRANTS       the quota would have more than grants_max grants
  AMOUNT_OVERFLOW       the quota would exceed 2^53 - 1 units
]]
--- @include "lib/accounts"
--- @include "lib/operations"
--- @include "lib/quotas"
--- @include "lib/transfers"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local arrival_id, fingerprint, amount, terms = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local grants_max, transfer_id, details, is_back = tonumber(ARGV[10]), ARGV[11], ARGV[12], ARGV[13]

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
local remembered = operations.recall(state, arrival_id)
if remembered then
  return operations.replay(state, arrival_id, fingerprint, remembered)
end
local parts = transfers.parse(terms)
refused = is_back ~= "1" and accounts.barred({ state }, true) or quotas.frozen({ state })
  or quotas.bring_up(state, due_max) or transfers.refuse(state, arrival_id, amount, parts, grants_max)
if refused then
  return refused
end
local answer = transfers.arrive(state, arrival_id, parts, {
  fingerprint = fingerprint, amount = amount, subject = transfer_id, details = details,
})

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit(state) or quotas.answer("ARRIVED", answer)
