--[[
policies: what is said of the accounts on a call's path, for all of their quotas.

The record of an account stands in the versions hash, under the name of its quota of no type: `acme|`. Its
lines: revision, state (active, suspended, closed), since (ms), reason. The accounts above count whatever
quotas a call acts on.
]]
local policies = {}

local RECORD = "^%d+\n(%a+)\n(%d+)\n([^\n]*)"

-- Add the fields of an account and of those above it, unless they are there.
local function add_path(fields, name)
  local account = string.match(name, "^(.*)|")
  while account and not fields[account] do
    fields[account] = true
    fields[#fields + 1] = account .. "|"
    account = string.match(account, "^(.*)/")
  end
end

-- The reply that tells of a closed account on the paths of the states, or else, unless `only_closed`, of a
-- suspended one; the nearest first. Nil: there is none.
function policies.barred(states, only_closed)
  local keys, fields, found = states[1].keys, {}, nil
  for _, state in ipairs(states) do
    add_path(fields, state.name)
  end
  local records = redis.call("HMGET", keys.versions, unpack(fields))
  for place, field in ipairs(fields) do
    local status, since, reason = string.match(records[place] or "", RECORD)
    local reply = { "BARRED", string.sub(field, 1, -2), status, since, reason }
    if status == "closed" then
      return reply
    elseif status == "suspended" and not only_closed and not found then
      found = reply
    end
  end
  return found
end
