--[[
settlement: what becomes of a hold's covered part: used, lost with its grant, or given back.
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/burn_down"
--- @include "lib/limits"
local settlement = {}

-- Use up to `amount` of the covered part for good, first taken first.
function settlement.consume(state, hold, amount)
  local allocations, rest, kept = hold.allocations, amount, {}
  for place = 1, #allocations, 2 do
    local grant_id, units = allocations[place], allocations[place + 1]
    local part = math.min(rest, units)
    if part > 0 then
      local grant = grants.get(state, grant_id)
      grant.reserved = grant.reserved - part
      state.touched[grant_id] = grant
      entries.move(state, grant_id, 0, -part)
      rest = rest - part
    end
    if units > part then
      kept[#kept + 1] = grant_id
      kept[#kept + 1] = units - part
    end
  end
  local used = amount - rest
  hold.allocations = kept
  hold.covered = hold.covered - used
  state.covered = state.covered - used
  return used
end

-- Write down that units of a grant, given up by a hold, end with the grant.
local function lose(state, hold, grant, units, at)
  local expired = grant.state == "e"
  grant.reserved = grant.reserved - units
  state.touched[grant.id] = grant
  hold.covered, state.covered = hold.covered - units, state.covered - units
  entries.move(state, grant.id, 0, -units)
  entries.add(state, expired and "grant.expired" or "grant.voided", {
    at = at,
    operation_id = grant.id .. (expired and ":expire:" or ":void:") .. hold.id,
    amount = units,
    subject = grant.id,
  })
end

-- Split what is left beyond `spare` units (kept for the caller) off the grants that have ended: it
-- ends with them, all of one grant's as one entry, before the entry of the closing itself.
function settlement.lose_ended(state, hold, spare, at)
  local allocations, kept, lost, ended = hold.allocations, {}, {}, {}
  for place = 1, #allocations, 2 do
    local grant_id, units = allocations[place], allocations[place + 1]
    local needed = math.min(spare, units)
    spare = spare - needed
    local grant = grants.get(state, grant_id)
    if units > needed and (grant.state == "e" or grant.state == "v") then
      if not lost[grant_id] then
        ended[#ended + 1] = grant
      end
      lost[grant_id] = (lost[grant_id] or 0) + units - needed
      units = needed
    end
    if units > 0 then
      kept[#kept + 1] = grant_id
      kept[#kept + 1] = units
    end
  end
  hold.allocations = kept
  for _, grant in ipairs(ended) do
    lose(state, hold, grant, lost[grant.id], at)
  end
end

-- Let so many units more than were held, or less, count where a hold counts.
function settlement.correct(state, hold, units)
  local counts = limits.of(state)
  if counts then
    counts.correct(state, hold.counts_at, units)
  end
end

-- Forget a hold of which `used` units were used. What is still covered flows back to its grants, last
-- taken first.
function settlement.close(state, hold, used)
  local allocations = hold.allocations
  for place = #allocations - 1, 1, -2 do
    local grant, units = grants.get(state, allocations[place]), allocations[place + 1]
    state.covered = state.covered - units
    burn_down.give(state, grant, units, units)
  end
  state.held = state.held - (hold.is_counted and 0 or hold.amount)
  settlement.correct(state, hold, used - hold.amount)
  state.holds[hold.id] = false
  state.holds_changed[hold.id] = false
  state.changes["a:" .. hold.id] = amounts.MAX
end
