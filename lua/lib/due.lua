--[[
due: what happens at an instant that has come, by the first letter of a member of the changes zset.
]]
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/burn_down"
--- @include "lib/holds"
--- @include "lib/settlement"
--- @include "lib/operations"
local due = {}

-- a: a hold expires.
function due.a(state, hold_id, at)
  local hold = holds.get(state, hold_id)
  if not hold then
    return
  end
  local amount = hold.amount
  settlement.lose_ended(state, hold, 0, at)
  settlement.close(state, hold, 0)
  local operation_id = hold_id .. ":expire"
  operations.remember(state, operation_id, entries.add(state, "hold.expired", {
    at = at, operation_id = operation_id, amount = amount, subject = hold_id,
    flags = hold.is_counted and "counted" or "",
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
  burn_down.give(state, grant, amount, 0)
  entries.add(state, "grant.started", {
    at = at, operation_id = grant_id .. ":start", amount = amount, subject = grant_id,
  })
end

-- c: a grant expires.
function due.c(state, grant_id, at)
  local grant = grants.get(state, grant_id)
  if not grant or grant.state ~= "l" or grants.is_used_up(grant) then
    return
  end
  local lost = burn_down.finish(state, grant, "e")
  entries.add(state, "grant.expired", {
    at = at, operation_id = grant_id .. ":expire", amount = lost, subject = grant_id,
  })
end
