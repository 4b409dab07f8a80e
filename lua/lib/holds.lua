--[[
holds: open holds, and what becomes of their covered parts.

A field of the holds hash: `amount covered expires_at [grant_id units]...`, allocations in the order
they were taken. What only the overdraft limit admitted is uncovered: amount - covered.
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
local holds = {}

function holds.get(state, hold_id)
  local known = state.holds[hold_id]
  if known == nil then
    local record = redis.call("HGET", state.keys.holds, hold_id)
    known = record and holds.parse(hold_id, record) or false
    state.holds[hold_id] = known
  end
  return known or nil
end

function holds.parse(hold_id, record)
  local words = {}
  for word in string.gmatch(record, "%S+") do
    words[#words + 1] = word
  end
  local hold = {
    id = hold_id,
    amount = tonumber(words[1]),
    covered = tonumber(words[2]),
    expires_at = tonumber(words[3]),
    allocations = {},
  }
  for place = 4, #words, 2 do
    hold.allocations[place - 3] = words[place]
    hold.allocations[place - 2] = tonumber(words[place + 1])
  end
  return hold
end

function holds.record(hold)
  local words = { amounts.text(hold.amount), amounts.text(hold.covered), amounts.text(hold.expires_at) }
  for place = 1, #hold.allocations, 2 do
    words[#words + 1] = hold.allocations[place]
    words[#words + 1] = amounts.text(hold.allocations[place + 1])
  end
  return table.concat(words, " ")
end

-- Use up to `amount` of the covered part for good, first taken first.
function holds.consume(state, hold, amount)
  local allocations, rest, kept = hold.allocations, amount, {}
  for place = 1, #allocations, 2 do
    local grant_id, units = allocations[place], allocations[place + 1]
    local part = math.min(rest, units)
    if part > 0 then
      local grant = grants.get(state, grant_id)
      grant.reserved = grant.reserved - part
      grants.touch(state, grant)
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
function holds.lose_ended(state, hold, spare, at)
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
      grants.touch(state, grant)
      hold.covered, state.covered = hold.covered - lost, state.covered - lost
      entries.move(state, grant_id, 0, -lost)
      entries.add(state, {
        kind = expired and "grant.expired" or "grant.voided",
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
function holds.close(state, hold)
  local allocations = hold.allocations
  for place = #allocations - 1, 1, -2 do
    local grant, units = grants.get(state, allocations[place]), allocations[place + 1]
    state.covered = state.covered - units
    grants.give(state, grant, units, units)
  end
  state.held = state.held - hold.amount
  state.holds[hold.id] = false
  state.holds_changed[hold.id] = hold
  state.changes["a:" .. hold.id] = amounts.MAX
end

function holds.keep(state, hold)
  state.holds[hold.id] = hold
  state.holds_changed[hold.id] = hold
end
