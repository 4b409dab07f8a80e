--[[
policies: what is said of the accounts on a call's path, for all of their quotas.

The record of an account stands in the versions hash, under the name of its quota of no type: `acme|`. Its
lines: revision, state (active, suspended, closed), since (ms), reason; and where something is said of it,
enforcement: `<quota type>=shadow` or `=enforce`, `*` for all types, words between spaces; then payers in
the same way: `<quota type>=<account>,<account>`, percent-encoded, in the order in which they are asked.

The accounts above count whatever quotas a call acts on. Who is nearest decides on enforcement and payers.
]]
local policies = {}

local STATE = "^%d+\n(%a+)\n(%d+)\n([^\n]*)"
local ENFORCEMENT = "^%d+\n%a+\n%d+\n[^\n]*\n([^\n]*)"
local PAYERS = "^%d+\n%a+\n%d+\n[^\n]*\n[^\n]*\n([^\n]*)"

-- Add the fields of an account and of those above it, unless they are there.
local function add_path(fields, name)
  local account = string.match(name, "^(.*)|")
  while account and not fields[account] do
    fields[account] = true
    fields[#fields + 1] = account .. "|"
    account = string.match(account, "^(.*)/")
  end
end

-- The fields of all accounts on the paths of the states, the nearest first, and their records by field.
local function records_of(states)
  local first = states[1]
  if not first.path then
    local keys, fields, records = first.keys, {}, {}
    for _, state in ipairs(states) do
      add_path(fields, state.name)
    end
    for place, record in ipairs(redis.call("HMGET", keys.versions, unpack(fields))) do
      records[fields[place]] = record or ""
    end
    first.path, first.records = fields, records
  end
  return first.path, first.records
end

-- The reply that tells of a closed account on the paths of the states, or else, unless `only_closed`, of a
-- suspended one; the nearest first. Nil: there is none.
function policies.barred(states, only_closed)
  local fields, records = records_of(states)
  local found
  for _, field in ipairs(fields) do
    local status, since, reason = string.match(records[field], STATE)
    local reply = { "BARRED", string.sub(field, 1, -2), status, since, reason }
    if status == "closed" then
      return reply
    elseif status == "suspended" and not only_closed and not found then
      found = reply
    end
  end
  return found
end

-- Whether an account on the path of a quota that is no part of the call yet is not active.
function policies.are_barred(states, name)
  local _, records = records_of(states)
  local keys, fields = states[1].keys, {}
  add_path(fields, name)
  for place, record in ipairs(redis.call("HMGET", keys.versions, unpack(fields))) do
    records[fields[place]] = record or ""
  end
  for _, field in ipairs(fields) do
    local status = string.match(records[field], STATE)
    if status and status ~= "active" then
      return true
    end
  end
  return false
end

-- What the nearest account on a quota's own path says of its type, or nil; `line`: where a record says it.
local function nearest(name, records, line)
  local account, kind = string.match(name, "^(.*)|([^|]*)$")
  while account do
    local said = " " .. (string.match(records[account .. "|"] or "", line) or "")
    local found = string.match(said, " " .. kind .. "=(%S*)") or string.match(said, " %*=(%S*)")
    if found then
      return found
    end
    account = string.match(account, "^(.*)/")
  end
  return nil
end

-- Mark the states of quotas in the shadow: by what is said of their accounts, else by `unenforced`, the
-- quota types of the deployment that are (a space before and after each).
function policies.mark(states, unenforced)
  local _, records = records_of(states)
  for _, state in ipairs(states) do
    local said = nearest(state.name, records, ENFORCEMENT)
    local kind = string.match(state.name, "|([^|]*)$")
    local is_usual = string.find(unenforced, " " .. kind .. " ", 1, true) ~= nil
    state.is_in_shadow = said == "shadow" or not said and is_usual
  end
end

-- The account that a percent-encoded word names.
function policies.account_of(word)
  local account = string.gsub(word, "%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end)
  return account
end

-- Who pays when a quota cannot, in order: accounts, percent-encoded. Not the quota's own.
function policies.payers_of(states, name)
  local _, records = records_of(states)
  local own, found = string.match(name, "^(.*)|"), {}
  for payer in string.gmatch(nearest(name, records, PAYERS) or "", "[^,]+") do
    if policies.account_of(payer) ~= own then
      found[#found + 1] = payer
    end
  end
  return found
end
