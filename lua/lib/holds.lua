--[[
holds: the open holds of one quota.

A field of the holds hash: `amount covered expires_at [grant_id units]...`, allocations in the order
they were taken. What only the overdraft limit admitted is uncovered: amount - covered.
]]
--- @include "lib/amounts"
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

function holds.keep(state, hold)
  state.holds[hold.id] = hold
  state.holds_changed[hold.id] = holds.record(hold)
end
