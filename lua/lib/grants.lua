--[[
grants: the grants of one quota, in burn-down order, touched one by one.

Each grant is a field `g:<grant_id>` of the quota's hash:

  remaining reserved priority starts_at expires_at created_at state next

state: p pending, l live, e expired, v voided. Live grants with something remaining form a list in
burn-down order: the hash's field `head` names the first, `next` the one after. So paying costs
what it touches, however many grants there are; only inserting walks to its place. A grant stays
while anything remains of it or a hold reserves a part of it.
]]
--- @include "lib/amounts"
--- @include "lib/entries"
local grants = {}

local RECORD = "^(%d+) (%d+) (%-?%d+) (%d+) (%d+) (%d+) (%a) (.*)$"

function grants.parse(grant_id, record)
  local remaining, reserved, priority, starts_at, expires_at, created_at, standing, following =
    string.match(record, RECORD)
  return {
    id = grant_id,
    remaining = tonumber(remaining),
    reserved = tonumber(reserved),
    priority = tonumber(priority),
    starts_at = tonumber(starts_at),
    expires_at = tonumber(expires_at),
    created_at = tonumber(created_at),
    state = standing,
    next = following,
  }
end

function grants.record(grant)
  local text = amounts.text
  return table.concat({
    text(grant.remaining), text(grant.reserved), text(grant.priority), text(grant.starts_at),
    text(grant.expires_at), text(grant.created_at), grant.state, grant.next,
  }, " ")
end

-- The grant, or nil. Read at most once per script.
function grants.get(state, grant_id)
  local grant = state.grants[grant_id]
  if grant == nil then
    local record = redis.call("HGET", state.keys.quota, "g:" .. grant_id)
    grant = record and grants.parse(grant_id, record) or false
    state.grants[grant_id] = grant
  end
  return grant or nil
end

function grants.touch(state, grant)
  state.touched[grant.id] = grant
end

-- Compare ids byte by byte: Lua's own `<` follows the server's locale.
local function is_less(one, other)
  for place = 1, math.min(#one, #other) do
    local left, right = string.byte(one, place), string.byte(other, place)
    if left ~= right then
      return left < right
    end
  end
  return #one < #other
end

local function precedes(one, other)
  if one.priority ~= other.priority then
    return one.priority < other.priority
  elseif one.expires_at ~= other.expires_at then
    return one.expires_at < other.expires_at
  elseif one.created_at ~= other.created_at then
    return one.created_at < other.created_at
  end
  return is_less(one.id, other.id)
end

function grants.insert(state, grant)
  local before, at = nil, grants.get(state, state.head)
  while at and precedes(at, grant) do
    before, at = at, grants.get(state, at.next)
  end
  grant.next = at and at.id or ""
  grants.touch(state, grant)
  if before then
    before.next = grant.id
    grants.touch(state, before)
  else
    state.head = grant.id
  end
end

function grants.unlink(state, grant)
  if state.head == grant.id then
    state.head = grant.next
  else
    local before = grants.get(state, state.head)
    while before.next ~= grant.id do
      before = grants.get(state, before.next)
    end
    before.next = grant.next
    grants.touch(state, before)
  end
  grant.next = ""
  grants.touch(state, grant)
end

-- Let units flow into a live grant: debt is paid first. `reserved` is the part that a hold gives up.
function grants.give(state, grant, amount, reserved)
  local paid = math.min(state.debt, amount)
  local kept = amount - paid
  state.debt = state.debt - paid
  state.remaining = state.remaining + kept
  if kept > 0 and grant.remaining == 0 then
    grants.insert(state, grant)
  end
  grant.remaining = grant.remaining + kept
  grant.reserved = grant.reserved - reserved
  grants.touch(state, grant)
  entries.move(state, grant.id, kept, -reserved)
end

-- Take up to `amount` units in burn-down order; for a hold they become reserved. Returns the list
-- { grant_id, units, ... } and how much it is in all.
function grants.take(state, amount, for_hold)
  local taken, rest = {}, amount
  while rest > 0 and state.head ~= "" do
    local grant = grants.get(state, state.head)
    local part = math.min(rest, grant.remaining)
    local reserved = for_hold and part or 0
    grant.remaining = grant.remaining - part
    grant.reserved = grant.reserved + reserved
    rest = rest - part
    if grant.remaining == 0 then
      state.head, grant.next = grant.next, ""
    end
    grants.touch(state, grant)
    entries.move(state, grant.id, -part, reserved)
    taken[#taken + 1] = grant.id
    taken[#taken + 1] = part
  end
  state.remaining = state.remaining - (amount - rest)
  if for_hold then
    state.covered = state.covered + (amount - rest)
  end
  return taken, amount - rest
end

-- End a grant ("e" expired, "v" voided). Returns how much of it was lost to its owner.
function grants.finish(state, grant, standing)
  local lost = grant.remaining
  if grant.state == "p" then
    state.pending = state.pending - lost
  elseif lost > 0 then
    grants.unlink(state, grant)
    state.remaining = state.remaining - lost
    entries.move(state, grant.id, -lost, 0)
  end
  grant.remaining, grant.state = 0, standing
  grants.touch(state, grant)
  return lost
end
