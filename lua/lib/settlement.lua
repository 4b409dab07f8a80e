--[[
settlement: what becomes of a hold's covered part: used, lost with its grant, or given back.
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/burn_down"
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

-- Split what is left beyond `spare` units (kept for the caller) off the grants that have ended: it
-- ends with them, each part as an entry of its own, before the entry of the closing itself.
function settlement.lose_ended(state, hold, spare, at)
  local allocations, kept = hold.allocations, {}
  for place = 1, #allocations, 2 do
    local grant_id, units = allocations[place], allocations[place + 1]
    local needed = math.min(spare, units)
    local lost = units - needed
    spare = spare - needed
    local grant = grants.get(state, grant_id)
    if lost > 0 and (grant.state == "e" or grant.state == "v") then
      local expired = grant.state == "e"
      grant.reserved = grant.reserved - lost
      state.touched[grant_id] = grant
      hold.covered, state.covered = hold.covered - lost, state.covered - lost
      entries.move(state, grant_id, 0, -lost)
      entries.add(state, expired and "grant.expired" or "grant.voided", {
        at = at,
        operation_id = grant_id .. (expired and ":expire:" or ":void:") .. hold.id,
        amount = lost,
        subject = grant_id,
      })
      units = needed
    end
    if units > 0 then
      kept[#kept + 1] = grant_id
      kept[#kept + 1] = units
    end
  end
  hold.allocations = kept
end

-- Forget a hold. What is still covered flows back to its grants, last taken first.
function settlement.close(state, hold)
  local allocations = hold.allocations
  for place = #allocations - 1, 1, -2 do
    local grant, units = grants.get(state, allocations[place]), allocations[place + 1]
    state.covered = state.covered - units
    burn_down.give(state, grant, units, units)
  end
  state.held = state.held - hold.amount
  state.holds[hold.id] = false
  state.holds_changed[hold.id] = false
  state.changes["a:" .. hold.id] = amounts.MAX
end
