#!lua
--[[
issue_grant: put quota in.

A grant is live from `starts_at` (at once when that has come) until `expires_at`, exactly. What flows in
pays debt first. The grant's id is the operation id.

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
   6 grant_id     unique per quota
   7 fingerprint  hash of the operation's arguments
   8 amount       units
   9 priority     whole number, least pays first
  10 starts_at    ms, or 0 for now
  11 expires_at   ms, 2^53 - 1 for never
  12 grants_max   grants that one quota may have
  13 details      JSON of the caller, kept with the entry
  14 outbox_max   entries that may wait to be persisted

RETURNS
  ISSUED    fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements
  BARRED    account state since reason: of an account on its path that is closed

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this operation id came before with other arguments
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  BACKPRESSURE          outbox_max entries wait to be persisted: retry when the drain has caught up
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  GRANT_ENDED           it would end before it starts, or has ended already
  GRANT_EXISTS          a grant of this id is in the quota
  TOO_MANY_GRANTS       the quota has grants_max grants
  AMOUNT_OVERFLOW       the quota would exceed 2^53 - 1 units
]]
--- @include "lib/accounts"
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/burn_down"
--- @include "lib/operations"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local grant_id, fingerprint, amount, priority = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local starts_at, expires_at, grants_max, details = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
local outbox_max = tonumber(ARGV[14])

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
local remembered = operations.recall(state, grant_id)
if remembered then
  return operations.replay(state, grant_id, fingerprint, remembered)
end
refused = accounts.barred({ state }, true) or quotas.frozen({ state }) or quotas.pressed(state, outbox_max)
  or quotas.bring_up(state, due_max)
if refused then
  return refused
end
local known = grants.get(state, grant_id)
local begins = starts_at > 0 and starts_at or state.now
if expires_at <= begins or expires_at <= state.now then
  return redis.error_reply("GRANT_ENDED " .. amounts.text(expires_at))
elseif known and not grants.is_used_up(known) then
  return redis.error_reply("GRANT_EXISTS " .. grant_id)
elseif not grants.fit(state, 1, grants_max) then
  return redis.error_reply("TOO_MANY_GRANTS the quota has " .. amounts.text(grants_max))
elseif state.remaining + state.covered + state.pending + amount > amounts.MAX then
  return redis.error_reply("AMOUNT_OVERFLOW the quota would exceed 2^53 - 1")
end

local text = amounts.text
local terms = text(priority) .. " " .. text(begins) .. " " .. text(expires_at) .. " " .. text(state.now)
local grant = { id = grant_id, remaining = 0, reserved = 0, state = "l", next = "", terms = terms }
state.grants[grant_id], state.granted = grant, "1"
if begins > state.now then
  grant.state, grant.remaining = "p", amount
  state.pending = state.pending + amount
  state.touched[grant_id] = grant
  quotas.expect(state, "b:" .. grant_id, begins)
else
  burn_down.give(state, grant, amount, 0)
end
if grant.remaining > 0 then
  quotas.expect(state, "c:" .. grant_id, expires_at)
end
local answer = entries.add(state, "grant.issued", {
  at = state.now, operation_id = grant_id, fingerprint = fingerprint, amount = amount, subject = grant_id,
  terms = terms, details = details,
})
operations.remember(state, grant_id, answer)

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit(state) or quotas.answer("ISSUED", answer)
