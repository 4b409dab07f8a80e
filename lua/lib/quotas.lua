--[[
quotas: read one quota, bring it up to now, and write it back with its entries.

A script works on a state in memory and writes nothing until quotas.commit(): so a refusal leaves
no trace, and the state and its entries can never part. Order, for every writing script: open (fence
first, time next, what is due is applied), check, commit (the outbox first: with the outbox gone or
a newer epoch's marker in it, nothing has been written yet).

Fields of the quota's hash: version, chain, remaining (sum over live grants), covered (sum over open
holds), held, debt, pending (sum over grants not yet started), overdraft (a number or "unlimited"),
frozen (the reason), next_change_at (no change comes before it), head, granted (1: it has had a grant),
g:<grant_id>, limits and w:… (lib/windows).

A call may act on several quotas of a shard, all or nothing: see lib/shares.
]]
--- @include "lib/amounts"
--- @include "lib/grants"
--- @include "lib/limits"
--- @include "lib/operations"
--- @lazy "lib/due"
--- @lazy "lib/shares"
local quotas = {}

local FIELDS_MAX = 200
local MORE, NOTHING = { "more", "1" }, {}

-- The state of a quota as it is stored, or nil and the error to return. `issued`: the last version that
-- was issued of it, false if none was in this epoch.
local function read(keys, epoch, name, issued, server_now, now, horizon_ms)
  local stored = redis.call("HMGET", keys.quota, "version", "chain", "remaining", "covered", "held", "debt",
    "pending", "overdraft", "frozen", "next_change_at", "head", "granted", "limits")
  if not stored[1] or (issued and issued ~= stored[1]) then
    return nil, redis.error_reply("QUOTA_NOT_LOADED " .. name)
  end
  for place = 3, 7 do
    stored[place] = stored[place] + 0 -- reads a number, without the cost of a call
  end
  stored[10] = stored[10] + 0
  local remaining, covered, held, debt = stored[3], stored[4], stored[5], stored[6]
  return {
    keys = keys, epoch = epoch, name = name, server_now = server_now, horizon = horizon_ms, now = now,
    version = stored[1] + 0, chain = stored[2], remaining = remaining, covered = covered,
    held = held, debt = debt, pending = stored[7], limit = stored[8], frozen = stored[9],
    next_change_at = stored[10], head = stored[11], granted = stored[12] or "1", limits = stored[13] or "",
    stored = stored,
    logged_balance = remaining + covered - debt, logged_held = held,
    grants = {}, touched = {}, entries = {}, answers = {},
    holds = {}, holds_changed = {}, changes = {},
  }
end

-- The state of a quota, or nil and the error to return. `keys` is a table of the script's keys.
function quotas.open(keys, epoch, name, now_ms, horizon_ms)
  local fence = redis.call("HMGET", keys.versions, "@epoch", name, "@accounts")
  if fence[1] ~= epoch then
    return nil, redis.error_reply("FENCED epoch is " .. (fence[1] or "absent"))
  end
  local time = redis.call("TIME")
  local server_now = time[1] * 1000 + math.floor(time[2] / 1000)
  local now = now_ms == "" and server_now or now_ms + 0
  local state, refused = read(keys, epoch, name, fence[2], server_now, now, horizon_ms)
  if state then
    state.has_policies = fence[3]
  end
  return state, refused
end

-- Another quota of the shard, in the same instant as one that is open; or nil and the error to return.
function quotas.open_beside(state, keys, name)
  local issued = redis.call("HGET", keys.versions, name)
  return read(keys, state.epoch, name, issued, state.server_now, state.now, state.horizon)
end

-- The same for one of further quotas whose keys follow each other, five each: the one in the place `number`.
function quotas.open_further(state, more_keys, number, name)
  local base = 5 * (number - 1)
  return quotas.open_beside(state, {
    versions = state.keys.versions, outbox = state.keys.outbox, due = state.keys.due,
    quota = more_keys[base + 1], holds = more_keys[base + 2], changes = more_keys[base + 3],
    ops0 = more_keys[base + 4], ops1 = more_keys[base + 5],
  }, name)
end

-- The states of all quotas that a call acts on, its own first; or nil and the reply, when one is not loaded
-- or the call is remembered (then the states come third). `others` and `keys` tell of further quotas (lib/shares). The call's id in each is `base`, the
-- quota's suffix, `tail`; state.id from then on.
function quotas.gather(state, base, tail, fingerprint, others, keys)
  state.suffix, state.id = "", base .. tail
  if others == "" then
    local remembered = operations.recall(state, state.id)
    if remembered then
      return nil, operations.replay(state, state.id, fingerprint, remembered), { state }
    end
    return { state }
  end
  local shares = load_shares()
  local states, refused = shares.open(state, others, keys, quotas.open_further)
  if not states then
    return nil, refused
  end
  local reply = shares.recall(states, base, tail, fingerprint)
  if reply then
    return nil, reply, states
  end
  return states
