--[[
grants: what grants pay, in burn-down order, touched one by one.

Each grant is a field `g:<grant_id>` of the quota's hash:

  remaining reserved state =next priority starts_at expires_at created_at

state: p pending, l live, e expired, v voided. Live grants with something remaining form a list in
burn-down order: the hash's field `head` names the first, `next` the one after (empty: none). So
paying costs what it touches, however many grants there are. A grant stays while anything remains of
it or a hold reserves a part of it.
]]
--- @include "lib/entries"
local grants = {}

function grants.parse(grant_id, record)
  local remaining, reserved, standing, following, terms =
    string.match(record, "^(%d+) (%d+) (%a) =(%S*) (.*)$")
  return {
    id = grant_id,
    remaining = remaining + 0,
    reserved = reserved + 0,
    state = standing,
    next = following,
    terms = terms,
  }
end

function grants.record(grant)
  return string.format("%d %d %s =%s %s", grant.remaining, grant.reserved, grant.state, grant.next, grant.terms)
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

-- Whether a quota may have so many grants more, of `most`. Its other fields are told apart only where it
-- has so many of all that it matters.
function grants.fit(state, more, most)
  if redis.call("HLEN", state.keys.quota) + more <= most then
    return true
  end
  local count = 0
  for _, field in ipairs(redis.call("HKEYS", state.keys.quota)) do
    count = count + (string.sub(field, 1, 2) == "g:" and 1 or 0)
  end
  return count + more <= most
end

-- Whether nothing is left of a grant: then it is gone, for the rest of the script too.
function grants.is_used_up(grant)
  return grant.state ~= "p" and grant.remaining == 0 and grant.reserved == 0
end

-- Take up to `amount` units in burn-down order; for a hold they become reserved. Returns how much
-- it is in all, and for a hold the list { grant_id, units, ... }.
function grants.take(state, amount, for_hold)
  local taken, rest = {}, amount
  while rest > 0 and state.head ~= "" do
    local grant = grants.get(state, state.head)
    local part = rest < grant.remaining and rest or grant.remaining
    local reserved = for_hold and part or 0
    grant.remaining = grant.remaining - part
    grant.reserved = grant.reserved + reserved
    rest = rest - part
    if grant.remaining == 0 then
      state.head, grant.next = grant.next, ""
    end
    state.touched[grant.id] = grant
    entries.move(state, grant.id, -part, reserved)
    if for_hold then
      local count = #taken
      taken[count + 1], taken[count + 2] = grant.id, part
    end
  end
  state.remaining = state.remaining - (amount - rest)
  if for_hold then
    state.covered = state.covered + (amount - rest)
  end
  return amount - rest, taken
end
