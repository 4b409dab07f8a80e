--[[
transfers: units that leave one quota, and arrive in another on the terms of the grants they come from.

A part is what arrives as one grant: units, priority, expires_at. Units of grants that pay one after the
other and have the same terms are one part. So nothing lives longer for being moved.
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/burn_down"
--- @include "lib/operations"
--- @include "lib/quotas"
local transfers = {}

local PART_TERMS = "^(%-?%d+) %d+ (%d+) %d+$"

-- What may leave: what grants have left over, never what an overdraft limit would admit.
function transfers.transferable(state)
  local left = state.remaining - (state.held - state.covered) - state.debt
  return math.max(math.min(left, quotas.spendable(state)), 0)
end

-- Take `amount` units out of the grants, in burn-down order. Returns the parts, as a flat list.
function transfers.leave(state, amount)
  grants.take(state, amount, false)
  local parts, moves = {}, state.moves
  for place = 1, #moves, 3 do
    local priority, expires_at = string.match(grants.get(state, moves[place]).terms, PART_TERMS)
    local units, count = -moves[place + 1], #parts
    if count > 0 and parts[count - 1] == priority and parts[count] == expires_at then
      parts[count - 2] = parts[count - 2] + units
    else
      parts[count + 1], parts[count + 2], parts[count + 3] = units, priority, expires_at
    end
  end
  return parts
end

-- The words of the entry that tells of the parts: units priority expires_at, for each.
function transfers.text(parts)
  local words = {}
  for place = 1, #parts, 3 do
    words[place], words[place + 1], words[place + 2] = amounts.text(parts[place]), parts[place + 1], parts[place + 2]
  end
  return table.concat(words, " ")
end

-- The parts that a text tells.
function transfers.parse(text)
  local parts = {}
  for units, priority, expires_at in string.gmatch(text, "(%d+) (%-?%d+) (%d+)") do
    local count = #parts
    parts[count + 1], parts[count + 2], parts[count + 3] = tonumber(units), priority, expires_at
  end
  return parts
end

-- The error of parts that cannot arrive in a quota as the grants `<arrival_id>:1`, `:2` and so on; or nil.
function transfers.refuse(state, arrival_id, amount, parts, grants_max)
  for number = 1, #parts / 3 do
    local known = grants.get(state, arrival_id .. ":" .. amounts.text(number))
    if known and not grants.is_used_up(known) then
      return redis.error_reply("GRANT_EXISTS " .. known.id)
    end
  end
  if not grants.fit(state, #parts / 3, grants_max) then
    return redis.error_reply("TOO_MANY_GRANTS the quota may have " .. amounts.text(grants_max))
  elseif state.remaining + state.covered + state.pending + amount > amounts.MAX then
    return redis.error_reply("AMOUNT_OVERFLOW the quota would exceed 2^53 - 1")
  end
  return nil
end

-- Let parts in, as an entry; what has ended on its way ends here, and pays no debt. Returns the answer.
function transfers.arrive(state, arrival_id, parts, event)
  local now, ended, debt = amounts.text(state.now), {}, state.debt
  state.granted = "1"
  for place = 1, #parts, 3 do
    local id = arrival_id .. ":" .. amounts.text((place + 2) / 3)
    local expires_at = tonumber(parts[place + 2])
    local terms = parts[place + 1] .. " " .. now .. " " .. parts[place + 2] .. " " .. now
    local grant = { id = id, remaining = 0, reserved = 0, state = "l", next = "", terms = terms }
    state.grants[id] = grant
    if expires_at <= state.now then
      state.debt = 0
      burn_down.give(state, grant, parts[place], 0)
      state.debt, ended[#ended + 1] = debt, grant
    else
      burn_down.give(state, grant, parts[place], 0)
      debt = state.debt
      if grant.remaining > 0 then
        quotas.expect(state, "c:" .. id, expires_at)
      end
    end
  end
  event.at, event.operation_id, event.terms = state.now, arrival_id, transfers.text(parts)
  local answer = entries.add(state, "quota.transferred_in", event)
  operations.remember(state, arrival_id, answer)
  for _, grant in ipairs(ended) do
    local lost = burn_down.finish(state, grant, "e")
    entries.add(state, "grant.expired", {
      at = state.now, operation_id = grant.id .. ":expire", amount = lost, subject = grant.id,
    })
  end
  return answer
end
