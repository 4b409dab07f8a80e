--[[
holds: the open holds of one quota.

A field of the holds hash: `amount covered expires_at [grant_id units]...`, allocations in the order
they were taken. What only the overdraft limit admitted is uncovered: amount - covered. Of a quota with
limits the third word is `expires_at@counts_at`: where its units count in them (lib/windows); with a `c`
behind it the hold is only counted, and no part of what the quota holds. `=` and an account then say who pays
for it, percent-encoded.
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
  if not hold.expires_at then
    local expires_at, counts_at, counted, payer = string.match(words[3], "^(%d+)@(%d*)(c?)=?(%S*)$")
    hold.expires_at, hold.counts_at, hold.is_counted = tonumber(expires_at), tonumber(counts_at), counted == "c"
    hold.payer = payer ~= "" and payer or nil
  end
  for place = 4, #words, 2 do
    hold.allocations[place - 3] = words[place]
    hold.allocations[place - 2] = tonumber(words[place + 1])
  end
  return hold
end

function holds.record(hold)
  local words = { amounts.text(hold.amount), amounts.text(hold.covered), amounts.text(hold.expires_at) }
  if hold.counts_at or hold.payer then
    local counts_at, payer = hold.counts_at and amounts.text(hold.counts_at) or "", hold.payer
    words[3] = words[3] .. "@" .. counts_at .. (hold.is_counted and "c" or "") .. (payer and "=" .. payer or "")
  end
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
