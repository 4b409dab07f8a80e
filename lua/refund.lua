#!lua
--[[
refund: give back units of a charge, to the grants that paid it.

What was debt of the charge pays debt first. The rest flows to the grants it was taken from, last
taken first; a grant that was used up and has not ended is live again by it. What belongs to a grant
that has ended is forfeited, or with a grace becomes a grant of its own for so long. What paid a
charge's debt later is not known: it comes back as a grant that does not end. How much may be given
back is decided in the ledger, before. What does not come back here is a part whose id is no grant's: words
that say why, which the entry has as its flags. `unreturned` and the units, which this quota had not collected;
or `counted by:` and the account, percent-encoded, that paid and has it back. It stands with what is forfeited.

What a call took in several quotas comes back in one step, all or nothing: each has a refund of its own, told
by `beside`; behind the first's answer stand the name of each further quota and its own. One that is remembered
has happened, and is left out.

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
   1 epoch          the epoch the caller knows
   2 quota_name     <account>|<quota type>
   3 now_ms         milliseconds, or "" for the server clock
   4 horizon_ms     milliseconds an operation is remembered
   5 due_max        changes that may be applied on the way
   6 refund_id      unique per quota
   7 fingerprint    hash of the operation's arguments
   8 amount         units to give back
   9 charge_id      the operation id of the charge
  10 parts          grant id, units, priority, starts_at, expires_at, created_at; newline after each word
  11 grace_ms       milliseconds that the grant for ended grants lives; 0: forfeit
  12 grant_details  JSON kept with grants that are made here
  13 details        JSON of the caller, kept with the entry
  14 beside         further quotas, nine lines each: name, then as 6 to 13 (parts: a tab after each word); empty: none

RETURNS
  REFUNDED  fingerprint version amount shortfall balance held debt flags terms movements
  REPLAYED  fingerprint version amount shortfall balance held debt flags terms movements

ERRORS                          (in the order they are checked)
  FENCED                another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED      not in Redis: hydrate, then retry
  OPERATION_CANCELLED   this operation was cancelled before it came
  IDEMPOTENCY_CONFLICT  this refund id came before with other arguments
  QUOTA_FROZEN          its log is in doubt: no new holds, debits and grants
  CATCH_UP              more than due_max changes are due: run catch_up, then retry
  AMOUNT_OVERFLOW       the quota would exceed 2^53 - 1 units
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/burn_down"
--- @include "lib/operations"
--- @include "lib/quotas"

-- The burn-down priority of a grant that is made here: the usual one.
local PRIORITY = "50"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local more_keys = { unpack(KEYS, 9) }
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local refund_id, fingerprint, amount, charge_id = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local parts, grace_ms, grant_details, details = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]
local beside = ARGV[14]

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local first, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not first then
  return refused
end
local remembered = operations.recall(first, refund_id)
if remembered then
  return operations.replay(first, refund_id, fingerprint, remembered)
end
first.refund = {
  id = refund_id, fingerprint = fingerprint, amount = amount, charge_id = charge_id, parts = parts,
  grace_ms = grace_ms, grant_details = grant_details, details = details,
}
local states, number, next_line = { first }, 0, string.gmatch(beside, "([^\n]*)\n")
for name in next_line do
  number = number + 1
  local other
  other, refused = quotas.open_further(first, more_keys, number, name)
  if not other then
    return refused
  end
  other.refund = {
    id = next_line(), fingerprint = next_line(), amount = tonumber(next_line()), charge_id = next_line(),
    parts = string.gsub(next_line(), "\t", "\n"), grace_ms = tonumber(next_line()),
    grant_details = next_line(), details = next_line(),
  }
  if not operations.recall(other, other.refund.id) then
    states[#states + 1] = other
  end
end
refused = quotas.frozen(states) or quotas.bring_up_all(states, due_max)
if refused then
  return refused
end

-- The grant of a part, live: as Redis has it, or made anew when it was used up. Nil: it has ended.
local function living(state, grant_id, terms, expires_at)
  local grant = grants.get(state, grant_id)
  if grant and not grants.is_used_up(grant) then
    return grant.state == "l" and grant or nil
  elseif expires_at <= state.now or operations.happened(state, grant_id .. ":void") then
    return nil
  end
  grant = { id = grant_id, remaining = 0, reserved = 0, state = "l", next = "", terms = terms }
  state.grants[grant_id] = grant
  return grant
end

-- Make a grant of what has no grant to go back to, as an entry of its own.
local function regrant(state, grant_id, units, expires_at)
  if units == 0 then
    return
  end
  local now = amounts.text(state.now)
  local terms = PRIORITY .. " " .. now .. " " .. amounts.text(expires_at) .. " " .. now
  local grant = { id = grant_id, remaining = 0, reserved = 0, state = "l", next = "", terms = terms }
  state.grants[grant_id], state.granted = grant, "1"
  burn_down.give(state, grant, units, 0)
  if grant.remaining > 0 then
    quotas.expect(state, "c:" .. grant_id, expires_at)
  end
  operations.remember(state, grant_id, entries.add(state, "grant.issued", {
    at = state.now, operation_id = grant_id, amount = units, subject = grant_id, terms = terms,
    details = state.refund.grant_details,
  }))
end

-- The parts of a refund: what belongs to live grants, what to ended ones, and what is left for debt.
local function deal(state)
  local word = string.gmatch(state.refund.parts, "([^\n]*)\n")
  local due, returning, ended = state.refund.amount, {}, 0
  for grant_id in word do
    local units, priority, starts_at = tonumber(word()), word(), word()
    local expires_at, created_at = word(), word()
    local terms = priority .. " " .. starts_at .. " " .. expires_at .. " " .. created_at
    local grant = living(state, grant_id, terms, tonumber(expires_at))
    due = due - units
    if grant then
      returning[#returning + 1] = { grant, units, tonumber(expires_at) }
    else
      ended = ended + units
    end
  end
  return returning, ended, due
end

-- Give back what a state's refund says; `unreturned` of it does not come back here, and `flags` say why.
local function give_back(state, flags, unreturned)
  local refund = state.refund
  local returning, ended, due = deal(state)
  local paid = math.min(state.debt, due)
  state.debt = state.debt - paid
  for _, part in ipairs(returning) do
    local grant, units, expires_at = part[1], part[2], part[3]
    burn_down.give(state, grant, units, 0)
    if grant.remaining > 0 then
      quotas.expect(state, "c:" .. grant.id, expires_at)
    end
  end
  local rest, grace = due - paid, refund.grace_ms > 0 and ended - unreturned or 0
  state.answer = entries.add(state, "quota.refunded", {
    at = state.now, operation_id = refund.id, fingerprint = refund.fingerprint, amount = refund.amount,
    subject = refund.charge_id, flags = flags,
    terms = amounts.text(ended - grace) .. " " .. amounts.text(rest + grace), details = refund.details,
  })
  operations.remember(state, refund.id, state.answer)
  regrant(state, refund.id .. ":rest", rest, amounts.MAX)
  regrant(state, refund.id .. ":grace", grace, state.now + refund.grace_ms)
end

for _, each in ipairs(states) do
  local flags, unreturned = string.match(each.refund.parts, "^(%l+ [^\n]*)\n(%d+)\n")
  unreturned = tonumber(unreturned or 0)
  if each.remaining + each.covered + each.pending + each.refund.amount - unreturned > amounts.MAX then
    return redis.error_reply("AMOUNT_OVERFLOW the quota would exceed 2^53 - 1")
  end
  give_back(each, flags, unreturned)
end

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit_all(states) or quotas.answer_all("REFUNDED", states)