end

-- The error that says that one of them is frozen, or nil.
function quotas.frozen(states)
  for _, state in ipairs(states) do
    if state.frozen ~= "" then
      return redis.error_reply("QUOTA_FROZEN " .. state.frozen)
    end
  end
  return nil
end

function quotas.spendable(state)
  local room = amounts.MAX - state.held
  if state.limit == "unlimited" then
    return room - state.debt
  end
  local uncovered = state.held - state.covered
  return math.min(state.remaining - uncovered - state.debt + tonumber(state.limit), room)
end

-- Something of this quota will begin or end at `at`.
function quotas.expect(state, member, at)
  if at < amounts.MAX then
    state.changes[member] = at
    state.next_change_at = math.min(state.next_change_at, at)
  end
end

-- The error that says that too much waits to be persisted, or nil. Persisted entries that are kept for a
-- while do not wait: the persister tells how many they are. Asked by what is new, never by what was used.
function quotas.pressed(state, limit)
  local length = redis.call("XLEN", state.keys.outbox)
  if length < limit then
    return nil
  end
  local persisted = tonumber(redis.call("HGET", state.keys.versions, "@persisted") or 0)
  if length - persisted < limit then
    return nil
  end
  return redis.error_reply("BACKPRESSURE " .. amounts.text(length - persisted) .. " " .. amounts.text(limit)
    .. " " .. state.keys.outbox)
end

