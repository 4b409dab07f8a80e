--[[
quotas: read one quota, bring it up to now, and write it back with its entries.

A script works on a state in memory and writes nothing until quotas.commit(): so a refusal leaves
no trace, and the state and its entries can never part. Order, for every writing script: open (fence
first, time next, what is due is applied), check, commit (the outbox first: with the outbox gone or
a newer epoch's marker in it, nothing has been written yet).

Fields of the quota's hash: version, chain, remaining (sum over live grants), covered (sum over open
holds), held, debt, pending (sum over grants not yet started), overdraft (a number or "unlimited"),
frozen (the reason), next_change_at (no change comes before it), head, g:<grant_id>.
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/holds"
--- @include "lib/operations"
local quotas = {}

local FIELDS_MAX = 200

function quotas.keys(versions, outbox, due, quota, hold, changes, ops0, ops1)
  return {
    versions = versions, outbox = outbox, due = due, quota = quota, holds = hold, changes = changes,
    ops0 = ops0, ops1 = ops1,
  }
end

-- The state of a quota, or nil and the error to return. `context` is { epoch, name, now_ms, horizon_ms }.
function quotas.open(keys, context)
  local epoch, name = context[1], context[2]
  local fence = redis.call("HMGET", keys.versions, "@epoch", name)
  if fence[1] ~= epoch then
    return nil, redis.error_reply("FENCED epoch is " .. (fence[1] or "absent"))
  end
  local time = redis.call("TIME")
  local server_now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local fields = redis.call("HMGET", keys.quota, "version", "chain", "remaining", "covered", "held", "debt",
    "pending", "overdraft", "frozen", "next_change_at", "head")
  if not fields[1] or (fence[2] and fence[2] ~= fields[1]) then
    return nil, redis.error_reply("QUOTA_NOT_LOADED " .. name)
  end
  local state = {
    keys = keys, epoch = epoch, name = name, server_now = server_now,
    now = context[3] == "" and server_now or tonumber(context[3]),
    horizon = tonumber(context[4]),
    version = tonumber(fields[1]), chain = fields[2],
    remaining = tonumber(fields[3]), covered = tonumber(fields[4]), held = tonumber(fields[5]),
    debt = tonumber(fields[6]), pending = tonumber(fields[7]),
    limit_text = fields[8],
    frozen = fields[9], next_change_at = tonumber(fields[10]), head = fields[11],
    grants = {}, touched = {}, holds = {}, holds_changed = {}, changes = {}, answers = {},
    entries = {}, moves = {}, move_order = {},
  }
  state.stored_next_change_at = state.next_change_at
  state.logged_balance, state.logged_held = entries.balance(state), state.held
  return state
end

function quotas.spendable(state)
  local room = amounts.MAX - state.held
  if state.limit_text == "unlimited" then
    return room - state.debt
  end
  local uncovered = state.held - state.covered
  return math.min(state.remaining - uncovered - state.debt + tonumber(state.limit_text), room)
end

-- Something of this quota will begin or end at `at`.
function quotas.expect(state, member, at)
  if at < amounts.MAX then
    state.changes[member] = at
    state.next_change_at = math.min(state.next_change_at, at)
  end
end

local due = {}

-- a: a hold expires.
function due.a(state, hold_id, at)
  local hold = holds.get(state, hold_id)
  if not hold then
    return
  end
  local amount = hold.amount
  holds.lose_ended(state, hold, 0, at)
  holds.close(state, hold)
  local operation_id = hold_id .. ":expire"
  operations.remember(state, operation_id, entries.add(state, {
    kind = "hold.expired", at = at, operation_id = operation_id, amount = amount, subject = hold_id,
  }))
end

-- b: a grant starts.
function due.b(state, grant_id, at)
  local grant = grants.get(state, grant_id)
  if not grant or grant.state ~= "p" then
    return
  end
  local amount = grant.remaining
  state.pending = state.pending - amount
  grant.remaining, grant.state = 0, "l"
  grants.give(state, grant, amount, 0)
  entries.add(state, {
    kind = "grant.started", at = at, operation_id = grant_id .. ":start", amount = amount, subject = grant_id,
  })
end

-- c: a grant expires.
function due.c(state, grant_id, at)
  local grant = grants.get(state, grant_id)
  if not grant or grant.state ~= "l" then
    return
  end
  local lost = grants.finish(state, grant, "e")
  entries.add(state, {
    kind = "grant.expired", at = at, operation_id = grant_id .. ":expire", amount = lost, subject = grant_id,
  })
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
    return redis.error_reply("CATCH_UP more than " .. amounts.text(limit) .. " changes are due")
  end
  for place = 1, math.min(#found, 2 * limit), 2 do
    local member, at = found[place], tonumber(found[place + 1])
    state.changes[member] = amounts.MAX
    due[string.sub(member, 1, 1)](state, string.sub(member, 3), at)
  end
  if beyond then
    state.next_change_at = tonumber(beyond)
    return redis.error_reply("CATCH_UP again")
  end
  local after = redis.call("ZRANGEBYSCORE", state.keys.changes, "(" .. now, "+inf", "WITHSCORES", "LIMIT", 0, 1)
  state.next_change_at = after[2] and tonumber(after[2]) or amounts.MAX
  return nil
end

-- Charge for what has been used already: pay what can be paid, never refuse. Returns the shortfall.
function quotas.charge(state, amount)
  local collectable = math.min(amount, math.max(quotas.spendable(state), 0))
  local _, paid = grants.take(state, math.min(collectable, state.remaining), false)
  state.debt = state.debt + collectable - paid
  return amount - collectable
end

-- Add the touched grants to the fields to be written, or write some at once: unpack() has an end.
local function save_grants(state, fields)
  for grant_id, grant in pairs(state.touched) do
    if grant.state ~= "p" and grant.remaining == 0 and grant.reserved == 0 then
      redis.call("HDEL", state.keys.quota, "g:" .. grant_id)
      state.changes["c:" .. grant_id] = grant.expires_at < amounts.MAX and amounts.MAX or nil
    elseif #fields < FIELDS_MAX then
      fields[#fields + 1] = "g:" .. grant_id
      fields[#fields + 1] = grants.record(grant)
    else
      redis.call("HSET", state.keys.quota, "g:" .. grant_id, grants.record(grant))
    end
  end
end

local function save_holds(state)
  for hold_id, hold in pairs(state.holds_changed) do
    if state.holds[hold_id] then
      redis.call("HSET", state.keys.holds, hold_id, holds.record(hold))
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
  if state.next_change_at ~= state.stored_next_change_at then
    if state.next_change_at == amounts.MAX then
      redis.call("ZREM", state.keys.due, state.name)
    else
      redis.call("ZADD", state.keys.due, amounts.text(state.next_change_at), state.name)
    end
  end
end

-- Append the entries, then write the state. Returns nil, or the error of an append that the outbox
-- refused, in which case nothing was written.
function quotas.commit(state)
  for _, entry in ipairs(state.entries) do
    local id = redis.pcall("XADD", state.keys.outbox, "NOMKSTREAM", state.epoch .. "-*",
      "entry", entry.line, "chain", entry.chain)
    if not id then
      return redis.error_reply("FENCED the outbox is gone")
    elseif type(id) == "table" then
      local is_older = string.find(id.err, "equal or smaller", 1, true)
      return redis.error_reply((is_older and "FENCED a newer epoch began: " or "") .. id.err)
    end
  end
  local text = amounts.text
  local version = text(state.version)
  local fields = {
    "version", version, "chain", state.chain, "remaining", text(state.remaining),
    "covered", text(state.covered), "held", text(state.held), "debt", text(state.debt),
    "pending", text(state.pending), "overdraft", state.limit_text, "next_change_at",
    text(state.next_change_at), "head", state.head,
  }
  save_grants(state, fields)
  redis.call("HSET", state.keys.quota, unpack(fields))
  redis.call("HSET", state.keys.versions, state.name, version)
  save_holds(state)
  save_changes(state)
  operations.save(state)
  return nil
end

-- The reply to a new operation: its outcome, then the lines of its answer.
function quotas.answer(outcome, answer)
  return { outcome, unpack(answer) }
end
