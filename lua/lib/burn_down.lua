--[[
burn_down: the list of live grants, and what joins or leaves it.

Inserting and unlinking walk from the head to the place; a grant that flows back usually belongs near
the head, since it was taken from there.
]]
--- @include "lib/entries"
--- @include "lib/grants"
local burn_down = {}

local TERMS = "^(%-?%d+) (%d+) (%d+) (%d+)$"

local function key_of(grant)
  if not grant.key then
    local priority, _, expires_at, created_at = string.match(grant.terms, TERMS)
    grant.key = { tonumber(priority), tonumber(expires_at), tonumber(created_at) }
  end
  return grant.key
end

function burn_down.expires_at(grant)
  return key_of(grant)[2]
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
  local left, right = key_of(one), key_of(other)
  for place = 1, 3 do
    if left[place] ~= right[place] then
      return left[place] < right[place]
    end
  end
  return is_less(one.id, other.id)
end

local function insert(state, grant)
  local before, at = nil, grants.get(state, state.head)
  while at and precedes(at, grant) do
    before, at = at, grants.get(state, at.next)
  end
  grant.next = at and at.id or ""
  if before then
    before.next = grant.id
    state.touched[before.id] = before
  else
    state.head = grant.id
  end
end

local function unlink(state, grant)
  if state.head == grant.id then
    state.head = grant.next
  else
    local before = grants.get(state, state.head)
    while before.next ~= grant.id do
      before = grants.get(state, before.next)
    end
    before.next = grant.next
    state.touched[before.id] = before
  end
  grant.next = ""
end

-- Let units flow into a live grant: debt is paid first. `reserved` is the part that a hold gives up.
function burn_down.give(state, grant, amount, reserved)
  local paid = math.min(state.debt, amount)
  local kept = amount - paid
  state.debt = state.debt - paid
  state.remaining = state.remaining + kept
  if kept > 0 and grant.remaining == 0 then
    insert(state, grant)
  end
  grant.remaining = grant.remaining + kept
  grant.reserved = grant.reserved - reserved
  state.touched[grant.id] = grant
  entries.move(state, grant.id, kept, -reserved)
end

-- End a grant ("e" expired, "v" voided). Returns how much of it was lost to its owner.
function burn_down.finish(state, grant, standing)
  local lost = grant.remaining
  if grant.state == "p" then
    state.pending = state.pending - lost
  elseif lost > 0 then
    unlink(state, grant)
    state.remaining = state.remaining - lost
    entries.move(state, grant.id, -lost, 0)
  end
  grant.remaining, grant.state = 0, standing
  state.touched[grant.id] = grant
  return lost
end