-- Apply what has come due, in the order of its instants. Returns nil; or, when more than `limit`
-- changes are due, the error that says so: then nothing was applied, or with `is_partial` the first
-- `limit` of them.
function quotas.bring_up(state, limit, is_partial)
  if state.now < state.next_change_at then
    return nil
  end
  local now = amounts.text(state.now)
  local found = redis.call("ZRANGEBYSCORE", state.keys.changes, "-inf", now, "WITHSCORES",
    "LIMIT", 0, limit + 1)
  local beyond = found[2 * limit + 2]
  if beyond and not is_partial then
    return redis.error_reply("CATCH_UP " .. state.name .. " has more than " .. amounts.text(limit) .. " changes due")
  end
  local due = load_due()
  for place = 1, math.min(#found, 2 * limit), 2 do
    local member, at = found[place], tonumber(found[place + 1])
    state.changes[member] = amounts.MAX
    due[string.sub(member, 1, 1)](state, string.sub(member, 3), at)
  end
  if beyond then
    state.next_change_at = tonumber(beyond)
    return redis.error_reply("CATCH_UP " .. state.name .. " again")
  end
  local after = redis.call("ZRANGEBYSCORE", state.keys.changes, "(" .. now, "+inf", "WITHSCORES", "LIMIT", 0, 1)
  state.next_change_at = after[2] and tonumber(after[2]) or amounts.MAX
  return nil
end

-- The same for all of them, or nothing.
function quotas.bring_up_all(states, limit)
  for _, state in ipairs(states) do
    local refused = quotas.bring_up(state, limit)
    if refused then
      return refused
    end
  end
  return nil
end

-- Charge for what has been used already: pay what can be paid, never refuse. Returns the shortfall. A quota
-- that is only counted pays nothing.
function quotas.charge(state, amount)
  if state.is_counted then
    return 0
  end
  local collectable = math.min(amount, math.max(quotas.spendable(state), 0))
  local paid = grants.take(state, math.min(collectable, state.remaining), false)
  state.debt = state.debt + collectable - paid
  return amount - collectable
end

local function put(fields, name, value, before)
  if value ~= before then
    local count = #fields
    fields[count + 1], fields[count + 2] = name, amounts.text(value)
  end
end

-- Add the touched grants to the fields to be written, or write some at once: unpack() has an end.
local function put_grants(state, fields)
  for grant_id, grant in pairs(state.touched) do
    if grants.is_used_up(grant) then
      redis.call("HDEL", state.keys.quota, "g:" .. grant_id)
      state.changes["c:" .. grant_id] = amounts.MAX
    elseif #fields < FIELDS_MAX then
      local count = #fields
      fields[count + 1], fields[count + 2] = "g:" .. grant_id, grants.record(grant)
    else
      redis.call("HSET", state.keys.quota, "g:" .. grant_id, grants.record(grant))
    end
  end
end

local function save_holds(state)
  for hold_id, record in pairs(state.holds_changed) do
    if record then
      redis.call("HSET", state.keys.holds, hold_id, record)
    else
      redis.call("HDEL", state.keys.holds, hold_id)
    end
  end
end

local function save_changes(state)
  for member, at in pairs(state.changes) do
    if at == amounts.MAX then
      redis.call("ZREM", state.keys.changes, member)
    else
      redis.call("ZADD", state.keys.changes, amounts.text(at), member)
    end
  end
  if state.next_change_at == state.stored[10] then
    return
  elseif state.next_change_at == amounts.MAX then
    redis.call("ZREM", state.keys.due, state.name)
  else
    redis.call("ZADD", state.keys.due, amounts.text(state.next_change_at), state.name)
  end
end

-- Look at what is written and was not read yet: a key of another type raises its error here.
local function look(state)
  redis.call("ZCARD", state.keys.changes)
  if state.next_change_at ~= state.stored[10] then
    redis.call("ZCARD", state.keys.due)
  end
end

-- Add what limits have let through to the fields to be written; take away what is forgotten.
local function put_limits(state, fields)
  local counted, gone = limits.library().changes(state)
  for place = 1, #counted do
    fields[#fields + 1] = counted[place]
  end
  if state.limits == "" and state.stored[13] then
    gone[#gone + 1] = "limits"
  elseif state.limits ~= (state.stored[13] or "") then
    fields[#fields + 1], fields[#fields + 2] = "limits", state.limits
  end
  if #gone > 0 then
    redis.call("HDEL", state.keys.quota, unpack(gone))
  end
end

-- Append the entries of a state. Returns nil, or the error of an append that the outbox refused. Of what
-- one call does to several quotas, all entries but the very last say that more follows, so that the
-- ledger gets all of them or none; `followers` is how many come after this state's, nil for one quota.
local function append(state, followers)
  local lines = state.entries
  for place = 1, #lines, 2 do
    local more = followers and (followers > 0 or place < #lines - 1)
    local id = redis.pcall("XADD", state.keys.outbox, "NOMKSTREAM", state.epoch .. "-*",
      "entry", lines[place], "chain", lines[place + 1], unpack(more and MORE or NOTHING))
    if not id then
      return redis.error_reply("FENCED the outbox is gone")
    elseif type(id) == "table" then
      local is_older = string.find(id.err, "equal or smaller", 1, true)
      return redis.error_reply((is_older and "FENCED a newer epoch began: " or "") .. id.err)
    end
  end
  return nil
end

local function save(state)
  local stored, version = state.stored, amounts.text(state.version)
  local fields = { "version", version, "chain", state.chain }
  put(fields, "remaining", state.remaining, stored[3])
  put(fields, "covered", state.covered, stored[4])
  put(fields, "held", state.held, stored[5])
  put(fields, "debt", state.debt, stored[6])
  put(fields, "pending", state.pending, stored[7])
  put(fields, "next_change_at", state.next_change_at, stored[10])
  if state.limit ~= stored[8] then
    fields[#fields + 1], fields[#fields + 2] = "overdraft", state.limit
  end
  if state.head ~= stored[11] then
    fields[#fields + 1], fields[#fields + 2] = "head", state.head
  end
  if state.granted ~= stored[12] then
    fields[#fields + 1], fields[#fields + 2] = "granted", state.granted
  end
  if state.windows then
    put_limits(state, fields)
  end
  put_grants(state, fields)
  redis.call("HSET", state.keys.quota, unpack(fields))
  redis.call("HSET", state.keys.versions, state.name, version)
  save_holds(state)
  save_changes(state)
  operations.save(state)
end

-- Append the entries, then write the states. Returns nil, or the error of an append that the outbox
-- refused, in which case nothing was written: an outbox that took the first entry takes them all.
function quotas.commit_all(states)
  local followers = #states > 1 and 0 or nil
  for _, state in ipairs(states) do
    look(state)
    followers = followers and followers + #state.entries
  end
  for _, state in ipairs(states) do
    followers = followers and followers - #state.entries
    local refused = append(state, followers)
    if refused then
      return refused
    end
  end
  for _, state in ipairs(states) do
    save(state)
  end
  return nil
end

function quotas.commit(state)
  return quotas.commit_all({ state })
end

-- The reply to a new operation: its outcome, then the lines of its answer.
function quotas.answer(outcome, answer)
  return { outcome, unpack(answer) }
end

-- The same for several quotas: of each further one that changed, its name and its answer follow.
function quotas.answer_all(outcome, states)
  local reply = quotas.answer(outcome, states[1].answer)
  for place = 2, #states do
    local state, count = states[place], #reply
    for line, word in ipairs(state.answer or {}) do
      reply[count + 1], reply[count + 1 + line] = state.name, word
    end
  end
  return reply
end

-- The reply that refuses, if less is spendable in one of them than is asked of it, or nil. One in the shadow
-- refuses only what cannot be counted any more.
function quotas.denied(states)
  for _, state in ipairs(states) do
    if state.asked > 0 and not state.is_counted and state.asked > quotas.spendable(state) then
      if not state.is_in_shadow or state.asked > amounts.MAX - state.held then
        state.is_in_shadow = false
        return load_shares().denial(states, quotas.spendable)
      end
      state.shadowed = "insufficient"
    end
  end
  return nil
end
